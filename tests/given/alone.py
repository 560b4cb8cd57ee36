"""What a model answers to a request that has it to itself, and how sure it was of every token."""

from typing import NamedTuple

import torch

from reference.generate import generate_tokens
from reference.serving import Bytes, Request
from reference.transformer import Transformer

SURE = 1e-9
"""A choice is sure if the likeliest token leads by more than this share of the largest logit.

The logits of two computations of the same thing in fp64 agree to 1e-12 of the largest, as
`test_logits_are_those_of_the_model_alone` shows: a margin a thousand times that can't be bridged.
"""


class Alone(NamedTuple):
    """tokens, text and why it ended; as `reference.serving.Answer` has them."""

    tokens: list[int]
    text: str
    reason: str


def answered_alone(model: Transformer, request: Request) -> Alone:
    """What `generate_tokens` gives, cut where the request's stop strings say.

    Raises AssertionError if some greedy choice was not sure: then an engine may choose otherwise.
    """
    context = model.config.context
    tokens, decoder, certain = [], Bytes(), ""
    for token in generate_tokens(
        model, list(request.prompt), max_tokens=request.max_tokens, stop=request.stop_tokens,
        temperature=request.temperature, seed=request.seed,
    ):  # fmt: skip
        tokens.append(token)
        certain += decoder.push(token)
        if any(s in certain for s in request.stop_strings):
            break
    if request.temperature == 0:
        assert margin(model, request.prompt, tokens) > SURE, "no choice must be a near tie"
    if tokens[-1] in request.stop_tokens:
        reason = "stop token"
    elif any(s in certain for s in request.stop_strings):
        reason = "stop string"
    else:
        reason = "length" if len(tokens) == request.max_tokens else "context"
        assert reason == "length" or len(request.prompt) + len(tokens) - 1 == context
    text = certain + decoder.rest()  # an unfinished character shows as such, at the very end
    ends = [text.find(s) for s in request.stop_strings if s in text]
    return Alone(tokens, text[: min(ends, default=len(text))], reason)


@torch.no_grad()
def margin(model: Transformer, prompt, tokens) -> float:
    """By how much the chosen tokens led, at least, as a share of the largest logit there was."""
    known = torch.tensor([[*prompt, *tokens[:-1]]])
    logits = model(known)[0, len(prompt) - 1 :]
    first, second = logits.topk(2).values.unbind(-1)
    assert logits.argmax(-1).tolist() == tokens
    return float((first - second).min() / logits.abs().max())

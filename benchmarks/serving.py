"""Serving a real model on this CPU: many requests at once, and prompts cut into chunks.

    python -m benchmarks serving [--quick] [--out FILE]

SmolLM2-135M-Instruct (after `make model`), fp32.

throughput   the same 8 questions, the same number of new tokens for each, greedily: our engine with
             all 8 at once; one after another with `reference.generate`; transformers' continuous
             batching, and its batched `generate`. All have the same weights, in the same memory.
             They take turns, and each side's tokens are compared with ours.
chunks       a request is being answered when a prompt of 4,000 tokens arrives: the gaps between its
             tokens from then until the newcomer's first token, with chunked prefill and without.
"""

import math
import statistics
from argparse import Namespace
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from benchmarks.model import (
    as_transformers,
    identity,
    or_what_to_install,
    read_model,
    share_angles,
)
from benchmarks.protocol import RESULTS, save
from benchmarks.timing import HostClock, median_and_quartiles, take_turns
from reference.flash_decoding_cpu import flash_decode_threads
from reference.generate import generate_tokens
from reference.pretrained import load
from reference.serving import Engine, Request, percentile
from reference.serving.threads import THREADS
from reference.transformer import Transformer

QUESTIONS = (
    "Why is the sky blue?",
    "Write a haiku about a train that arrives too late.",
    "What is 17 plus 25? Show your work.",
    "Name three rivers in Europe, and the seas that they flow into.",
    "What does a compiler do? Answer in two sentences.",
    "Give me a recipe for pancakes for four people who do not eat eggs.",
    "Who was Ada Lovelace?",
    "Explain the difference between a list and a tuple in Python to somebody who knows C.",
)
PAGE = 16


class Sizes(NamedTuple):
    """How much is done. rounds: of all contestants; lead: tokens written when the prompt comes."""

    new_tokens: int
    rounds: int
    long_prompt: int
    chunk: int
    lead: int


FULL = Sizes(new_tokens=16, rounds=3, long_prompt=4000, chunk=128, lead=8)
QUICK = Sizes(new_tokens=4, rounds=1, long_prompt=40, chunk=8, lead=2)

PROTOCOL = (
    "fp32, greedy, no stop tokens: every request gets exactly `new_tokens`; requests are all there "
    "at the start; a contestant's time is from then to the last token, prefill included, an engine "
    "or a cache made within it; contestants take turns in one process; tokens_per_s = new tokens "
    "of all requests / median time; ratio = median over rounds of theirs/ours; same_tokens: "
    "requests whose tokens are all the engine's. engine: attention by reference.serving.threads, "
    "pages of 16, no page known from an earlier round. one after another: reference.generate with "
    "flash_decode_threads and a contiguous cache. transformers: LlamaForCausalLM, sdpa; "
    "generate_batch without warm-up, with as many tokens of pages as the engine; generate with "
    "left padding. chunks: gaps between tokens of one request (ms) from the arrival of a prompt of "
    "`long_prompt` tokens to that prompt's first token."
)


def prompts(quick: bool) -> list[list[int]]:
    """The questions as tokens; in a quick run their bytes."""
    if quick:
        return [list(question.encode())[: 6 + i] for i, question in enumerate(QUESTIONS)]
    tokenizer = load().tokenizer
    return [tokenizer.chat(question) for question in QUESTIONS]


# ---- throughput: everyone answers the same requests ----------------------------------------------


def pages_for(asked: Sequence[Sequence[int]], new_tokens: int) -> int:
    """Pages for all requests at once, to their end."""
    return sum(-(-(len(prompt) + new_tokens) // PAGE) for prompt in asked)


def by_engine(model: Transformer, asked: Sequence[list[int]], new: int) -> list[list[int]]:
    """All at once, by our engine."""
    engine = Engine(
        model,
        num_pages=pages_for(asked, new) + len(asked),
        page_size=PAGE,
        max_running=len(asked),
        step_tokens=256,
        attention=THREADS,
    )
    answers = engine.run([Request(prompt, max_tokens=new) for prompt in asked])
    return [answer.tokens for answer in answers]


def one_by_one(model: Transformer, asked: Sequence[list[int]], new: int) -> list[list[int]]:
    """One after another, by `reference.generate`."""
    return [
        [*generate_tokens(model, prompt, max_tokens=new, attend=flash_decode_threads)]
        for prompt in asked
    ]


def by_generate_batch(peer: Any, asked: Sequence[list[int]], new: int) -> list[list[int]]:
    """All at once, by transformers' continuous batching. Raises RuntimeError if it gives up."""
    from transformers import ContinuousBatchingConfig

    pages = ContinuousBatchingConfig(
        page_size=PAGE, num_blocks=pages_for(asked, new) + len(asked), max_batch_tokens=256
    )
    found = peer.generate_batch(
        inputs=list(asked),
        generation_config=_greedily(peer, new),
        continuous_batching_config=pages,
        warmup=False,
    )
    by_prompt = {tuple(output.prompt_ids): output for output in found.values()}
    outputs = [by_prompt[tuple(prompt)] for prompt in asked]
    for output in outputs:
        if output.error or len(output.generated_tokens) != new:
            raise RuntimeError(f"generate_batch stopped early: {output.error}")
    return [list(output.generated_tokens) for output in outputs]


def by_generate(peer: Any, asked: Sequence[list[int]], new: int) -> list[list[int]]:
    """All at once, by transformers' `generate`, shorter prompts padded on the left."""
    longest = max(map(len, asked))
    tokens = torch.zeros(len(asked), longest, dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(asked):
        tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    found = peer.generate(tokens, attention_mask=mask, generation_config=_greedily(peer, new))
    return found[:, longest:].tolist()


def _greedily(peer: Any, new: int) -> Any:
    """Exactly so many tokens: what would end an answer is a token that there isn't."""
    from transformers import GenerationConfig

    none = peer.config.vocab_size
    return GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=none, pad_token_id=0)


def throughput(
    model: Transformer, peer: Any, asked: Sequence[list[int]], sizes: Sizes
) -> list[dict[str, Any]]:
    """A row per contestant. Times in ms."""
    new, found = sizes.new_tokens, {}
    contestants: dict[str, Callable[[], list[list[int]]]] = {
        "engine": lambda: by_engine(model, asked, new),
        "one after another": lambda: one_by_one(model, asked, new),
        "transformers generate_batch": lambda: by_generate_batch(peer, asked, new),
        "transformers generate": lambda: by_generate(peer, asked, new),
    }
    bar = tqdm(total=len(contestants) * sizes.rounds, desc="throughput", unit="run")

    def noted(name: str) -> None:
        found[name] = contestants[name]()
        bar.update()

    steps = {name: (lambda _, name=name: noted(name)) for name in contestants}
    with bar:
        times = take_turns(steps, HostClock(), sizes.rounds, warm_up=0, warm_up_ms=0.0)
    return [
        {
            "part": "throughput",
            "contestant": name,
            "requests": len(asked),
            "prompt_tokens": sum(map(len, asked)),
            "new_tokens": new,
            "rounds": len(times[name]),
            **median_and_quartiles("ms", times[name]),
            "tokens_per_s": round(1e3 * new * len(asked) / statistics.median(times[name]), 2),
            "ratio": round(
                statistics.median(a / b for a, b in zip(times[name], times["engine"], strict=True)),
                3,
            ),
            "same_tokens": sum(a == b for a, b in zip(found[name], found["engine"], strict=True)),
        }
        for name in contestants
    ]


# ---- chunks: what a long prompt does to someone else's answer ------------------------------------


def gaps_meanwhile(model: Transformer, prompt: list[int], long: list[int], sizes: Sizes,
                   step_tokens: int | None) -> tuple[list[float], float]:  # fmt: skip
    """The gaps of one answer while a long prompt is computed, and that prompt's TTFT; seconds."""
    most = len(prompt) + len(long) // (step_tokens or len(long)) + sizes.lead + 64
    engine = Engine(
        model,
        num_pages=-(-most // PAGE) + -(-len(long) // PAGE) + 4,
        page_size=PAGE,
        max_running=2,
        step_tokens=step_tokens,
        attention=THREADS,
    )
    writer = engine.submit(Request(prompt, max_tokens=most - len(prompt)))
    for _ in range(sizes.lead):
        engine.step()
    newcomer = engine.submit(Request(long, max_tokens=1))
    while not engine.answers[newcomer].reason:
        engine.step()
    trace = engine.answers[writer].trace
    return trace.gaps[sizes.lead - 1 :], engine.answers[newcomer].trace.ttft


def chunks(model: Transformer, asked: Sequence[list[int]], sizes: Sizes) -> list[dict[str, Any]]:
    """A row with chunked prefill and one without. Times in ms."""
    long = [token for prompt in asked for token in prompt]
    long = (long * math.ceil(sizes.long_prompt / len(long)))[: sizes.long_prompt]
    rows = []
    for step_tokens in tqdm((sizes.chunk, None), desc="chunks", unit="run"):
        gaps, ttft = gaps_meanwhile(model, asked[0], long, sizes, step_tokens)
        rows.append({
            "part": "chunks",
            "step_tokens": step_tokens,
            "long_prompt": len(long),
            "gaps": len(gaps),
            "largest_gap_ms": round(1e3 * max(gaps), 1),
            "p50_gap_ms": round(1e3 * percentile(gaps, 50), 1),
            "long_ttft_ms": round(1e3 * ttft, 1),
        })  # fmt: skip
    for row in rows:
        row["share_of_whole"] = round(row["largest_gap_ms"] / rows[-1]["largest_gap_ms"], 4)
    return rows


# ---- the run -------------------------------------------------------------------------------------


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text."""
    lines = [f"{'':<30}{'tokens/s':>10}{'theirs / ours':>16}{'same tokens':>14}"]
    for r in rows:
        if r["part"] == "throughput":
            same = f"{r['same_tokens']}/{r['requests']}"
            lines.append(
                f"{r['contestant']:<30}{r['tokens_per_s']:>10.2f}{r['ratio']:>15.2f}×{same:>14}"
            )
    lines.append("")
    for r in rows:
        if r["part"] == "chunks":
            cut = "in one piece" if r["step_tokens"] is None else f"{r['step_tokens']} a step"
            lines.append(
                f"{r['long_prompt']:,} tokens arrive, {cut:<14} largest gap "
                f"{r['largest_gap_ms']:>9,.0f} ms  ({r['share_of_whole']:.3f} of the whole), "
                f"their first token after {r['long_ttft_ms']:,.0f} ms"
            )
    return "\n".join(lines)


def main(options: Namespace) -> None:
    """Measure both parts, print the table, write the record."""
    with or_what_to_install():
        model = read_model(options.quick)
        asked = prompts(options.quick)
    sizes = QUICK if options.quick else FULL
    peer = as_transformers(model)
    share_angles(model, peer)
    rows = chunks(model, asked, sizes)
    rows = throughput(model, peer, asked, sizes) + rows
    print(table(rows))
    path = Path(options.out) if options.out else RESULTS / "serving.json"
    save(path, PROTOCOL, rows, model=identity(options.quick), transformers=version("transformers"))
    print(f"written: {path}")

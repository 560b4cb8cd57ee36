"""Generate text token by token, and time its two phases separately.

    prefill   the whole prompt in one pass: its keys and values fill the cache     → first token
    decode    one token in, one out, over and over, each step reading all the cache → the others

The time to first token (TTFT) is that of prefill; the time per output token (TPOT) is that of a
decode step. A user experiences the first as waiting and the second as the speed of writing.

The small model's tokens are bytes, and `generate` takes and yields those. `generate_tokens` does
the same for any vocabulary. From a terminal (`make model` fetches the model, once):

    python -m reference.generate "Why is the sky blue?" --model smollm2 --attend threads
"""

import codecs
import itertools
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from reference.attention import attention_with_cache
from reference.transformer import Attend, Config, KVCache, Transformer


@dataclass
class Timing:
    """When the tokens of one generation arrived; filled in as it runs. Times are in milliseconds.

    ttft_ms: from the prompt to the first token; tpot_ms: for each later token, its decode step
    alone: what the caller does between two tokens is not counted. stopped: "stop token", "length"
    or "context" (the cache is full), set with the last token; "" before that, or if abandoned.
    unit: what a token is; `generate`, whose tokens are bytes, says "byte" instead.
    """

    prompt_tokens: int = 0
    ttft_ms: float = 0.0
    tpot_ms: list[float] = field(default_factory=list)
    stopped: str = ""
    unit: str = "token"

    @property
    def prompt_bytes(self) -> int:
        """The length of the prompt, where a token is a byte."""
        return self.prompt_tokens

    @property
    def median_tpot_ms(self) -> float:
        """Median time of a decode step; nan if there was none."""
        return statistics.median(self.tpot_ms) if self.tpot_ms else float("nan")

    @property
    def tokens_per_second(self) -> float:
        """Decode steps per second spent in decode steps; nan if there was none."""
        return 1000 * len(self.tpot_ms) / sum(self.tpot_ms) if self.tpot_ms else float("nan")

    def __str__(self) -> str:
        return (
            f"TTFT {self.ttft_ms:.1f} ms for {self.prompt_tokens} {self.unit}s; TPOT "
            f"{self.median_tpot_ms:.2f} ms (median of {len(self.tpot_ms)}); "
            f"{self.tokens_per_second:.1f} tokens/s; stopped: {self.stopped or 'not yet'}"
        )


def choose(
    logits: Tensor, temperature: float = 0.0, generator: torch.Generator | None = None
) -> int:
    """The next token from logits (vocabulary,): the likeliest at temperature 0, otherwise drawn.

    Drawn from softmax(logits / temperature), in fp64 on the CPU: a seed gives the same token on
    any machine that gives the same logits. Raises ValueError for a negative temperature.
    """
    if temperature < 0:
        raise ValueError(f"temperature must be at least 0; got {temperature}")
    if temperature == 0:
        return int(logits.argmax())
    p = torch.softmax(logits.double().cpu() / temperature, dim=-1)
    return int(torch.multinomial(p, 1, generator=generator))


@torch.no_grad()
def prefill(
    model: Transformer,
    tokens: Tensor,
    cache: KVCache,
    attend: Attend = attention_with_cache,
    chunk: int | None = None,
) -> Tensor:
    """Put the prompt, int64 (B, L), into the cache; return the logits (B, vocabulary) after it.

    chunk: tokens per pass, to bound the memory of a pass or to let others decode in between;
    None: all at once. The result is the same. Raises ValueError for a chunk below 1.
    """
    check_chunk(chunk)
    for part in tokens.split(tokens.shape[1] if chunk is None else chunk, dim=1):
        logits = model(part, cache, attend)
    return logits[:, -1]


def generate(
    model: Transformer,
    prompt: bytes,
    *,
    max_bytes: int = 128,
    stop: bytes = b"",
    temperature: float = 0.0,
    seed: int = 0,
    attend: Attend = attention_with_cache,
    prefill_attend: Attend | None = None,
    prefill_chunk: int | None = None,
    make_cache: Callable[[int], KVCache] | None = None,
    timing: Timing | None = None,
) -> Iterator[bytes]:
    """Continue the prompt; a generator that yields each byte as soon as it is known.

    Ends after max_bytes; or after a byte that is in `stop`, which is still yielded; or when the
    model's context is full. temperature: 0 takes the likeliest byte, above 0 it draws with `seed`.
    attend: attention for decode steps; prefill_attend: for the prompt (None: the same). make_cache:
    given a capacity in tokens, returns an empty cache for one row. timing: a `Timing` to fill in.

    Raises, when called and not at the first byte, ValueError for an empty prompt or one longer
    than the context, max_bytes below 1, or a negative temperature; TypeError for str.

    >>> b"".join(generate(model, b"The last query sees", stop=b".\\n"))  # doctest: +SKIP
    b' the last key.'
    """
    _check_text(prompt, stop, model.config.context)
    timing = Timing() if timing is None else timing
    timing.unit = "byte"
    check_limits("max_bytes", max_bytes, temperature)
    tokens = generate_tokens(
        model,
        list(prompt),
        max_tokens=max_bytes,
        stop=set(stop),
        temperature=temperature,
        seed=seed,
        attend=attend,
        prefill_attend=prefill_attend,
        prefill_chunk=prefill_chunk,
        make_cache=make_cache,
        timing=timing,
    )
    return (bytes([token]) for token in tokens)


def generate_tokens(
    model: Transformer,
    prompt: Sequence[int],
    *,
    max_tokens: int = 128,
    stop: Collection[int] = (),
    temperature: float = 0.0,
    seed: int = 0,
    attend: Attend = attention_with_cache,
    prefill_attend: Attend | None = None,
    prefill_chunk: int | None = None,
    make_cache: Callable[[int], KVCache] | None = None,
    timing: Timing | None = None,
) -> Iterator[int]:
    """Continue a prompt of tokens; as `generate`, for any vocabulary. Yields one token at a time.

    prompt, stop: numbers from 0 up to the vocabulary's size; a token in `stop` is still yielded.
    Raises ValueError, when called, as `generate` does, and for tokens outside the vocabulary.
    """
    check_prompt(prompt, model.config)
    check_limits("max_tokens", max_tokens, temperature)
    check_chunk(prefill_chunk)
    capacity = min(len(prompt) + max_tokens, model.config.context)
    cache = (make_cache or partial(own_cache, model))(capacity)
    generator = torch.Generator().manual_seed(seed)
    timing = Timing() if timing is None else timing

    def advance(part: Sequence[int], attend: Attend) -> int:
        tokens = torch.tensor([list(part)], device=model.embedding.weight.device)
        logits = prefill(model, tokens, cache, attend, prefill_chunk)
        return choose(logits[0], temperature, generator)

    def ending(token: int, count: int) -> str:
        if token in stop:
            return f"stop {timing.unit}"
        return "length" if count == max_tokens else "context" if cache.room == 0 else ""

    first = partial(advance, attend=prefill_attend or attend)
    return _stream(first, partial(advance, attend=attend), ending, prompt, timing)


def own_cache(model: Transformer, capacity: int) -> KVCache:
    """An empty cache for one row, in the dtype and on the device of the model's weights."""
    weight = model.embedding.weight
    return KVCache(model.config, 1, capacity, dtype=weight.dtype, device=weight.device)


def _stream(
    first: Callable[[Sequence[int]], int],
    later: Callable[[Sequence[int]], int],
    ending: Callable[[int, int], str],
    prompt: Sequence[int],
    timing: Timing,
) -> Iterator[int]:
    """Prefill once, then decode; `choose` returns a Python int, so a GPU has finished by then."""
    timing.prompt_tokens, timing.tpot_ms, timing.stopped = len(prompt), [], ""
    began = time.perf_counter()
    token = first(prompt)
    timing.ttft_ms = 1000 * (time.perf_counter() - began)
    for count in itertools.count(1):
        timing.stopped = ending(token, count)
        yield token
        if timing.stopped:
            return
        began = time.perf_counter()
        token = later([token])
        timing.tpot_ms.append(1000 * (time.perf_counter() - began))


def check_limits(name: str, most: int, temperature: float) -> None:
    """Raise ValueError for fewer than one token, or a negative temperature."""
    if most < 1 or temperature < 0:
        raise ValueError(
            f"{name} must be at least 1 and temperature at least 0; got {most} and {temperature}"
        )


def check_chunk(chunk: int | None) -> None:
    """Raise ValueError for a chunk of fewer than one token."""
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1; got {chunk}")


def _check_text(prompt: bytes, stop: bytes, context: int) -> None:
    for name, text in (("prompt", prompt), ("stop", stop)):
        if not isinstance(text, bytes):
            raise TypeError(f"{name} must be bytes (text.encode()); got {type(text).__name__}")
    if not 1 <= len(prompt) <= context:
        raise ValueError(f"prompt must have 1…{context} bytes; got {len(prompt)}")


def check_prompt(prompt: Sequence[int], config: Config) -> None:
    """Raise ValueError for a prompt that is empty, too long, or not of the vocabulary."""
    if not 1 <= len(prompt) <= config.context:
        raise ValueError(f"prompt must have 1…{config.context} tokens; got {len(prompt)}")
    if not 0 <= min(prompt) <= max(prompt) < config.vocabulary:
        raise ValueError(
            f"tokens must lie in 0…{config.vocabulary - 1}; got {min(prompt)} to {max(prompt)}"
        )


def as_text(stream: Iterable[bytes]) -> Iterator[str]:
    """Turn bytes into characters as they arrive: one of several bytes appears with its last.

    What is not UTF-8 becomes the replacement character, and so does an unfinished end.

    >>> list(as_text([b"a", b"\\xe2", b"\\x88", b"\\x9a"]))
    ['a', '√']
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for piece in stream:
        if text := decoder.decode(piece):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


if __name__ == "__main__":
    from reference.pretrained.terminal import main

    raise SystemExit(main())

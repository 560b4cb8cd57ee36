"""Generate text byte by byte, and time its two phases separately.

    prefill   the whole prompt in one pass: its keys and values fill the cache   → first byte
    decode    one byte in, one byte out, over and over, each reading all the cache → the others

The time to first token (TTFT) is that of prefill; the time per output token (TPOT) is that of a
decode step. A user experiences the first as waiting and the second as the speed of writing.
"""

import codecs
import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from reference.attention import attention_with_cache
from reference.transformer import Attend, KVCache, Transformer


@dataclass
class Timing:
    """When the bytes of one generation arrived; filled in as it runs. Times are in milliseconds.

    ttft_ms: from the prompt to the first byte; tpot_ms: for each later byte, its decode step
    alone: what the caller does between two bytes is not counted. stopped: "stop byte", "length" or
    "context" (the cache is full), set with the last byte; "" before that, or if abandoned.
    """

    prompt_bytes: int = 0
    ttft_ms: float = 0.0
    tpot_ms: list[float] = field(default_factory=list)
    stopped: str = ""

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
            f"TTFT {self.ttft_ms:.1f} ms for {self.prompt_bytes} bytes; TPOT "
            f"{self.median_tpot_ms:.2f} ms (median of {len(self.tpot_ms)}); "
            f"{self.tokens_per_second:.0f} tokens/s; stopped: {self.stopped or 'not yet'}"
        )


def choose(
    logits: Tensor, temperature: float = 0.0, generator: torch.Generator | None = None
) -> int:
    """The next byte from logits (vocabulary,): the likeliest at temperature 0, otherwise drawn.

    Drawn from softmax(logits / temperature), in fp64 on the CPU: a seed gives the same byte on
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
    _check_chunk(chunk)
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
    if max_bytes < 1 or temperature < 0:
        raise ValueError(
            "max_bytes must be at least 1 and temperature at least 0; got "
            f"{max_bytes} and {temperature}"
        )
    _check_chunk(prefill_chunk)
    cache = (make_cache or partial(own_cache, model))(
        min(len(prompt) + max_bytes, model.config.context)
    )
    generator = torch.Generator().manual_seed(seed)

    def advance(text: bytes, attend: Attend) -> int:
        tokens = torch.tensor([list(text)], device=model.embedding.weight.device)
        logits = prefill(model, tokens, cache, attend, prefill_chunk)
        return choose(logits[0], temperature, generator)

    def ending(byte: int, count: int) -> str:
        if byte in stop:
            return "stop byte"
        return "length" if count == max_bytes else "context" if cache.room == 0 else ""

    first = partial(advance, attend=prefill_attend or attend)
    timing = Timing() if timing is None else timing
    return _stream(first, partial(advance, attend=attend), ending, prompt, timing)


def own_cache(model: Transformer, capacity: int) -> KVCache:
    """An empty cache for one row, in the dtype and on the device of the model's weights."""
    weight = model.embedding.weight
    return KVCache(model.config, 1, capacity, dtype=weight.dtype, device=weight.device)


def _stream(
    first: Callable[[bytes], int],
    later: Callable[[bytes], int],
    ending: Callable[[int, int], str],
    prompt: bytes,
    timing: Timing,
) -> Iterator[bytes]:
    """Prefill once, then decode; `choose` returns a Python int, so a GPU has finished by then."""
    timing.prompt_bytes, timing.tpot_ms, timing.stopped = len(prompt), [], ""
    began = time.perf_counter()
    byte = first(prompt)
    timing.ttft_ms = 1000 * (time.perf_counter() - began)
    for count in itertools.count(1):
        timing.stopped = ending(byte, count)
        yield bytes([byte])
        if timing.stopped:
            return
        began = time.perf_counter()
        byte = later(bytes([byte]))
        timing.tpot_ms.append(1000 * (time.perf_counter() - began))


def _check_chunk(chunk: int | None) -> None:
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1; got {chunk}")


def _check_text(prompt: bytes, stop: bytes, context: int) -> None:
    for name, text in (("prompt", prompt), ("stop", stop)):
        if not isinstance(text, bytes):
            raise TypeError(f"{name} must be bytes (text.encode()); got {type(text).__name__}")
    if not 1 <= len(prompt) <= context:
        raise ValueError(f"prompt must have 1…{context} bytes; got {len(prompt)}")


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

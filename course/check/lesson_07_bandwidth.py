"""Exercise 7.3: the bandwidth that a decode step achieved, from its shapes and its time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator

from course.check.draw import integer
from course.check.spec import Exercise, Mistake, Property, Seen, describe_call

NAMES = ("GB/s", "share")
Reached = tuple[float, float]


def of_tensors(
    B: int, Hq: int, Hkv: int, Lk: int, D: int, bytes_each: int, us: float, peak: float
) -> Reached:
    """Another right answer: ask tensors without memory how large K and V would be."""
    dtype = {1: torch.int8, 2: torch.float16, 4: torch.float32}[bytes_each]
    k, v = (torch.empty(B, Lk, Hkv, D, dtype=dtype, device="meta") for _ in "kv")
    rate = (k.nbytes + v.nbytes) / (us * 1e-6)
    return rate / 1e9, rate / (peak * 1e9)


def _seen(answer: Callable, *call: float) -> Seen:
    # about ten fp32 roundings (6e-8 each), in case an answer computes in it
    try:
        return Seen.of(answer, call, wanted=of_tensors(*call), names=NAMES, atol=0.0, rtol=1e-6)
    except (AssertionError, ValueError) as error:  # every refusal is worded differently
        refusal = ValueError("refused")
        refusal.add_note(describe_call(answer, call, {}))
        raise refusal from error


def _by_hand(answer: Callable, rng: Generator) -> list[Seen]:
    return [
        _seen(answer, 1, 2, 1, 1000, 50, 2, 2.0, 400.0),
        _seen(answer, 1, 16, 2, 65536, 128, 2, 64.4, 2039.0),
    ]


def _ungrouped(answer: Callable, rng: Generator) -> Seen:
    heads = integer(rng, 2, 16)
    return _seen(answer, 1, heads, heads, integer(rng, 999, 9999), 64, 2, 50.5, 900.0)


def _grouped(answer: Callable, rng: Generator) -> Seen:
    Hkv, G = integer(rng, 2, 8), integer(rng, 2, 8)
    return _seen(answer, 1, G * Hkv, Hkv, integer(rng, 999, 9999), 128, 2, 20.0, 3350.0)


def _batch(answer: Callable, rng: Generator) -> Seen:
    return _seen(answer, integer(rng, 2, 64), 32, 8, 4096, 128, 2, 200.0, 4800.0)


def _dtypes(answer: Callable, rng: Generator) -> list[Seen]:
    Lk = integer(rng, 999, 9999)
    return [_seen(answer, 1, 32, 8, Lk, 128, each, 30.0, 2039.0) for each in (1, 4)]


def _times(answer: Callable, rng: Generator) -> list[Seen]:
    us = [integer(rng, 2, 9) + 0.25, 1000.0 * integer(rng, 5, 50)]
    return [_seen(answer, 1, 32, 8, 8192, 128, 2, t, 2039.0) for t in us]


def _short(answer: Callable, rng: Generator) -> Seen:
    return _seen(answer, 1, 64, 8, integer(rng, 1, 8), 128, 2, 12.0, 2039.0)


def reached(
    B: int,
    Hq: int,
    Hkv: int,
    Lk: int,
    D: int,
    bytes_each: int,
    us: float,
    peak: float,
    wrong: str = "",
) -> Reached:
    """The bandwidth and its share of the peak, with at most one catalogued fault."""
    heads = Hq if wrong == "by query heads" else Hkv
    tensors = 1 if wrong == "K alone" else 2
    moved = float(tensors * (1 if wrong == "no batch" else B) * heads * Lk * D * bytes_each)
    giga = 2**30 if wrong == "GiB" else 1e9
    rate = moved / (us * 1e-6) / giga
    rate *= {"MB/s": 1e3, "bytes/s": 1e9}.get(wrong, 1.0)
    if wrong == "both capped":
        rate = min(rate, peak)
    share = rate / peak
    if wrong == "refused" and share > 1:
        raise ValueError("faster than the peak")
    if wrong == "share capped":
        share = min(1.0, share)
    if wrong == "per cent":
        share *= 100
    return (share, rate) if wrong == "swapped" else (rate, share)


def _fault(name: str) -> Callable:
    def wrong_bandwidth(B, Hq, Hkv, Lk, D, bytes_each, us, peak):
        return reached(B, Hq, Hkv, Lk, D, bytes_each, us, peak, wrong=name)

    return wrong_bandwidth


TOLD = (
    (
        "by query heads",
        "K and V are counted once per **query** head. The heads of a group share a KV head, whose "
        "keys need to be read only once: counting them G times makes a slow kernel look good.",
    ),
    (
        "K alone",
        "Half the bytes are missing: keys **and** values are read.",
    ),
    (
        "no batch",
        "B does not appear: every user has their own cache.",
    ),
    (
        "MB/s",
        "The rate is in MB/s, since bytes per µs are 10⁶ bytes per second. It should be in GB/s, "
        "like `peak`.",
    ),
    (
        "bytes/s",
        "The rate is in bytes per second. It should be in GB/s, like `peak`.",
    ),
    (
        "GiB",
        "Almost: here a GB is 10⁹ bytes, as in data sheets, not 2³⁰.",
    ),
    (
        "swapped",
        "The two are swapped: the rate comes first, then the share.",
    ),
    (
        "per cent",
        "The share is in per cent. Return a fraction instead: 1 is all of the peak.",
    ),
    (
        "share capped",
        "The share is capped at 1. If it comes out above 1, return it as it is: either the bytes "
        "or the time are wrong, or a cache delivered the bytes, and that is worth knowing.",
    ),
    (
        "both capped",
        "The rate is capped at `peak`, and so the share at 1. Return what the division gives, even "
        "if it can't be true: it is a sign that one of the numbers given was wrong.",
    ),
    (
        "refused",
        "A rate above `peak` raises an error in your answer. Return it instead: what to make of "
        "it is up to the caller.",
    ),
)

BANDWIDTH = Exercise(
    id="7.3",
    name="bandwidth",
    title="How much of the memory was used?",
    section="3 · An idle SM is lost bandwidth",
    solution_name="achieved_bandwidth",
    properties=(
        Property("by hand", "the two examples of the table", _by_hand),
        Property("ungrouped", "one KV head per query head", _ungrouped),
        Property("grouped", "G > 1: each KV head once", _grouped),
        Property("batch", "several users", _batch),
        Property("bytes each", "1 and 4 bytes per number", _dtypes),
        Property("times", "a few µs (even above the peak), and many", _times),
        Property("short", "hardly any keys: only K and V count", _short),
    ),
    mistakes=tuple(Mistake(name, says, _fault(name)) for name, says in TOLD),
    alternative=of_tensors,
)

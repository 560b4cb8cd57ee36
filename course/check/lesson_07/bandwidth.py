"""Exercise 7.3: the bandwidth that a decode step achieved, from its shapes and its time."""

import torch

from course.check.draw import integer
from course.check.seen import Seen, describe_call
from course.check.spec import Exercise, also_right, holds, right, slip


@right
def achieved_bandwidth(B, Hq, Hkv, Lk, D, bytes_each, us, peak):
    read = 2 * B * Hkv * Lk * D * bytes_each  # bytes of K and V, each KV head once
    rate = read / (us * 1e-6) / 1e9
    return rate, rate / peak


@also_right
def of_tensors(B, Hq, Hkv, Lk, D, bytes_each, us, peak):
    """Asks tensors without memory how large K and V would be."""
    dtype = {1: torch.int8, 2: torch.float16, 4: torch.float32}[bytes_each]
    k, v = (torch.empty(B, Lk, Hkv, D, dtype=dtype, device="meta") for _ in "kv")
    rate = (k.nbytes + v.nbytes) / (us * 1e-6)
    return rate / 1e9, rate / (peak * 1e9)


def seen(answer, *call):
    # about ten fp32 roundings (6e-8 each), in case an answer computes in it
    near = {"names": ("GB/s", "share"), "atol": 0.0, "rtol": 1e-6}
    try:
        return Seen.of(answer, call, wanted=of_tensors(*call), **near)
    except (AssertionError, ValueError) as error:  # every refusal is worded differently
        refusal = ValueError("refused")
        refusal.add_note(describe_call(answer, call, {}))
        raise refusal from error


@holds("the two examples of the table")
def by_hand(answer, rng):
    return [
        seen(answer, 1, 2, 1, 1000, 50, 2, 2.0, 400.0),
        seen(answer, 1, 16, 2, 65536, 128, 2, 64.4, 2039.0),
    ]


@holds("one KV head per query head")
def ungrouped(answer, rng):
    heads = integer(rng, 2, 16)
    return seen(answer, 1, heads, heads, integer(rng, 999, 9999), 64, 2, 50.5, 900.0)


@holds("G > 1: each KV head once")
def grouped(answer, rng):
    Hkv, G = integer(rng, 2, 8), integer(rng, 2, 8)
    return seen(answer, 1, G * Hkv, Hkv, integer(rng, 999, 9999), 128, 2, 20.0, 3350.0)


@holds("several users")
def batch(answer, rng):
    D = 8 * integer(rng, 5, 15)
    return seen(answer, integer(rng, 2, 64), 33, 11, 4099, D, 2, 200.0, 4800.0)


@holds("1 and 4 bytes per number")
def bytes_each(answer, rng):
    Lk = integer(rng, 999, 9999)
    return [seen(answer, 1, 32, 8, Lk, 128, each, 30.0, 2039.0) for each in (1, 4)]


@holds("a few µs (even above the peak), and many")
def times(answer, rng):
    us = [integer(rng, 2, 9) + 0.25, 1000.0 * integer(rng, 5, 50)]
    return [seen(answer, 1, 32, 8, 8192, 128, 2, t, 2039.0) for t in us]


@holds("hardly any keys: only K and V count")
def short(answer, rng):
    return seen(answer, 1, 64, 8, integer(rng, 1, 8), 128, 2, 12.0, 2039.0)


slip(
    "by query heads",
    "K and V are counted once per **query** head. The heads of a group share a KV head, whose keys "
    "need to be read only once: counting them G times makes a slow kernel look good.",
    ("B * Hkv", "B * Hq"),
)
slip("K alone", "Half the bytes are missing: keys **and** values are read.", ("2 * B", "B"))
slip("no batch", "B does not appear: every user has their own cache.", ("2 * B", "2"))
slip(
    "MB/s",
    "The rate is in MB/s, since bytes per µs are 10⁶ bytes per second. It should be in GB/s, like "
    "`peak`.",
    ("1e9", "1e6"),
)
slip(
    "bytes/s", "The rate is in bytes per second. It should be in GB/s, like `peak`.", (" / 1e9", "")
)
slip("GiB", "Almost: here a GB is 10⁹ bytes, as in data sheets, not 2³⁰.", ("1e9", "2**30"))
slip(
    "swapped",
    "The two are swapped: the rate comes first, then the share.",
    ("rate, rate / peak", "rate / peak, rate"),
)
slip(
    "per cent",
    "The share is in per cent. Return a fraction instead: 1 is all of the peak.",
    ("rate / peak", "100 * rate / peak"),
)
slip(
    "share capped",
    "The share is capped at 1. If it comes out above 1, return it as it is: either the bytes or "
    "the time are wrong, or a cache delivered the bytes, and that is worth knowing.",
    ("rate / peak", "min(1.0, rate / peak)"),
)
slip(
    "both capped",
    "The rate is capped at `peak`, and so the share at 1. Return what the division gives, even if "
    "it can't be true: it is a sign that one of the numbers given was wrong.",
    ("read / (us * 1e-6) / 1e9", "min(read / (us * 1e-6) / 1e9, peak)"),
)
slip(
    "refused",
    "A rate above `peak` raises an error in your answer. Return it instead: what to make of it is "
    "up to the caller.",
    ("    return", '    if rate > peak:\n        raise ValueError("too fast")\n    return'),
)
slip(
    "group size",
    "Hq / Hkv is the number of query heads **in a group**. Count the groups: each has one KV head, "
    "whose keys are read once.",
    ("B * Hkv", "B * (Hq // Hkv)"),
)
slip(
    "2 bytes always",
    "The number of bytes is **fixed at 2**; it is `bytes_each`.",
    ("* bytes_each", "* 2"),
)
slip(
    "q and o too",
    "q and o are counted **as well**. Only the cache counts: keys and values.",
    ("2 * B * Hkv * Lk", "2 * B * (Hkv * Lk + Hq)"),
)
slip(
    "bits",
    "These are giga**bits**: the factor of 8 does not belong there. GB/s are bytes, like `peak`.",
    ("rate = read", "rate = 8 * read"),
)
slip(
    "share upside down",
    "The share is upside down: it is the rate divided by `peak`.",
    ("rate / peak", "peak / rate"),
)
slip(
    "rounded",
    "The rate or the share is rounded. Return what the division gives; round when you print it.",
    ("rate, rate / peak", "round(rate, 1), round(rate / peak, 3)"),
)
slip(
    "rounded share",
    "The share is rounded. Return what the division gives, and round only when you print it.",
    ("rate / peak", "round(rate / peak, 3)"),
)

BANDWIDTH = Exercise.of(
    __name__,
    "7.3 bandwidth",
    title="How much of the memory was used?",
    section="3 · An idle SM is lost bandwidth",
)

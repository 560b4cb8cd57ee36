"""Exercise 11.2: a tolerance for S splits that are summed tile by tile, by counting roundings."""

import math

import torch

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip

U = 2.0**-24
SPLITS = "5 · The error of S splits"
LSE = "3 · What an lse in 16 bits does to a merge"


@right
def tolerance(n, S, tile, V, L):
    c = math.ceil(n / S)  # keys of a split
    b = min(tile, c)  # keys of its tiles
    T = math.ceil(c / b)  # tiles
    count = 2 * (b + T - 1)  # numerator b + T - 1, denominator b + T - 2, division 1
    if S > 1:
        count += 2 * (S + L)  # numerator S + L, denominator S + L - 1, division 1
    return 2**-24 * V * count


@also_right
def step_by_step(n, S, tile, V, L):
    """Follow the first key of the first split through every operation."""
    keys = -(-n // S)
    numerator, denominator = 1, 0  # p · v
    for _ in range(min(tile, keys) - 1):  # the other keys of its tile
        numerator, denominator = numerator + 1, denominator + 1
    for _ in range(min(tile, keys), keys, tile):  # the tiles after it
        numerator, denominator = numerator + 1, denominator + 1
    roundings = numerator + denominator + 1
    if S != 1:
        roundings += (L + 1 + S - 1) + (L + S - 1) + 1
    return roundings * V / 2**24


def ask(answer, *call):
    """call: n, S, tile, V, L. An answer computed in fp32 is exact enough."""
    return Seen.of(answer, call, wanted=tolerance(*call), atol=0.0, rtol=1e-6)


def size(rng, low=0.5, high=4.0):
    """Return a random V or L."""
    return low + (high - low) * torch.rand((), generator=rng).item()


@holds("a single key: its product and its division")
def by_hand(answer, rng):
    return [ask(answer, 1, 1, 64, 1.0, 0.0), ask(answer, 8, 1, 4, 1.0, 2.0)]


@holds("one split of one tile: a chain of additions")
def one_tile(answer, rng):
    tile = 8 * integer(rng, 2, 8)
    return ask(answer, tile, 1, tile, size(rng), 9.0)


@holds("one split of several whole tiles")
def several_tiles(answer, rng):
    tile = 8 * integer(rng, 2, 8)
    return ask(answer, tile * integer(rng, 3, 9), 1, tile, size(rng), 9.0)


@holds("a last tile that is not full")
def a_short_tile(answer, rng):
    return ask(answer, 64 * integer(rng, 2, 9) + integer(rng, 1, 20), 1, 64, size(rng), 9.0)


@holds("fewer keys than a tile has room for")
def less_than_a_tile(answer, rng):
    return [ask(answer, integer(rng, 5, 30), 1, 64, size(rng), 9.0), ask(answer, 97, 4, 64, 1.0, 0)]


@holds("several splits, which have to be merged")
def a_merge(answer, rng):
    S, tile = integer(rng, 2, 9), 16
    return ask(answer, S * tile * integer(rng, 2, 6), S, tile, size(rng), 0.0)


@holds("the lse of the splits are rounded, too")
def large_lse(answer, rng):
    S, tile = integer(rng, 2, 9), 16
    return ask(answer, S * tile * integer(rng, 2, 6), S, tile, size(rng), size(rng, 8.0, 20.0))


@holds("splits that do not divide the keys")
def ragged(answer, rng):
    S = integer(rng, 3, 7)
    return ask(answer, S * 32 * integer(rng, 2, 5) + 1, S, 32, size(rng), size(rng))


@holds("in proportion to the size of the values")
def values(answer, rng):
    return [ask(answer, 640, 5, 16, V, 3.0) for V in (0.0, 1e-3, size(rng, 50.0, 99.0))]


def real_error(rng, n, S, tile):
    """Run S splits tile by tile in fp32; return the error, V and L."""
    p, v = torch.rand(n, generator=rng), torch.randn(n, generator=rng)
    parts, chunk = [], math.ceil(n / S)
    for part, values in zip(p.split(chunk), v.split(chunk), strict=True):
        sums = [torch.zeros(()), torch.zeros(())]
        for x, y in zip(part.split(tile), values.split(tile), strict=True):
            in_tile = [torch.zeros(()), torch.zeros(())]
            for a, b in zip(x, y, strict=True):
                in_tile = [in_tile[0] + a * b, in_tile[1] + a]
            sums = [total + one for total, one in zip(sums, in_tile, strict=True)]
        parts.append((sums[0] / sums[1], sums[1].log()))
    o, lse = (torch.stack(x) for x in zip(*parts, strict=True))
    w = torch.exp(lse - lse.max())
    merged = (w * o).sum() / w.sum() if len(parts) > 1 else o[0]
    wanted = (p.double() * v.double()).sum() / p.double().sum()
    return abs(merged.item() - wanted.item()), v.abs().max().item(), lse.abs().max().item()


@holds("real sums in fp32 are never further off")
def kept(answer, rng):
    n, S, tile = 256, integer(rng, 1, 4), 16
    error, V, L = real_error(rng, n, S, tile)
    given = f"n = {n}, S = {S}, tile = {tile}: whether a real run stays within the tolerance"
    return Seen(bool(error <= answer(n, S, tile, V, L)), True, given)


slip(
    "eps for u",
    "This takes eps for u. eps is the whole gap between 1 and the next number; **one rounding "
    "moves by at most half of it**, 2^-24 in fp32.",
    ("2**-24", "2**-23"),
    see="1 · A sum has an order",
)
slip(
    "fp16",
    "This takes the u of **fp16**, 2^-11. The sums are made in fp32, whatever the cache holds.",
    ("2**-24", "2**-11"),
)
slip(
    "no size",
    "V does not appear. A rounding is **relative**: values ten times as large are off by ten times "
    "as much.",
    ("2**-24 * V", "2**-24"),
)
slip(
    "no u",
    "u does not appear: this is a **number of roundings** times V. One rounding moves a value by "
    "at most u of its size.",
    ("2**-24 * V", "V"),
)
slip(
    "compound",
    "The errors are **compounded**, as interest is: (1 + u) to the power of their number. That is "
    "a bound as well, but the exercise asks for the count to first order: r · u.",
    ("2**-24 * V * count", "V * math.expm1(count * math.log1p(2**-24))"),
)
slip(
    "one addition too many in the merge",
    "The merge has **one addition too many**: S terms are added up in S − 1 additions, in the "
    "numerator and in the denominator.",
    ("2 * (S + L)", "2 * (S + 1 + L)"),
)
slip(
    "lesson's formula",
    "These are **the lesson's own constants**, with its ½ and its + 4. It rounds its exponentials "
    "as well; here they are exact, so count the steps of this kernel anew.",
    ("2 * (b + T - 1)", "2 * (b + T - 1 + 0.5)"),
    ("2 * (S + L)", "2 * (S + L + 4)"),
)
slip(
    "lesson's formula, key by key",
    "This is **the lesson's own formula**: a split is added up key by key, and exponentials are "
    "rounded. Here a split is cut into tiles, and exp is exact: count anew.",
    ("2 * (b + T - 1)", "2 * (c + 0.5)"),
    ("2 * (S + L)", "2 * (S + L + 4)"),
)
slip(
    "lse without a merge",
    "L is counted **for a single split, too**. Its lse weighs nothing, since there is nothing to "
    "merge.",
    ("    if S > 1:", "    count += 2 * L\n    if S > 1:"),
    ("2 * (S + L)", "2 * S"),
)
slip(
    "keys not rounded",
    "n / S is **not rounded up**. A split has a whole number of keys, and the largest one decides.",
    ("math.ceil(n / S)", "n / S"),
)
slip(
    "tiles not rounded",
    "The number of tiles is **not rounded up**. A tile that is not full is added to the total "
    "like any other.",
    ("math.ceil(c / b)", "c / b"),
)
slip(
    "nothing rounded up",
    "Neither n / S nor the number of tiles is **rounded up**. Keys and tiles are whole: the "
    "largest split decides, and a tile that is not full is added like any other.",
    ("math.ceil(n / S)", "n / S"),
    ("math.ceil(c / b)", "c / b"),
)
slip("all keys", "Each sum runs over **one split's keys**, not over all n.", ("n / S", "n / 1"))
slip(
    "rounded down",
    "The number of keys of a split is rounded **down**: the largest split decides, so round up.",
    ("math.ceil(n / S)", "max(1, n // S)"),
)
slip(
    "tile larger than the split",
    "A split with fewer keys than a tile has **no more additions than keys**: a tile of 64 with 20 "
    "keys in it is a chain of 20.",
    ("min(tile, c)", "tile"),
)
slip(
    "short tile left out",
    "The number of tiles is rounded **down**: the last tile, not full, is added to the total as "
    "well.",
    ("math.ceil(c / b)", "c // b"),
)
slip(
    "a chain",
    "This counts an addition **for every key of the split**. In tiles a term meets the other keys "
    "of its own tile, and then only one number per tile.",
    ("b + T - 1", "c"),
)
slip(
    "keys times tiles",
    "The additions in a tile and those of the tiles are **multiplied**. A term goes through the "
    "one, and then through the other: they add up.",
    ("b + T - 1", "b * T"),
)
slip(
    "a tree",
    "This counts as if the keys of a tile were added in a **tree**. The exercise adds them from "
    "the left, one by one.",
    ("b + T - 1", "math.ceil(math.log2(b)) + T"),
)
slip(
    "tiles left out",
    "The additions **of the tiles** to the split's total are not counted.",
    ("b + T - 1", "b"),
)
slip(
    "keys of a tile left out",
    "The additions **within a tile** are not counted.",
    ("b + T - 1", "T"),
)
slip(
    "one too many",
    "There is **one addition too many**: b numbers are added up in b − 1 additions, T tiles in T "
    "− 1, and the numerator's product makes b + T − 1 in all.",
    ("b + T - 1", "b + T"),
)
slip(
    "numerator alone",
    "Only **the numerator** is counted. The denominator is a sum of as many terms, and the "
    "quotient inherits the errors of both.",
    ("2 * (b + T - 1)", "(b + T - 1)"),
    ("2 * (S + L)", "(S + L)"),
)
slip(
    "no division",
    "The **divisions** are not counted: each of the two quotients, o of a split and the merged o, "
    "is rounded once.",
    ("2 * (b + T - 1)", "2 * (b + T - 1) - 1"),
    ("2 * (S + L)", "2 * (S + L) - 1"),
)
slip(
    "no product",
    "The **product** p · v is not counted: the numerator's terms are rounded before they are "
    "added.",
    ("2 * (b + T - 1)", "2 * (b + T - 1) - 1"),
)
slip(
    "always a merge",
    "A single split is counted as if it were **merged**. With S = 1 nothing is: its o is the "
    "answer.",
    ("S > 1", "S > 0"),
)
slip(
    "no merge",
    "The **merge** is not counted: S weighted terms are added up, in numerator and denominator.",
    ("S > 1", "False"),
)
slip(
    "no lse",
    "L does not appear. A stored lse is off by up to u · L, and **a weight is its exponential**, "
    "off by the same share: once in the numerator and once in the denominator.",
    ("2 * (S + L)", "2 * S"),
    see=LSE,
)
slip(
    "lse once",
    "The error of the lse is counted **once**. The weights are in the numerator and in the "
    "denominator.",
    ("2 * (S + L)", "2 * S + L"),
    see=LSE,
)
slip(
    "lse per split",
    "The error of the lse is counted **once per split**. Every weight is off by at most u · L, so "
    "their sum is off by at most the same share.",
    ("2 * (S + L)", "2 * S * (1 + L)"),
    see=LSE,
)
slip(
    "coin flips",
    "This takes the **square root** of the count: what to expect of errors that cancel. A "
    "tolerance must never fail a right program, so count the worst case.",
    ("V * count", "V * math.sqrt(count)"),
)

TOLERANCE = Exercise.of(__name__, "11.2 tolerance", title="Derive a tolerance", section=SPLITS)

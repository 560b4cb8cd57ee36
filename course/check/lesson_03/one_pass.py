"""Exercise 3.1: attention over a stream of tiles that can be read only once."""

import torch

from course.check.lesson_03.stream import (
    by_lse,
    bytes_of_python,
    drawn,
    numbers_in_tensors,
    seen,
    worked_examples,
)
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, mistake, right, slip

EMPTY = "5 · The worker that saw nothing"


@right
def one_pass(tiles, rows, D):
    m = torch.full((rows,), -torch.inf)
    l, acc = torch.zeros(rows), torch.zeros(rows, D)
    for scores, v in tiles:
        m_new = torch.maximum(m, scores.amax(-1))
        correction = torch.exp(m - m_new)  # from the old ruler to the new
        p = torch.exp(scores - m_new[:, None])
        l = correction * l + p.sum(-1)
        acc = correction[:, None] * acc + p @ v
        m = m_new
    return acc / l[:, None], m + l.log()


also_right(by_lse)


@holds("the three examples in the table, and a score of 0")
def by_hand(answer, rng):
    return worked_examples(answer)


@holds("all keys in a single tile")
def one_tile(answer, rng):
    return seen(answer, *drawn(rng, 1, [0.0], 4))


@holds("the largest score comes first")
def maxima_fall(answer, rng):
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.5]]) + torch.rand(1, generator=rng)
    return seen(answer, scores, torch.randn(4, 1, generator=rng), [2, 2])


@holds("the second tile has the larger maximum")
def maxima_rise(answer, rng):
    scores = torch.tensor([[0.5, 1.0, 2.0, 3.0]]) + torch.rand(1, generator=rng)
    return seen(answer, scores, torch.randn(4, 1, generator=rng), [2, 2])


@holds("five tiles, six rows, some keys hidden by -inf")
def uneven_tiles(answer, rng):
    widths = torch.randint(1, 8, (5,), generator=rng).tolist()
    n = sum(widths)
    scores = 2 * torch.randn(6, n, generator=rng)
    hidden = torch.rand(6, n, generator=rng) < 0.2
    hidden[1, widths[0] : sum(widths[:2])] = True  # a whole tile is hidden from row 1
    hidden[:, sum(widths[:2]) : sum(widths[:3])] = True  # and the next one from all
    hidden[:, 0] = False  # every row sees a key of the first tile
    scores = scores.masked_fill(hidden, -torch.inf)
    return seen(answer, scores, torch.randn(n, 4, generator=rng), widths)


@holds("scores near ±200, ±2000, -60000")
def far_from_zero(answer, rng):
    around = ([-2e3], [-2e2, 2e2], [-2e3, 2e3], [2e3, -2e3], [-6e4])
    one_row = [seen(answer, *drawn(rng, 1, numbers, 2)) for numbers in around]  # fp64's exp: ±709
    scores, v, widths = drawn(rng, 2, [0.0, 1.0], 2)
    shifts = (
        [[-2e3], [2e3]],
        [[0, 0, 2e3, 2e3], [0, 0, -2e3, -2e3]],
        [[-6e4, -6e4] + 2 * [-torch.inf]],
    )
    return [*one_row, *(seen(answer, scores.abs() + torch.tensor(x), v, widths) for x in shifts)]


@holds("a long stream leaves D + 2 numbers per row")
def little_is_kept(answer, rng):
    """Keeping even one number from each of 60 tiles holds 60; otherwise it is some 20 at most."""
    little = "D + 2 numbers per row, and what one tile needs"
    few = numbers_in_tensors(answer, *drawn(rng, 1, [0.0] * 60, 2)) < 50
    few = few and bytes_of_python(answer, *drawn(rng, 1, [0.0] * 80, 4)) < 1000
    got = little if few else "something of every tile"
    return Seen(got, little, "long streams; what is still in memory after the last tile")


slip(
    "nothing rescaled",
    "This is what you get if l and acc are carried over **without rescaling** when the maximum "
    "grows: the old keys are still measured from the old maximum.",
    ("torch.exp(m - m_new)", "torch.ones_like(m)"),
)
slip(
    "acc not rescaled",
    "lse is right but o is not: l is moved to the new maximum, but **acc is not**. Both are sums "
    "of the same exponentials, so both need the factor.",
    ("correction[:, None] * acc", "acc"),
)
slip(
    "l not rescaled",
    "acc is moved to the new maximum, but **l is not**. Both are sums of the same exponentials, so "
    "both need the factor.",
    ("correction * l", "l"),
)
slip(
    "divided in the loop",
    "acc is **divided by l inside the loop**, so the next round rescales and divides what was "
    "already divided. The division comes once, after the last tile.",
    ("correction[:, None] * acc + p @ v", "(correction[:, None] * acc + p @ v) / l[:, None]"),
)
slip(
    "divided in the loop alone",
    "acc is divided by l **in every round, and not at the end**: each round divides what was "
    "already divided. Keep acc as a sum; the division comes once, after the last tile.",
    ("correction[:, None] * acc + p @ v", "(correction[:, None] * acc + p @ v) / l[:, None]"),
    ("acc / l[:, None], m", "acc, m"),
)
slip(
    "factor upside down",
    "The correction factor is **upside down**. When the maximum grows, old sums must shrink: the "
    "factor is never above 1.",
    ("torch.exp(m - m_new)", "torch.exp(m_new - m)"),
)
slip(
    "m stays behind",
    "Right for one tile, but after that m is **still what it was at the start**: the new maximum "
    "is found and used, but not kept for the next tile.",
    ("        m = m_new\n", ""),
    ("m + l.log()", "m_new + l.log()"),
)
slip(
    "m never set",
    "m is **never set** to the new maximum: after the loop it is still -inf, and so is lse. Each "
    "round must end with the maximum that the next one starts from.",
    ("        m = m_new\n", ""),
)
slip(
    "no maximum at all",
    "The exponentials are taken of the raw scores, **without a maximum**: above 88 they overflow, "
    "below -104 they underflow.",
    ("torch.maximum(m, scores.amax(-1))", "torch.zeros_like(m)"),
    see="1 · Three passes, then two",
)
slip(
    "o and lse swapped",
    "The two results are **in the wrong order**: return o first, then lse.",
    ("acc / l[:, None], m + l.log()", "m + l.log(), acc / l[:, None]"),
)
slip(
    "a tile on a ruler of its own",
    "The new keys are measured from **their own tile's maximum**, the old ones from the running "
    "maximum: use one ruler for all.",
    ("m_new[:, None]", "scores.amax(-1, keepdim=True)"),
)
slip(
    "never divided",
    "lse is right, and o is off by the factor l: acc is returned **without the final division** by "
    "l.",
    ("acc / l[:, None]", "acc"),
)
slip(
    "lse without m",
    "o is right, but **lse lacks m**: log l alone is measured from the maximum, as l is.",
    ("m + l.log()", "l.log()"),
)


@mistake(
    "Each tile's softmax was taken on its own, and the results were **averaged as equals**: a tile "
    "with larger scores has to count for more.",
    name="the tiles' answers averaged",
)
def averaged(tiles, rows, D):
    finished = [(torch.softmax(s, -1) @ v, torch.logsumexp(s, -1)) for s, v in tiles]
    o, lse = (torch.stack(parts) for parts in zip(*finished, strict=True))
    return o.mean(0), torch.logsumexp(lse, 0)


slip(
    "read twice",
    "The code goes through the tiles **twice**, and the second loop finds none: a stream can be "
    "read only once. Carry m, l and acc along in the one loop.",
    (
        "    for scores, v",
        "    for scores, _ in tiles:\n"
        "        m = torch.maximum(m, scores.amax(-1))\n"
        "    for scores, v",
    ),
)


@mistake(
    "The tiles were **kept for later**, but the next tile arrives in the same memory and "
    "overwrites them. Take what you need from a tile while you have it."
)
def tiles_kept(tiles, rows, D):
    kept = list(tiles)
    scores, v = torch.cat([s for s, _ in kept], -1), torch.cat([v for _, v in kept])
    return torch.softmax(scores, -1) @ v, torch.logsumexp(scores, -1)


@mistake(
    "The numbers are right, but **something of every tile is kept** until the end, copies or "
    "results, and with a long stream that fills the memory. D + 2 numbers per row are enough: take "
    "each tile into m, l and acc, then let it go."
)
def copies_kept(tiles, rows, D):
    return tiles_kept([(scores.clone(), v.clone()) for scores, v in tiles], rows, D)


slip(
    "m starts at a finite number",
    "The running maximum **starts at a finite number**, such as 0. Where all scores lie far below, "
    "near -2000, it stays there, and every exponential underflows. Nothing seen yet means -inf.",
    ("-torch.inf", "0.0"),
    see=EMPTY,
)
slip(
    "m starts far down",
    "The running maximum starts **far down, but not at -inf**: scores near -60000 lie lower still, "
    "and all their exponentials underflow. No finite number can stand for nothing seen.",
    ("-torch.inf", "-1e4"),
    see=EMPTY,
)
for floor in (-1e4, -6e4):
    slip(
        f"{floor:,.0f} for -inf",
        f"-inf is replaced by **{floor:,.0f}**. Near -60000 a hidden key then weighs as much as "
        "the others, or more. As -inf it weighs nothing, whatever the others are.",
        (
            "        m_new",
            f"        scores = scores.masked_fill(scores == -torch.inf, {floor})\n        m_new",
        ),
    )
slip(
    "the last tile's maximum as ruler",
    "m is **the latest tile's maximum**, not the largest so far. Where the scores fall by 4000 the "
    "factor overflows, and a tile hidden from a row gives NaN.",
    ("torch.maximum(m, scores.amax(-1))", "scores.amax(-1)"),
)
slip(
    "one maximum for all rows",
    "One maximum is taken **over all rows**. Where rows lie 4000 apart, the lower one underflows: "
    "each row has its own ruler.",
    ("scores.amax(-1)", "scores.max()"),
)
slip(
    "fp64 instead of a maximum",
    "The exponentials are taken **in fp64 instead of from a maximum**. That only moves the limit: "
    "above 709 fp64 overflows too, and scores may be at 60,000.",
    ("torch.maximum(m, scores.amax(-1))", "torch.zeros(rows, dtype=torch.float64)"),
    ("p @ v", "p @ v.double()"),
    ("acc / l[:, None], m + l.log()", "(acc / l[:, None]).float(), (m + l.log()).float()"),
)
slip(
    "a small number added",
    "A small number such as 1e-6 is **added to l** before the division. It protects from nothing, "
    "since the largest score alone makes l at least 1, and it makes o wrong in the sixth digit.",
    ("acc / l[:, None]", "acc / (l[:, None] + 1e-6)"),
)
slip(
    "a small number in the logarithm",
    "A small number such as 1e-6 is **added to l** before the logarithm: l is at least 1 here, "
    "so it protects from nothing and only shifts the result.",
    ("l.log()", "(l + 1e-6).log()"),
)
slip(
    "log2",
    "lse must be a **natural** logarithm; here log2 is taken of l.",
    ("l.log()", "l.log2()"),
)
slip(
    "no logarithm",
    "lse is m + l. m is a score, l a sum of exponentials: what adds to m is **log l**.",
    ("m + l.log()", "m + l"),
)
slip(
    "lse is m",
    "o is right, but in place of lse comes **the largest score**, m. The logarithm of the "
    "denominator is m + log l.",
    ("m + l.log()", "m"),
)
slip(
    "lse is l",
    "o is right, but in place of lse comes **l**: a sum of exponentials measured from m, and no "
    "logarithm of it.",
    ("m + l.log()", "l"),
)
slip(
    "returned too early",
    "Only **the first tile** is seen: the `return` (or a `break`) is inside the loop, so the "
    "function ends in its first round.",
    ("    return acc", "        return acc"),
)
slip(
    "scaled once more",
    "The scores are multiplied by 1/√D, but they **come scaled already**.",
    ("scores.amax(-1))", "(scores * D**-0.5).amax(-1))"),
    ("torch.exp(scores", "torch.exp(scores * D**-0.5"),
)
slip(
    "new keys rescaled too",
    "The factor is applied to **the new keys as well**. It moves the old sums to the new ruler; "
    "the new exponentials are measured from it already (and at first the factor is 0).",
    ("correction * l + p.sum(-1)", "correction * (l + p.sum(-1))"),
    ("correction[:, None] * acc + p @ v", "correction[:, None] * (acc + p @ v)"),
)
slip(
    "a softmax in each tile",
    "p is a **softmax of the tile**, divided by the tile's own sum. Take the bare exponentials, "
    "measured from the new maximum; the division comes after the last tile.",
    ("torch.exp(scores - m_new[:, None])", "torch.softmax(scores, -1)"),
)
slip(
    "acc begins anew",
    "lse is right, but acc holds **the last tile alone**: what was summed before must be moved to "
    "the new ruler and kept.",
    ("correction[:, None] * acc + p @ v", "p @ v"),
)
slip(
    "half precision",
    "p and v are multiplied in **fp16**, which keeps three digits: all here is fp32.",
    ("p @ v", "(p.half() @ v.half()).float()"),
)

ONE_PASS = Exercise.of(
    __name__,
    "3.1 one pass",
    title="One pass over a stream",
    section="2 · One pass: carry the weighted sum along",
)

"""Exercise 3.1: attention over a stream of tiles that can be read only once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from course.check import lesson_03_one_pass_answers as answers
from course.check.lesson_03_stream import numbers_kept, stream
from course.check.spec import Exercise, Mistake, Property, Seen

EPS = torch.finfo(torch.float32).eps


def _seen(answer, scores: Tensor, v: Tensor, widths: list[int]) -> Seen:
    """Compare with the softmax of all keys at once, in fp64.

    Tolerance: n additions, and one rescaling per tile; its exponent is off by up to an ulp
    of the largest score if lse is kept instead of m and l.
    """
    rows, D = scores.shape[0], v.shape[1]
    lse = torch.logsumexp(scores.double(), -1)
    o = torch.softmax(scores.double(), -1) @ v.double()
    finite = scores[scores > -math.inf]
    roundings = scores.shape[1] + len(widths) * (4 + finite.abs().max().item())
    given = f"{rows} row{'s' * (rows > 1)}, D = {D}, tiles of {', '.join(map(str, widths))} keys"
    if scores.numel() <= 6:
        given += f", scores {[round(x, 2) for x in scores.flatten().tolist()]}"
    got = answer(stream(scores, v, widths), rows, D)
    atol = 2 * EPS * roundings * max(1.0, v.abs().max().item())
    wanted = (o.float(), lse.float())
    return Seen(got, wanted, given, atol=atol, rtol=0.0, names=("o", "lse"), any_dtype=True)


def _draw(rng: torch.Generator, rows: int, around: list[float], n: int, D: int = 2):
    """Tiles of n keys each, with scores near the numbers in `around`."""
    scores = [x + torch.randn(rows, n, generator=rng) for x in around]
    return torch.cat(scores, 1), torch.randn(n * len(around), D, generator=rng), [n] * len(around)


def _one_tile(answer, rng):
    return _seen(answer, *_draw(rng, 1, [0.0], 4))


def _falling(answer, rng):
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.5]]) + torch.rand(1, generator=rng)
    return _seen(answer, scores, torch.randn(4, 1, generator=rng), [2, 2])


def _rising(answer, rng):
    scores = torch.tensor([[0.5, 1.0, 2.0, 3.0]]) + torch.rand(1, generator=rng)
    return _seen(answer, scores, torch.randn(4, 1, generator=rng), [2, 2])


def _uneven(answer, rng):
    widths = torch.randint(1, 8, (5,), generator=rng).tolist()
    n = sum(widths)
    scores = 2 * torch.randn(6, n, generator=rng)
    hidden = torch.rand(6, n, generator=rng) < 0.2
    hidden[:, 0] = False  # every row sees a key of the first tile
    scores = scores.masked_fill(hidden, -math.inf)
    return _seen(answer, scores, torch.randn(n, 4, generator=rng), widths)


def _far_from_zero(answer, rng):
    around = ([-200.0], [-200.0, 200.0], [200.0, -200.0], [-60_000.0])
    seen = [_seen(answer, *_draw(rng, 1, tiles, 2)) for tiles in around]
    scores, v, widths = _draw(rng, 2, [0.0, 1.0], 2)
    return [*seen, _seen(answer, scores + torch.tensor([[-200.0], [200.0]]), v, widths)]


def _keeps_little(answer, rng):
    """Keeping even one number from each of 100 tiles holds 100; otherwise it is some 20 at most."""
    scores, v, widths = _draw(rng, 1, [0.0] * 100, 2)
    little = "D + 2 numbers per row, and what one tile needs"
    kept = numbers_kept(answer, scores, v, widths)
    got = little if kept < 100 else "something of every tile"
    return Seen(got, little, "100 tiles of 2 keys; what is still in memory after the last one")


ONE_PASS = Exercise(
    id="3.1",
    name="one pass",
    title="One pass over a stream",
    section="2 · One pass: carry the weighted sum along",
    solution_name="one_pass",
    properties=(
        Property("one tile", "all keys in a single tile", _one_tile),
        Property("maxima fall", "the largest score comes first", _falling),
        Property("maxima rise", "the second tile has the larger maximum", _rising),
        Property("uneven tiles", "five tiles, six rows, some keys hidden by -inf", _uneven),
        Property("far from zero", "scores near -200, 200, both, -60000", _far_from_zero),
        Property("little is kept", "a long stream leaves D + 2 numbers per row", _keeps_little),
    ),
    mistakes=(
        Mistake(
            "nothing rescaled",
            "This is what you get if l and acc are carried over **without rescaling** when the "
            "maximum grows: the old keys are still measured from the old maximum.",
            answers.with_step(answers.nothing_rescaled),
        ),
        Mistake(
            "acc not rescaled",
            "lse is right but o is not: l is moved to the new maximum, but **acc is not**. "
            "Both are sums of the same exponentials, so both need the factor.",
            answers.with_step(answers.acc_not_rescaled),
        ),
        Mistake(
            "l not rescaled",
            "acc is moved to the new maximum, but **l is not**. Both are sums of the same "
            "exponentials, so both need the factor.",
            answers.with_step(answers.l_not_rescaled),
        ),
        Mistake(
            "divided in the loop",
            "acc is **divided by l inside the loop**, so the next round rescales and divides what "
            "was already divided. The division comes once, after the last tile.",
            answers.with_step(answers.divided_in_the_loop),
        ),
        Mistake(
            "factor upside down",
            "The correction factor is **upside down**. When the maximum grows, old sums must "
            "shrink: the factor is never above 1.",
            answers.with_step(answers.factor_upside_down),
        ),
        Mistake(
            "m stays behind",
            "Right for one tile, but after that m is **still what it was at the start**: the new "
            "maximum is found and used, but not kept for the next tile.",
            answers.m_stays_behind,
        ),
        Mistake(
            "m never set",
            "m is **never set** to the new maximum: after the loop it is still -inf, and so is "
            "lse. Each round must end with the maximum that the next one starts from.",
            answers.m_never_set,
        ),
        Mistake(
            "no maximum at all",
            "The exponentials are taken of the raw scores, **without a maximum**: near "
            "200 they overflow, near -200 they underflow.",
            answers.no_maximum,
            see="1 · Three passes, then two",
        ),
        Mistake(
            "o and lse swapped",
            "The two results are **in the wrong order**: return o first, then lse.",
            answers.swapped,
        ),
        Mistake(
            "a tile on a ruler of its own",
            "The new keys are measured from **their own tile's maximum**, the old ones from the "
            "running maximum: use one ruler for all.",
            answers.with_step(answers.tile_on_its_own_ruler),
        ),
        Mistake(
            "never divided",
            "lse is right, and o is off by the factor l: acc is returned **without the final "
            "division** by l.",
            answers.never_divided,
        ),
        Mistake(
            "lse without m",
            "o is right, but **lse lacks m**: log l alone is measured from the maximum, as l is.",
            answers.lse_without_m,
        ),
        Mistake(
            "the tiles' answers averaged",
            "Each tile's softmax was taken on its own, and the results were **averaged as "
            "equals**: a tile with larger scores has to count for more.",
            answers.averaged,
        ),
        Mistake(
            "read twice",
            "The code goes through the tiles **twice**, and the second loop finds none: a stream "
            "can be read only once. Carry m, l and acc along in the one loop.",
            answers.read_twice,
        ),
        Mistake(
            "tiles kept",
            "The tiles were **kept for later**, but the next tile arrives in the same memory and "
            "overwrites them. Take what you need from a tile while you have it.",
            answers.tiles_kept,
        ),
        Mistake(
            "copies kept",
            "The numbers are right, but **something of every tile is kept** until the end, copies "
            "or results, and with a long stream that fills the memory. D + 2 numbers per row are "
            "enough: take each tile into m, l and acc, then let it go.",
            answers.copies_kept,
        ),
        Mistake(
            "m starts at a finite number",
            "The running maximum **starts at a finite number**, such as 0. Where all scores lie "
            "far below, near -200, it stays there, and every exponential underflows. Nothing seen "
            "yet means -inf.",
            answers.starting_at(0.0),
            see="5 · The worker that saw nothing",
        ),
        Mistake(
            "m starts far down",
            "The running maximum starts **far down, but not at -inf**: scores near -60000 lie "
            "lower still, and all their exponentials underflow. No finite number can stand for "
            "nothing seen.",
            answers.starting_at(-1e4),
            see="5 · The worker that saw nothing",
        ),
        Mistake(
            "the last tile's maximum as ruler",
            "m is **the latest tile's maximum**, not the largest so far. Where the scores fall by "
            "400 the factor overflows, and a tile hidden from a row gives NaN.",
            answers.with_step(answers.last_maximum),
        ),
        Mistake(
            "one maximum for all rows",
            "One maximum is taken **over all rows**. Where rows lie 400 apart, the lower one "
            "underflows: each row has its own ruler.",
            answers.with_step(answers.one_maximum),
        ),
    ),
    alternative=answers.by_lse,
)

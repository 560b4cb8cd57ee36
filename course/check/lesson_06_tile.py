"""Exercise 6.1: one tile of keys, inside the loop of the kernel."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from course.check.guards import guarded, poisoned
from course.check.lesson_06_tile_answers import faulty, two_passes
from course.check.spec import Exercise, Mistake, Property, Seen
from kernels.primitives import LOG2_E
from kernels.runtime import device
from reference.attention import oracle

EPS = torch.finfo(torch.float32).eps
D, BLOCK_M, BLOCK_N = 32, 16, 32  # D is not BLOCK_M, so a forgotten [:, None] fails
SCALE = 0.125


def tolerance(q: Tensor, k: Tensor, v: Tensor, scale: float) -> float:
    """How far off fp32 may be: D roundings per score, at its size, then Lk in the sums.

    An error in a score is a relative error in its p, in both numerator and denominator.
    """
    size = (scale * (q.abs().double() @ k.abs().double().T)).max().item()
    return EPS * (2 * (q.shape[1] + 4) * size + len(k) + 8) * max(1.0, v.abs().max().item())


def launch(kernel: Callable, grid: tuple[int, ...], *arguments: object, **constants: int) -> None:
    """Run a kernel without numpy's warnings on stderr: the report says it better."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        kernel[grid](*arguments, **constants)


def _seen(answer: Callable, q: Tensor, k: Tensor, v: Tensor, scale: float, given: str) -> Seen:
    """Launch one program per 16 queries; inputs lie inside NaN, outputs start as NaN."""
    Lq, Lk = len(q), len(k)
    ins = [guarded(x.to(device()), name) for x, name in ((q, "q"), (k, "k"), (v, "v"))]
    o, lse = (poisoned(s, name=n, device=device()) for s, n in (((Lq, D), "o"), ((Lq,), "lse")))
    tensors = [x.tensor for x in (*ins, o, lse)]
    constants = {"D": D, "BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N}
    launch(answer, (Lq // BLOCK_M,), *tensors, Lk, scale * LOG2_E, **constants)
    wanted_o, wanted_lse = oracle(*(x[None, :, None] for x in (q, k, v)), scale=scale)
    return Seen(
        (o.tensor, lse.tensor),
        (wanted_o[0, :, 0].float(), wanted_lse[0, :, 0].float()),
        f"{given}: Lq = {Lq}, Lk = {Lk}, BLOCK_N = {BLOCK_N}, scale = {scale:.2f}",
        names=("o", "lse"),
        guards=(*ins, o, lse),
        atol=tolerance(q, k, v, scale),
        rtol=0.0,
    )


def _draw(rng: Generator, Lq: int, Lk: int) -> list[Tensor]:
    return [torch.randn(n, D, generator=rng) for n in (Lq, Lk, Lk)]


def _aimed(rng: Generator, targets: list[float]) -> list[Tensor]:
    """q, k, v whose scores at SCALE are near the target of their tile."""
    q, k, v = _draw(rng, BLOCK_M, len(targets) * BLOCK_N)
    q[:, 0], k[:, 0] = 1.0, torch.tensor(targets).repeat_interleave(BLOCK_N) / SCALE
    return [q, k, v]


def _one_tile(answer, rng):
    return _seen(answer, *_draw(rng, 16, BLOCK_N), SCALE, "all keys in one tile")


def _maxima_rise(answer, rng):
    return _seen(answer, *_aimed(rng, [0.0, 3.0, 6.0]), SCALE, "a new maximum in every tile")


def _maxima_fall(answer, rng):
    return _seen(answer, *_aimed(rng, [6.0, 0.0]), SCALE, "the largest scores first")


def _steep_fall(answer, rng):
    return _seen(answer, *_aimed(rng, [150.0, -150.0]), SCALE, "scores near 150, then near -150")


def _steep_rise(answer, rng):
    return _seen(answer, *_aimed(rng, [-150.0, 150.0]), SCALE, "scores near -150, then near 150")


def _a_tail(answer, rng):
    Lk = int(torch.randint(BLOCK_N + 1, 2 * BLOCK_N - 1, (1,), generator=rng))
    return _seen(answer, *_draw(rng, 16, Lk), SCALE, "a partial last tile")


def _more_programs(answer, rng):
    scale = 0.1 + 0.3 * torch.rand(1, generator=rng).item()
    return _seen(answer, *_draw(rng, 32, 40), scale, "two programs, another scale")


TILE = Exercise(
    id="6.1",
    name="one tile",
    title="The body of the loop",
    section="3 · The loop over the keys",
    solution_name="one_tile_kernel",
    properties=(
        Property("one tile", "Lk is BLOCK_N: the loop runs once", _one_tile),
        Property("maxima rise", "every tile brings a larger score", _maxima_rise),
        Property("maxima fall", "the first tile has the largest scores", _maxima_fall),
        Property("steep fall", "scores near 150, then near -150", _steep_fall),
        Property("steep rise", "scores near -150, then near 150", _steep_rise),
        Property("a tail", "Lk is not a multiple of BLOCK_N", _a_tail),
        Property("two programs", "32 queries and a random scale", _more_programs),
    ),
    mistakes=(
        Mistake(
            "acc not rescaled",
            "l moves to the new ruler, but **acc is not rescaled**: it is still measured from the "
            "old maximum.",
            faulty("acc not rescaled"),
        ),
        Mistake(
            "l not rescaled",
            "acc moves to the new ruler, but **l is not rescaled**: the division at the end "
            "then divides by a sum on two different rulers.",
            faulty("l not rescaled"),
        ),
        Mistake(
            "nothing rescaled",
            "Neither l nor acc moves to the new ruler. If you did compute alpha, m_log2 was "
            "**overwritten beforehand**, so the difference is 0.",
            faulty("nothing rescaled"),
        ),
        Mistake(
            "new sum rescaled too",
            "alpha multiplies the **sum of old and new**, but what this tile adds to acc is "
            "already on the new ruler. Only the old acc has to move.",
            faulty("new sum rescaled too"),
        ),
        Mistake(
            "divided in every turn",
            "acc is **divided by l in every iteration**. It must hold an undivided sum: finalize "
            "does the only division, after the last tile.",
            faulty("divided in every turn"),
        ),
        Mistake(
            "exp for exp2",
            "The scores are already in base 2, but here **exp** is applied to them: scale_log2 "
            "contains log2(e), so the matching function is exp2.",
            faulty("exp for exp2"),
            see="2 · One instruction for exp",
        ),
        Mistake(
            "scale forgotten",
            "The scores are **not scaled**: multiply q · k by scale_log2 before doing "
            "anything else with it.",
            faulty("scale forgotten"),
            see="2 · One instruction for exp",
        ),
        Mistake(
            "tail counted",
            "Keys past the end are loaded as 0, so their score is 0, and **exp2(0 - m) is not 0**: "
            "give them a score that adds nothing.",
            faulty("tail counted"),
        ),
        Mistake(
            "one key too many",
            "The mask lets **one key past the end** through: keys are counted from 0, so the "
            "last one is Lk - 1.",
            faulty("one key too many"),
        ),
        Mistake(
            "wrong sign",
            "alpha has the **wrong sign**: the old maximum minus the new one is never above 0, so "
            "the factor must shrink the old sums, not enlarge them.",
            faulty("wrong sign"),
        ),
        Mistake(
            "ruler of the tile",
            "The ruler is the maximum **of this tile alone**. If a later tile is much lower, alpha "
            "is huge and overflows; the running maximum only ever rises.",
            faulty("ruler of the tile"),
        ),
        Mistake(
            "m never stored",
            "The new maximum is used, but **m_log2 never gets it**: in the next iteration "
            "the old one is still -inf, so alpha is 0 and wipes out all that came before.",
            faulty("m never stored"),
        ),
        Mistake(
            "no maximum",
            "There is **no maximum**: exp2 of the bare scores is summed, and that overflows if "
            "scores are large.",
            faulty("no maximum"),
        ),
        Mistake(
            "no maximum, m untouched",
            "exp2 of the bare scores is summed, **without a maximum**, and m_log2 stays -inf, so "
            "lse does too.",
            faulty("no maximum, m untouched"),
        ),
    ),
    alternative=two_passes,
    needs=("triton",),
    trials=1,
)

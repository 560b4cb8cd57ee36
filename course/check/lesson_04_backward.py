"""Exercise 4.3: dV and dS of one tile of the backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course.check.spec import Exercise, Mistake, Property, Seen
from reference.attention import safe_softmax

EPS = torch.finfo(torch.float32).eps


def _tile(answer: Callable, scores: Tensor, v: Tensor, do: Tensor, cols: slice, given: str) -> Seen:
    """Pass in the tile `cols` of whole rows of scores; fp64 autograd gives the wanted values."""
    s, v_all, do_wide = scores.double().requires_grad_(), v.double().requires_grad_(), do.double()
    p, lse = safe_softmax(s)
    o = p @ v_all
    ds, dv = torch.autograd.grad(o, (s, v_all), do_wide)
    m, n, D = len(scores), scores[:, cols].shape[1], v.shape[1]
    args = scores[:, cols], lse.detach().float(), v[cols], o.detach().float(), do
    # p inherits the rounding of a score this size; dp and delta sum D products, dv sums m
    size = scores[scores.isfinite()].abs().max().item()
    product = D * do.abs().max().item() * v.abs().max().item()
    return Seen(
        answer(*args),
        (dv[cols].float(), ds[:, cols].float()),
        f"{given}; scores ({m}, {n}), v ({n}, {D}), o and do ({m}, {D})",
        names=("dv", "ds"),
        atol=4 * EPS * (D + m + size) * max(1.0, product),
        rtol=0.0,
    )


def _draw(rng: torch.Generator, m: int, n: int, D: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.randn(*size, generator=rng) for size in ((m, n), (n, D), (m, D)))


def _by_hand(answer, rng):
    scores, v, do = (
        torch.tensor([[0.0, math.log(3)]]),
        torch.tensor([[4.0], [8.0]]),
        torch.ones(1, 1),
    )
    return _tile(answer, scores, v, do, slice(0, 2), "the example of the lesson")


def _whole_row(answer, rng):
    return _tile(answer, *_draw(rng, 5, 6), slice(0, 6), "the tile holds all keys")


def _among_others(answer, rng):
    return _tile(answer, *_draw(rng, 5, 12), slice(4, 8), "keys 4 to 7 of 12")


def _masked(answer, rng):
    scores, v, do = _draw(rng, 4, 8)
    scores.masked_fill_(torch.ones(4, 8, dtype=torch.bool).triu(5), -math.inf)
    return _tile(answer, scores, v, do, slice(4, 8), "some keys masked")


def _row_without_keys(answer, rng):
    scores, v, do = _draw(rng, 4, 6)
    scores[0] = -math.inf
    return _tile(
        answer, scores, v, do, slice(0, 3), "row 0 sees no key: its lse is -inf, its o is 0"
    )


def _huge_scores(answer, rng):
    scores, v, do = _draw(rng, 4, 6)
    return _tile(answer, scores + 200, v, do, slice(3, 6), "scores near 200")


def _with_fault(wrong: str) -> Callable:
    """dV and dS with one fault in them."""

    def answer(scores, lse, v, o, do):
        safe = lse if wrong == "row without keys" else torch.where(lse == -math.inf, math.inf, lse)
        p = torch.exp(scores - safe[:, None])
        if wrong == "softmax over the tile":
            p = safe_softmax(scores)[0]
        elif wrong == "torch.softmax":
            p = torch.softmax(scores, -1)
        elif wrong == "two exponentials":
            p = torch.exp(scores) / torch.exp(safe)[:, None]
        dp = do @ v.T
        delta = (do * o).sum(-1, keepdim=True)
        if wrong == "no delta":
            delta = 0.0
        elif wrong == "delta of the tile":
            delta = (p * dp).sum(-1, keepdim=True)
        elif wrong == "one delta for all":
            delta = (do * o).sum()
        elif wrong == "delta as a row":
            delta = delta[:, 0]
        ds = {
            "sign": lambda: p * (delta - dp),
            "plus delta": lambda: p * (dp + delta),
            "p outside the bracket": lambda: p * dp - delta,
            "p forgotten": lambda: dp - delta,
            "scaled": lambda: p * (dp - delta) * v.shape[1] ** -0.5,
        }.get(wrong, lambda: p * (dp - delta))()
        return (ds if wrong == "dv from ds" else p).T @ do, ds

    return answer


def _row_by_row(scores, lse, v, o, do):
    """Another right answer, row by row: dp - delta is (v - o) · do."""
    p = torch.exp(scores - lse.nan_to_num(neginf=math.inf)[:, None])
    ds = torch.stack([p_i * ((v - o_i) @ do_i) for p_i, o_i, do_i in zip(p, o, do, strict=True)])
    return torch.einsum("mn,md->nd", p, do), ds


def _mistake(name: str, says: str) -> Mistake:
    return Mistake(name, says, _with_fault(name))


DV_AND_DS = Exercise(
    id="4.3",
    name="dv and ds",
    title="dV and dS of one tile",
    section="6 · The way back",
    solution_name="dv_and_ds",
    properties=(
        Property("by hand", "one query, two keys: dv = (0.25, 0.75), ds = (-0.75, 0.75)", _by_hand),
        Property("whole row", "the tile holds every key of its rows", _whole_row),
        Property(
            "among others",
            "the row continues outside the tile; lse and o cover all of it",
            _among_others,
        ),
        Property("masked keys", "some scores are -inf", _masked),
        Property(
            "a row without keys", "its gradients are 0, and nothing is NaN", _row_without_keys
        ),
        Property("huge scores", "scores near 200 don't overflow", _huge_scores),
    ),
    mistakes=(
        _mistake(
            "softmax over the tile",
            "p is a softmax **over this tile alone**. The row continues in other tiles; lse is "
            "the logarithm of the whole row's denominator, so p = exp(scores - lse).",
        ),
        _mistake(
            "torch.softmax",
            "This is **torch.softmax of the tile's scores**: it divides by the tile's own sum "
            "(and gives NaN in a row that sees no key). The whole row's denominator is in lse.",
        ),
        _mistake(
            "no delta",
            "ds is p ∘ dp, **without delta**: raising one score also lowers the weights of all "
            "the others, and delta is what that costs.",
        ),
        _mistake(
            "delta of the tile",
            "delta is the sum of p ∘ dp **over this tile**; the sum must run over the whole row. "
            "That sum equals rowsum(do ∘ o), which is why o is kept.",
        ),
        _mistake(
            "one delta for all",
            "delta is **one number for all rows**; it must be a sum over D for each row: keep the "
            "rows apart.",
        ),
        _mistake(
            "delta as a row",
            "delta, of shape (m,), is broadcast **along the keys**: subtracted from (m, n), it "
            "lines up with the last dimension. It belongs to the queries: delta[:, None].",
        ),
        _mistake("plus delta", "delta is **added**; ds is p ∘ (dp **-** delta)."),
        _mistake(
            "p forgotten",
            "ds is dp - delta here, **without the factor p**: a key with no weight must get no "
            "gradient.",
        ),
        _mistake(
            "scaled",
            "ds is multiplied by the **scale** 1/√D. The scores you are given are already scaled; "
            "the scale belongs to dq and dk, one step later.",
        ),
        _mistake("sign", "ds has the **opposite sign**: it is p ∘ (dp - delta)."),
        _mistake(
            "p outside the bracket",
            "ds is p ∘ dp - delta here: delta must be **multiplied by p** too.",
        ),
        _mistake(
            "dv from ds",
            "dv is computed from **ds**. But v is weighted by p itself: o = p v, so dv = pᵀ do.",
        ),
        _mistake(
            "two exponentials",
            "exp(scores) and exp(lse) are computed **separately** and then divided: near 200 both "
            "overflow. Subtract first: exp(scores - lse).",
        ),
        _mistake(
            "row without keys",
            "In a row without keys, scores and lse are both -inf, and **-inf - (-inf) is NaN**. "
            "Its p must be 0: replace its lse with a value that makes exp give 0.",
        ),
    ),
    alternative=_row_by_row,
)

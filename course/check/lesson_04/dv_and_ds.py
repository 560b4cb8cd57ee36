"""Exercise 4.3: dV and dS of one tile of the backward pass."""

import math

import torch

from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip
from reference.attention import safe_softmax

EPS = torch.finfo(torch.float32).eps


@right
def dv_and_ds(scores, lse, v, o, do):
    safe = torch.where(lse == -torch.inf, torch.inf, lse)
    p = torch.exp(scores - safe[:, None])
    dp = do @ v.T
    delta = (do * o).sum(-1)
    return p.T @ do, p * (dp - delta[:, None])


@also_right
def row_by_row(scores, lse, v, o, do):
    """dp - delta is (v - o) · do."""
    p = torch.exp(scores - lse.nan_to_num(neginf=torch.inf)[:, None])
    ds = torch.stack([p_i * ((v - o_i) @ do_i) for p_i, o_i, do_i in zip(p, o, do, strict=True)])
    return torch.einsum("mn,md->nd", p, do), ds


def seen(answer, scores, v, do, cols, given):
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


def rows(rng, m, n, D=4):
    """Scores (m, n), v (n, D) and do (m, D)."""
    return [torch.randn(*size, generator=rng) for size in ((m, n), (n, D), (m, D))]


@holds("one query, two keys: dv = (0.25, 0.75), ds = (-0.75, 0.75)")
def by_hand(answer, rng):
    scores, v = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[4.0], [8.0]])
    return seen(answer, scores, v, torch.ones(1, 1), slice(0, 2), "the example of the lesson")


@holds("the tile holds every key of its rows")
def whole_row(answer, rng):
    return seen(answer, *rows(rng, 5, 6), slice(0, 6), "the tile holds all keys")


@holds("the row continues outside the tile; lse and o cover all of it")
def among_others(answer, rng):
    return seen(answer, *rows(rng, 5, 12), slice(4, 8), "keys 4 to 7 of 12")


@holds("some scores are -inf")
def masked_keys(answer, rng):
    scores, v, do = rows(rng, 4, 8)
    scores.masked_fill_(torch.ones(4, 8, dtype=torch.bool).triu(5), -torch.inf)
    return seen(answer, scores, v, do, slice(4, 8), "some keys masked")


@holds("its gradients are 0, and nothing is NaN")
def a_row_without_keys(answer, rng):
    scores, v, do = rows(rng, 4, 6)
    scores[0] = -torch.inf
    given = "row 0 sees no key: its lse is -inf, its o is 0"
    return seen(answer, scores, v, do, slice(0, 3), given)


@holds("scores near 200 don't overflow")
def huge_scores(answer, rng):
    scores, v, do = rows(rng, 4, 6)
    return seen(answer, scores + 200, v, do, slice(3, 6), "scores near 200")


slip(
    "softmax over the tile",
    "p is a softmax **over this tile alone**. The row continues in other tiles; lse is the "
    "logarithm of the whole row's denominator, so p = exp(scores - lse).",
    ("torch.exp(scores - safe[:, None])", "safe_softmax(scores)[0]"),
)
slip(
    "torch.softmax",
    "This is **torch.softmax of the tile's scores**: it divides by the tile's own sum (and gives "
    "NaN in a row that sees no key). The whole row's denominator is in lse.",
    ("torch.exp(scores - safe[:, None])", "torch.softmax(scores, -1)"),
)
slip(
    "no delta",
    "ds is p ∘ dp, **without delta**: raising one score also lowers the weights of all the others, "
    "and delta is what that costs.",
    ("dp - delta[:, None]", "dp"),
)
slip(
    "delta of the tile",
    "delta is the sum of p ∘ dp **over this tile**; the sum must run over the whole row. That sum "
    "equals rowsum(do ∘ o), which is why o is kept.",
    ("do * o", "p * dp"),
)
slip(
    "one delta for all",
    "delta is **one number for all rows**; it must be a sum over D for each row: keep the rows "
    "apart.",
    ("(do * o).sum(-1)", "(do * o).sum()"),
    ("delta[:, None]", "delta"),
)
slip(
    "delta as a row",
    "delta, of shape (m,), is broadcast **along the keys**: subtracted from (m, n), it lines up "
    "with the last dimension. It belongs to the queries: delta[:, None].",
    ("delta[:, None]", "delta"),
)
slip("plus delta", "delta is **added**; ds is p ∘ (dp **-** delta).", ("dp - delta", "dp + delta"))
slip(
    "p forgotten",
    "ds is dp - delta here, **without the factor p**: a key with no weight must get no gradient.",
    ("p * (dp - delta[:, None])", "dp - delta[:, None]"),
)
slip(
    "scaled",
    "ds is multiplied by the **scale** 1/√D. The scores you are given are already scaled; the "
    "scale belongs to dq and dk, one step later.",
    ("p * (dp - delta[:, None])", "p * (dp - delta[:, None]) * v.shape[1] ** -0.5"),
)
slip("sign", "ds has the **opposite sign**: it is p ∘ (dp - delta).", ("p * (dp", "-p * (dp"))
slip(
    "p outside the bracket",
    "ds is p ∘ dp - delta here: delta must be **multiplied by p** too.",
    ("p * (dp - delta[:, None])", "p * dp - delta[:, None]"),
)
slip(
    "dv from ds",
    "dv is computed from **ds**. But v is weighted by p itself: o = p v, so dv = pᵀ do.",
    ("p.T @", "(p * (dp - delta[:, None])).T @"),
)
slip(
    "two exponentials",
    "exp(scores) and exp(lse) are computed **separately** and then divided: near 200 both "
    "overflow. Subtract first: exp(scores - lse).",
    ("torch.exp(scores - safe[:, None])", "torch.exp(scores) / torch.exp(safe)[:, None]"),
)
slip(
    "row without keys",
    "In a row without keys, scores and lse are both -inf, and **-inf - (-inf) is NaN**. Its p must "
    "be 0: replace its lse with a value that makes exp give 0.",
    ("torch.where(lse == -torch.inf, torch.inf, lse)", "lse"),
)

DV_AND_DS = Exercise.of(
    __name__, "4.3 dv and ds", title="dV and dS of one tile", section="6 · The way back"
)

"""Exercise 4.3: dV and dS of one tile of the backward pass."""

import math

import torch

from course.check.draw import integer
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


def seen(answer, scores, v, do, cols, given, **near):
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
        **(near or {"atol": 4 * EPS * (D + m + size) * max(1.0, product), "rtol": 0.0}),
    )


def rows(rng, m, n, D=4):
    """Scores (m, n), v (n, D) and do (m, D)."""
    return [torch.randn(*size, generator=rng) for size in ((m, n), (n, D), (m, D))]


@holds("one query, two keys: dv = (0.25, 0.75), ds = (-0.75, 0.75)")
def by_hand(answer, rng):
    scores, v = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[4.0], [8.0]])
    return seen(
        answer, scores, v, torch.ones(1, 1), slice(0, 2), "the example", atol=6e-7, rtol=0.0
    )


@holds("the tile holds every key of its rows")
def whole_row(answer, rng):
    return seen(answer, *rows(rng, 5, 6), slice(0, 6), "the tile holds all keys")


@holds("the row continues outside the tile; lse and o cover all of it")
def among_others(answer, rng):
    D = integer(rng, 5, 20)
    return seen(answer, *rows(rng, 5, 12, D), slice(4, 8), "keys 4 to 7 of 12")


@holds("some scores are -inf")
def masked_keys(answer, rng):
    scores, v, do = rows(rng, 4, 8)
    # rows 0 and 1 see keys, but none of the tile
    scores.masked_fill_(torch.ones(4, 8, dtype=torch.bool).triu(3), -torch.inf)
    return seen(answer, scores, v, do, slice(4, 8), "some keys masked")


@holds("its gradients are 0, and nothing is NaN")
def a_row_without_keys(answer, rng):
    scores, v, do = rows(rng, 4, 6)
    scores[0] = -torch.inf
    given = "row 0 sees no key: its lse is -inf, its o is 0"
    return seen(answer, scores, v, do, slice(0, 3), given)


@holds("scores near ±200 and ±2000")
def huge_scores(answer, rng):
    """Even in fp64, exp overflows above 709 and underflows below -745."""
    scores, v, do = rows(rng, 4, 6)
    return [
        seen(answer, scores + far, v, do, slice(3, 6), f"scores near {far}")
        for far in (200, -200, 2000, -2000)
    ]


slip(
    "softmax over the tile",
    "p is a softmax **over this tile alone**. The row continues in other tiles; lse is the "
    "logarithm of the whole row's denominator, so p = exp(scores - lse).",
    ("torch.exp(scores - safe[:, None])", "torch.softmax(scores, -1).nan_to_num(0.0)"),
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
    "exp(scores) and exp(lse) are computed **separately** and then divided: far from 0 "
    "both overflow, or both are 0. Subtract first: exp(scores - lse).",
    ("torch.exp(scores - safe[:, None])", "torch.exp(scores) / torch.exp(safe)[:, None]"),
)
slip(
    "row without keys",
    "In a row without keys, scores and lse are both -inf, and **-inf - (-inf) is NaN**. Its p must "
    "be 0: replace its lse with a value that makes exp give 0.",
    ("torch.where(lse == -torch.inf, torch.inf, lse)", "lse"),
)
slip(
    "two exponentials in fp64",
    "Two exponentials are divided, **in fp64**. That only moves the limit: below -745 and above "
    "709 it is 0 / 0 or inf / inf again. Subtract first: exp(scores - lse).",
    (
        "torch.exp(scores - safe[:, None])",
        "(scores.double().exp() / safe.double().exp()[:, None]).float()",
    ),
)
slip(
    "lse never below 0",
    "lse is **kept at 0 or above**, which takes care of -inf but changes other rows: an lse may be "
    "negative. Only -inf needs replacing.",
    ("torch.where(lse == -torch.inf, torch.inf, lse)", "lse.clamp(min=0.0)"),
)
slip(
    "one empty row empties all",
    "As soon as one row sees no key, **every row** gives 0. Decide row by row.",
    ("    return", "    p = p * (lse > -torch.inf).all()\n    return"),
)
slip(
    "NaN cleaned up at the end",
    "The NaN is **replaced in the results**. By then it has spread: dv sums over the queries, so "
    "one row without keys has destroyed all of dv. Don't let it arise.",
    ("torch.where(lse == -torch.inf, torch.inf, lse)", "lse"),
    (
        "return p.T @ do, p * (dp - delta[:, None])",
        "ds = p * (dp - delta[:, None])\n    return (p.T @ do).nan_to_num(), ds.nan_to_num()",
    ),
)
slip(
    "from the tile's maximum",
    "p is measured from the **tile's own maximum**, not divided by the denominator. lse holds "
    "both: p = exp(scores - lse).",
    ("safe[:, None])", "scores.amax(-1, keepdim=True))"),
)
slip(
    "powers of 2",
    "p is a **power of 2**, but lse is a natural logarithm: use e.",
    ("torch.exp(", "torch.exp2("),
)
slip(
    "dv from o",
    "dv is pᵀ **o** here. A gradient comes from the gradient that arrives: dv = pᵀ do.",
    ("p.T @ do", "p.T @ o"),
)
slip(
    "dp from o",
    "dp is **o** vᵀ here. It is the gradient of p, so it comes from do: dp = do vᵀ.",
    ("do @ v.T", "o @ v.T"),
)
slip(
    "delta averaged",
    "delta is a **mean** over D; it is a sum.",
    ("(do * o).sum(-1)", "(do * o).mean(-1)"),
)
slip(
    "diagonal alone",
    "ds is p (1 - p) dp: only the **diagonal** of the softmax's Jacobian. A score also moves the "
    "weights of all the other keys; delta holds that part.",
    ("p * (dp - delta[:, None])", "p * (1 - p) * dp"),
)
slip(
    "swapped",
    "The two results are **in the wrong order**: return dv first, then ds.",
    (
        "return p.T @ do, p * (dp - delta[:, None])",
        "return p * (dp - delta[:, None]), p.T @ do",
    ),
)
slip(
    "a small number added",
    "A small number such as 1e-6 is **added to p**, so a key that is masked still gets some "
    "gradient. Nothing here needs it.",
    ("torch.exp(scores - safe[:, None])", "torch.exp(scores - safe[:, None]) + 1e-6"),
)
slip(
    "half precision",
    "p and do are multiplied in **fp16**, which keeps three digits: all here is fp32.",
    ("p.T @ do", "(p.half().T @ do.half()).float()"),
)

DV_AND_DS = Exercise.of(
    __name__, "4.3 dv and ds", title="dV and dS of one tile", section="6 · The way back"
)

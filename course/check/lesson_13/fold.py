"""Exercise 13.2: one decode step over an int8 cache, its scales folded into scores and weights.

Mistakes where o is right are here: another lse, or a wrong way. The rest are beside it.
"""

import contextlib
import math

import torch

import course.check.lesson_13.fold_mistakes  # noqa: F401 — marks most of the mistakes
from course.check.compare import complain
from course.check.draw import integer
from course.check.lesson_13.fold_mistakes import FOLDING, NUMERATOR, RETURNED, SCORES
from course.check.lesson_13.widened import Watching
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip
from reference.flash_decoding import flash_decode

EPS = torch.finfo(torch.float32).eps


@right
def attend_quantized(q, k, v, k_scale, v_scale, scale):
    scores = scale * (q @ k.float().T) * k_scale  # (G, Lk)
    m = scores.amax(-1)
    p = torch.exp(scores - m[:, None])
    l = p.sum(-1)
    o = (p * v_scale) @ v.float() / l[:, None]
    return o, m + l.log()


@also_right
def by_softmax(q, k, v, k_scale, v_scale, scale):
    """The scales of K times that of the softmax first: Lk products fewer per query head."""
    scores = torch.einsum("gd,ld->gl", q, k.to(q.dtype)) * (k_scale * scale)[None, :]
    weights = torch.softmax(scores, -1) * v_scale[None, :]
    return weights @ v.to(q.dtype), torch.logsumexp(scores, -1)


@also_right
def tile_by_tile(q, k, v, k_scale, v_scale, scale):
    """The online softmax over tiles of 16 keys."""
    m, l = torch.full((len(q),), -math.inf), torch.zeros(len(q))
    acc = torch.zeros(len(q), v.shape[1])
    for tile in zip(k.split(16), v.split(16), k_scale.split(16), v_scale.split(16), strict=True):
        k_tile, v_tile, of_k, of_v = tile
        scores = (q * scale) @ k_tile.float().T * of_k
        m_new = torch.maximum(m, scores.amax(-1))
        p, alpha = torch.exp(scores - m_new[:, None]), torch.exp(m - m_new)
        l, m = l * alpha + p.sum(-1), m_new
        acc = acc * alpha[:, None] + (p * of_v) @ v_tile.float()
    return acc / l[:, None], m + l.log()


@also_right
def in_fp64(q, k, v, k_scale, v_scale, scale):
    """In fp64, the keys in the rows of the scores, rounded once at the end."""
    scores = k.double() @ q.double().T * scale * k_scale.double()[:, None]  # (Lk, G)
    lse = scores.logsumexp(0)
    p = (scores - lse).exp() * v_scale.double()[:, None]
    return (p.T @ v.double()).float(), lse.float()


def truth(q, k, v, k_scale, v_scale, scale):
    """Return o (G, Dv) and lse (G,) from `flash_decode` in fp64, and how far fp32 may be off.

    A score is a sum of D products times two scales: off by D + 3 roundings of the sum of their
    sizes. That is the relative error of a weight; o and lse sum up Lk of them.
    """
    cache = {"k_cache": k, "v_cache": v, "k_scale": k_scale, "v_scale": v_scale}
    cache = {name: x[None, :, None] for name, x in cache.items()}  # one row, one KV head
    wide = q.double()[None, None]
    o, lse = flash_decode(wide, **cache, scale=scale, return_lse=True)
    size = (scale * (q.double().abs() @ k.double().abs().T) * k_scale.double()).max().item()
    e = (q.shape[1] + 3) * size + lse.abs().max().item() + len(k) + 8
    values = (v.double().abs() * v_scale.double()[:, None]).max().item()
    return (o[0, 0].float(), lse[0, 0].float()), 2 * EPS * e, max(1.0, values)


def head(rng, G=3, Lk=24, D=16, Dv=12):
    """Return q, k, v, k_scale, v_scale of one KV head; the scores are of size 1, the values too.

    Scales differ by a factor of up to 16 from token to token.
    """
    q = torch.randn(G, D, generator=rng)
    k = torch.randint(-127, 128, (Lk, D), generator=rng, dtype=torch.int8)
    v = torch.randint(-127, 128, (Lk, Dv), generator=rng, dtype=torch.int8)
    k_scale, v_scale = torch.exp2(4 * torch.rand(2, Lk, generator=rng) - 2) / 64
    return q, k, v, k_scale, v_scale


def ask(answer, inputs, given, scale=None, around=None):
    """Call the answer with a head's inputs; around: a context for this call alone."""
    scale = inputs[0].shape[1] ** -0.5 if scale is None else scale
    (G, D), (Lk, Dv) = inputs[0].shape, inputs[2].shape
    wanted, near, values = truth(*inputs, scale)
    given = f"G = {G}, Lk = {Lk}, D = {D}, Dv = {Dv}, scale {scale:.4g}; {given}"
    with around or contextlib.nullcontext():
        return Seen.of(
            answer,
            (*inputs, scale),
            wanted=wanted,
            given=given,
            names=("o", "lse"),
            atol=near * values,
            rtol=near,
        )


@holds("two keys: scores ln 2 and 3 ln 2, values 10 and 20")
def by_hand(answer, rng):
    whole = {"dtype": torch.int8}
    q, k, v = torch.ones(1, 1), torch.tensor([[2], [1]], **whole), torch.tensor([[5], [4]], **whole)
    k_scale, v_scale = math.log(2) * torch.tensor([0.5, 3.0]), torch.tensor([2.0, 5.0])
    wanted = torch.tensor([[18.0]]), torch.tensor([math.log(10)])
    told = "q 1, k 2 and 1, k_scale ½ ln 2 and 3 ln 2, v 5 and 4, v_scale 2 and 5, scale 1"
    args = q, k, v, k_scale, v_scale, 1.0
    return Seen.of(answer, args, wanted=wanted, given=told, names=("o", "lse"))


@holds("all scales equal: the one of K belongs to the softmax's, the one of V to o")
def equal_scales(answer, rng):
    q, k, v, k_scale, v_scale = head(rng)
    k_scale, v_scale = torch.full_like(k_scale, 0.02), torch.full_like(v_scale, 3.0)
    return ask(answer, (q, k, v, k_scale, v_scale), "all k_scale 0.02, all v_scale 3")


@holds("the keys' scales differ, all those of the values are 1")
def scales_of_keys(answer, rng):
    q, k, v, k_scale, v_scale = head(rng)
    return ask(answer, (q, k, v, k_scale, torch.ones_like(v_scale)), "all v_scale are 1")


@holds("the values' scales differ, all those of the keys are 1/64")
def scales_of_values(answer, rng):
    """l is the sum of the weights before they meet these scales."""
    q, k, v, k_scale, v_scale = head(rng)
    return ask(answer, (q, k, v, torch.full_like(k_scale, 1 / 64), v_scale), "all k_scale 1/64")


@holds("both differ; one to eight query heads, several D and Dv")
def any_sizes(answer, rng):
    return [
        ask(answer, head(rng, 1, integer(rng, 30, 50), 8, 8), "as they come"),
        ask(answer, head(rng, 8, integer(rng, 5, 20), 32, 24), "as they come", scale=0.3),
    ]


@holds("a single key: o is its value, whatever its score")
def one_key(answer, rng):
    return ask(answer, head(rng, Lk=1), "one key")


@holds("as many query heads as keys, and columns: a scale belongs to a key")
def square(answer, rng):
    return ask(answer, head(rng, 8, 8, 8, 8), "all dimensions alike")


@holds("one key has a scale a hundred times that of the others")
def large_token(answer, rng):
    q, k, v, k_scale, v_scale = head(rng)
    j = integer(rng, 0, 23)
    k_scale[j], v_scale[(j + 7) % 24] = 2.0, 20.0
    given = f"k_scale[{j}] is 2, another's v_scale is 20"
    return ask(answer, (q, k, v, k_scale, v_scale), given, scale=0.04)  # no exp overflows


@holds("scores around 200, 95 and -200, also by head; -300 and 300 in one row")
def far_from_zero(answer, rng):
    q, k, v, k_scale, v_scale = head(rng)
    q[:, 0], k[:, 0] = 1.0, 125  # adds 125 · k_scale to every score, at a scale of 1
    k_scale[:] = 1.6 + 0.01 * torch.rand(24, generator=rng)
    near = torch.cat([q[:, :1], 0.01 * q[:, 1:]], 1)
    away, both = near.clone(), near.clone()
    away[:, 0], both[1, 0] = -1.0, -1.0
    k_wide = k.clone()
    k_wide[::2, 0] = -125
    wide = k_scale.where(torch.arange(24) > 3, 2.4)
    return [
        ask(answer, (near, k, v, k_scale, v_scale), "scores around 200", scale=1.0),
        ask(answer, (away, k, v, k_scale, v_scale), "scores around -200", scale=1.0),
        ask(answer, (near, k, v, 0.475 * k_scale, v_scale), "scores around 95", scale=1.0),
        ask(answer, (both, k, v, k_scale, v_scale), "heads of 200, -200 and 200", scale=1.0),
        ask(answer, (near, k_wide, v, wide, v_scale), "scores of -300 and 300", scale=1.0),
    ]


@holds("a token of zeros, whose scales are 1")
def zeros(answer, rng):
    q, k, v, k_scale, v_scale = head(rng)
    k[5], v[5], k_scale[5], v_scale[5] = 0, 0, 1.0, 1.0
    return ask(answer, (q, k, v, k_scale, v_scale), "token 5 is zeros")


@holds("no scale touches K or V, and nothing is larger than they are", see=FOLDING)
def nothing_wide(answer, rng):
    inputs, scale = head(rng, 3, 64, 32, 24), 0.25  # Lk · Lk is none of the other sizes
    watching = Watching(*inputs[1:], scale)
    seen = ask(answer, inputs, "what is made on the way", scale, around=watching)
    if complain(seen):  # how it was computed matters only once it is right
        return seen
    return Seen(watching.found(), "K and V as they are stored", seen.given)


slip(
    "v_scale in the lse",
    "o is right, but the lse is made of the weights **times v_scale**. It tells of the scores, "
    "and the values have no part in them.",
    (RETURNED, "return o, m + (p * v_scale).sum(-1).log()"),
)
slip(
    "no maximum in the lse",
    "o is right, but the lse is the logarithm of exponentials **without the maximum**: at scores "
    "of 200 they overflow, and at -200 all are 0. Take m + log l.",
    (RETURNED, "return o, scores.exp().sum(-1).log()"),
)
slip(
    "an lse without k_scale",
    "o is right, but the lse is that of the scores **without k_scale**.",
    (RETURNED, "return o, torch.logsumexp(scores / k_scale, -1)"),
)
slip(
    "an lse without the softmax's scale",
    "o is right, but the lse is that of the scores **without the softmax's scale**.",
    (RETURNED, "return o, torch.logsumexp(scores / scale, -1)"),
)
slip(
    "an lse without any scale",
    "o is right, but the lse is that of the scores **without k_scale and the softmax's scale**.",
    (RETURNED, "return o, torch.logsumexp(q @ k.float().T, -1)"),
)
slip(
    "m + l",
    "The lse adds **l itself** to m. It is the logarithm of the sum of e^s, so m comes back as it "
    "is, and of l the logarithm is missing.",
    (RETURNED, "return o, m + l"),
)
slip(
    "m for the lse",
    "In place of the lse comes **m, the largest score**. It is a little less than the lse; what is "
    "missing counts the other keys.",
    (RETURNED, "return o, m"),
)
slip(
    "l for the lse",
    "In place of the lse comes **l**, the sum of the exponentials. A logarithm is missing, and the "
    "maximum that was subtracted.",
    (RETURNED, "return o, l"),
)
slip(
    "an lse of each key",
    "o is right, but the lse is taken **over the query heads**: (Lk,). It is taken over the keys: "
    "(G,).",
    (RETURNED, "return o, torch.logsumexp(scores, 0)"),
)
slip(
    "an lse without the maximum",
    "The lse **lacks the maximum** that was subtracted: it is m + log l.",
    (RETURNED, "return o, l.log()"),
)
slip(
    "log l less m",
    "The lse is log l **minus m**. The maximum was subtracted from the scores: add it again.",
    (RETURNED, "return o, l.log() - m"),
)
slip(
    "m less log l",
    "The lse is m **minus** log l. It is never less than the largest score: l is at least 1, so "
    "its logarithm is added.",
    ("m + l.log()", "m - l.log()"),
)
slip(
    "an lse in base 2",
    "The lse is in **base 2**. Outside a kernel it is the natural logarithm.",
    (RETURNED, "return o, (m + l.log()) / torch.log(torch.tensor(2.0))"),
)
slip(
    "log2 of l",
    "The lse adds the **base-2 logarithm** of l to m. Both are natural here.",
    ("l.log()", "l.log2()"),
)


def widened(how, says, keys, values):
    """Add three mistakes: K, V or both meet their scales too early. says: what is made, of whom."""
    of_k, of_v = (SCORES, keys), (NUMERATOR, values)
    for made, scores, changes in (
        ("K times its scales", "the scores", [of_k]),
        ("V times its scales", "the weights", [of_v]),
        ("K and V times their scales", "the scores and the weights", [of_k, of_v]),
    ):
        slip(f"{made}{how}", says.format(made=made, scores=scores), *changes)


widened(
    "",
    "The numbers are right. But it makes **{made}**, alone or times a constant: one product for "
    "each stored number, and a tensor four times as large as what was stored. Give the scales to "
    "{scores}: they are fewer.",
    "scale * (q @ (k.float() * k_scale[:, None]).T)",
    "p @ (v.float() * v_scale[:, None])",
)
widened(
    ", piece by piece",
    "The numbers are right. But it makes **{made}**, piece by piece, alone or times a constant. "
    "That is still one product for each stored number. Give the scales to {scores}: they are "
    "fewer.",
    "scale * torch.stack([q @ (key.float() * of) for key, of in zip(k, k_scale)], 1)",
    "sum(w[:, None] * (x.float() * of) for w, x, of in zip(p.T, v, v_scale))",
)
widened(
    ", by a diagonal matrix",
    "The numbers are right. But it makes **{made}**, by a matrix of Lk × Lk numbers with the "
    "scales on its diagonal. A vector (Lk,) multiplies columns as it is: those of {scores}.",
    "scale * (q @ (torch.diag(k_scale) @ k.float()).T)",
    "p @ (torch.diag(v_scale) @ v.float())",
)
slip(
    "a diagonal matrix beside the scores",
    "The numbers are right. But there is **a matrix of Lk × Lk numbers**, with scales on its "
    "diagonal and nothing beside it. A vector (Lk,) multiplies columns as it is.",
    (") * k_scale", ") @ torch.diag(k_scale)"),
)
slip(
    "something larger than K and V",
    "The numbers are right. But on the way there is **a tensor larger than K and V**: products "
    "entry by entry, or a copy of K for each query head. A matrix product sums as it goes.",
    ("(q @ k.float().T)", "(q[:, None] * k.float()).sum(-1)"),
)
slip(
    "k_scale in place",
    "It multiplies **k_scale in place**, as every method does whose name ends in an underscore: "
    "the next step finds other scales. Work on a copy.",
    ("scale * (q @", "(q @"),
    (" * k_scale", " * k_scale.mul_(scale)"),
)
slip(
    "q in place",
    "It multiplies **q in place**: the caller's query is another one afterwards. Work on a copy.",
    ("scale * (q @", "(q.mul_(scale) @"),
)


FOLD = Exercise.of(
    __name__,
    "13.2 fold",
    title="Fold the scales",
    section=FOLDING,
)

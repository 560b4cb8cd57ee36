"""Exercise 9.5's launch: NaN after each row's keys, and the partials that are wanted, in fp64."""

import math

import torch

from course.check.guards import guarded, poisoned
from course.check.kernel_inputs import EPS
from course.check.seen import Seen
from kernels.runtime import device


def ranges(length, S, block_n):
    """The keys of each split: equally many whole blocks, the last splits what is left."""
    chunk = math.ceil(math.ceil(length / block_n) / S) * block_n
    starts = [min(s * chunk, length) for s in range(S)]
    return [(start, min(start + chunk, length)) for start in starts]


def truth(q, k, v, lengths, S, scale, block_n):
    """Partial o (S, B, Hq, D) and lse (S, B, Hq) in fp64, and how far fp32 may be from them.

    A score is a sum of D products: off by (D + 1) roundings of the sum of their sizes, which e
    bounds. That is the relative error of a weight; o and lse sum up to n of them.
    """
    (B, Hq, D), Hkv = q.shape, k.shape[2]
    o, lse = torch.zeros(S, B, Hq, D), torch.full((S, B, Hq), -math.inf)
    q, worst = q.double(), 0.0
    for b, length in enumerate(lengths):
        for s, (start, stop) in enumerate(ranges(length, S, block_n)):
            for h in range(Hq if start < stop else 0):
                keys, values = (x[b, start:stop, h // (Hq // Hkv)].double() for x in (k, v))
                scores = scale * (keys @ q[b, h])
                o[s, b, h] = (torch.softmax(scores, 0) @ values).float()
                lse[s, b, h] = torch.logsumexp(scores, 0).float()
                size = scale * (keys.abs() @ q[b, h].abs()).max().item()
                e = (D + 1) * size + scores.abs().max().item() + (stop - start) + 8
                worst = max(worst, 2 * e * max(1.0, values.abs().max().item()))
    return o, lse, EPS * worst


def ask(answer, rng, *, lengths, Hkv=1, G=1, S=1, D=16, block_n=16, scale=None, **more):
    """Launch (S, Hkv, B) programs on random inputs; NaN lies after each row's keys.

    more: room (cells per row beyond the longest), gap (NaN between the rows of k and v), shift
    (added to the scores, by blocks of 16 keys), heads_first (the cache is laid out
    (B, Hkv, Lk, D)), q (its value).
    """
    B, capacity = len(lengths), max(lengths) + more.get("room", 5)
    q = torch.randn(B, Hkv * G, D, generator=rng)
    k, v = torch.randn(2, B, capacity, Hkv, D, generator=rng)
    scale = D**-0.5 if scale is None else scale
    if "q" in more:
        q.fill_(more["q"])
    if "shift" in more:
        places = torch.arange(k.shape[1]) // 16 % len(more["shift"])  # 16 keys each
        q[..., 0], k[..., 0] = 1.0, torch.tensor(more["shift"])[places][:, None] / scale
    for b, length in enumerate(lengths):
        k[b, length:], v[b, length:] = math.nan, math.nan
    wanted = truth(q, k, v, lengths, S, scale, block_n)
    if more.get("heads_first"):
        k, v = k.transpose(1, 2), v.transpose(1, 2)
    ins = [
        guarded(x.contiguous().to(device()), name, row_gap=gap)
        for x, name, gap in zip((q, k, v), "qkv", (0, *more.get("gap", (0, 0))), strict=True)
    ]
    tensors = [x.tensor for x in ins]
    if more.get("heads_first"):
        tensors[1:] = [x.transpose(1, 2) for x in tensors[1:]]
    rows = guarded(torch.tensor(lengths, dtype=torch.int32).to(device()), "lengths")
    o = poisoned((S, B, Hkv * G, D), name="o", device=device())
    lse = poisoned((S, B, Hkv * G), name="lse", device=device())
    strides = [n for x in tensors[1:] for n in x.stride()[:3]]
    block_m = max(16, 1 << (G - 1).bit_length())
    constants = {"D": D, "BLOCK_M": block_m, "BLOCK_N": block_n}
    answer[(S, Hkv, B)](
        *tensors, rows.tensor, o.tensor, lse.tensor, *strides, scale, G, **constants
    )
    return Seen(
        (o.tensor, lse.tensor),
        wanted[:2],
        f"S = {S}, Hkv = {Hkv}, G = {G}, lengths {[*lengths]}, D = {D}, BLOCK_N = {block_n}",
        names=("o", "lse"),
        guards=(*ins, rows, o, lse),
        atol=wanted[2],
        rtol=0.0,
    )

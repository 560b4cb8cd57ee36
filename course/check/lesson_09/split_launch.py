"""Exercise 9.5's launch: NaN after each row's keys, and the partials that are wanted, in fp64.

`truth`, `laid_out` and `launch` also serve the split kernels of lessons 12 and 13.
"""

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
    gaps = dict(zip("kv", more.get("gap", (0, 0)), strict=True))
    ins, cache = laid_out({"k": k, "v": v}, gaps, more.get("heads_first", False))
    q = guarded(q.to(device()), "q")
    numbers = [n for x in cache for n in x.stride()[:3]] + [scale]
    sizes = {"S": S, "Hkv": Hkv, "G": G, "D": D, "BLOCK_N": block_n}
    return launch(answer, (q.tensor, *cache), numbers, lengths, sizes, wanted, guards=(q, *ins))


def laid_out(cache, gaps, heads_first=False):
    """Put each part of a cache into a guarded buffer; returns these, and the parts as views.

    cache: name → tensor (B, Lk, Hkv, …). gaps: name → entries of poison between its rows.
    heads_first: in memory each is (B, Hkv, Lk, …).
    """
    if heads_first:
        cache = {name: x.transpose(1, 2).contiguous() for name, x in cache.items()}
    ins = [guarded(x.to(device()), name, row_gap=gaps.get(name, 0)) for name, x in cache.items()]
    return ins, [x.tensor.transpose(1, 2) if heads_first else x.tensor for x in ins]


def launch(answer, tensors, numbers, lengths, sizes, wanted, *, guards, constants=None):
    """Launch (S, Hkv, B) programs: `tensors`, lengths, o, lse, `numbers`, G, and the block sizes.

    sizes: S, Hkv, G, D and BLOCK_N. wanted: what `truth` returns. guards: of the tensors.
    constants: further ones that the kernel takes by name.
    """
    S, Hkv, G, D = (sizes[name] for name in ("S", "Hkv", "G", "D"))
    shape = S, len(lengths), Hkv * G
    rows = guarded(torch.tensor(lengths, dtype=torch.int32).to(device()), "lengths")
    o = poisoned((*shape, D), name="o", device=device())
    lse = poisoned(shape, name="lse", device=device())
    block_m = max(16, 1 << (G - 1).bit_length())
    constants = {**(constants or {}), "D": D, "BLOCK_M": block_m, "BLOCK_N": sizes["BLOCK_N"]}
    answer[(S, Hkv, len(lengths))](
        *tensors, rows.tensor, o.tensor, lse.tensor, *numbers, G, **constants
    )
    told = "".join(f", {name} = {n}" for name, n in constants.items() if name != "BLOCK_M")
    return Seen(
        (o.tensor, lse.tensor),
        wanted[:2],
        f"S = {S}, Hkv = {Hkv}, G = {G}, lengths {[*lengths]}{told}",
        names=("o", "lse"),
        guards=(*guards, rows, o, lse),
        atol=wanted[2],
        rtol=0.0,
    )

"""Exercise 13.3's launch: int8 caches, NaN around and after their scales, fp64 beside it."""

import math

import torch

from course.check.guards import guarded, poisoned
from course.check.lesson_09.split_launch import truth
from course.check.seen import Seen
from kernels.primitives import LOG2_E
from kernels.runtime import device


def ask(answer, rng, *, lengths, Hkv=1, G=1, S=1, D=16, block_n=16, **more):
    """Launch (S, Hkv, B) programs on a random int8 cache, whose scales differ by a factor of 16.

    After each row's keys there are stale numbers in the cache, and NaN in its scales.
    more: room (cells per row beyond the longest), gap (cells between the rows of the cache, and NaN
    between those of the scales), heads_first (k, v and their scales are laid out (B, Hkv, Lk, …)),
    k_scale and v_scale (a list: each for 8 tokens, then the next, and around again).
    """
    B, capacity = len(lengths), max(lengths) + more.get("room", 5)
    q = torch.randn(B, Hkv * G, D, generator=rng)
    k, v = torch.randint(-127, 128, (2, B, capacity, Hkv, D), generator=rng, dtype=torch.int8)
    scales = torch.exp2(4 * torch.rand(2, B, capacity, Hkv, generator=rng) - 2) / 64
    for x, name in zip(scales, ("k_scale", "v_scale"), strict=True):
        if name in more:
            given = torch.tensor(more[name])
            x[:] = given[torch.arange(capacity) // 8 % len(given)][:, None]
    wide = [x.double() * of[..., None].double() for x, of in zip((k, v), scales, strict=True)]
    scale = D**-0.5
    o_true, lse_true, near = truth(q, *wide, lengths, S, scale, block_n)
    for b, length in enumerate(lengths):
        scales[:, b, length:] = math.nan
    ins = _laid_out(q, k, v, *scales, more.get("gap", 0), more.get("heads_first", False))
    tensors = [x.tensor for x in ins]
    if more.get("heads_first"):
        tensors[1:] = [x.transpose(1, 2) for x in tensors[1:]]
    rows = guarded(torch.tensor(lengths, dtype=torch.int32).to(device()), "lengths")
    o = poisoned((S, B, Hkv * G, D), name="o", device=device())
    lse = poisoned((S, B, Hkv * G), name="lse", device=device())
    strides = *tensors[1].stride()[:3], *tensors[3].stride()
    block_m = max(16, 1 << (G - 1).bit_length())
    constants = {"D": D, "BLOCK_M": block_m, "BLOCK_N": block_n}
    answer[(S, Hkv, B)](
        *tensors, rows.tensor, o.tensor, lse.tensor, *strides, scale * LOG2_E, G, **constants
    )
    told = f"S = {S}, Hkv = {Hkv}, G = {G}, lengths {[*lengths]}, D = {D}, BLOCK_N = {block_n}"
    return Seen(
        (o.tensor, lse.tensor),
        (o_true, lse_true),
        told,
        names=("o", "lse"),
        guards=(*ins, rows, o, lse),
        atol=near,
        rtol=0.0,
    )


def _laid_out(q, k, v, k_scale, v_scale, gap, heads_first):
    """Lay each in a guarded buffer of its own; gap: between the rows of all but q."""
    named = {"k": k, "v": v, "k_scale": k_scale, "v_scale": v_scale}
    if heads_first:
        named = {name: x.transpose(1, 2).contiguous() for name, x in named.items()}
    buffers = [guarded(x.to(device()), name, row_gap=gap) for name, x in named.items()]
    return guarded(q.to(device()), "q"), *buffers

"""Exercise 13.3's launch: int8 caches, NaN around and after their scales, fp64 beside it."""

import math

import torch

from course.check.guards import guarded
from course.check.lesson_09.split_launch import laid_out, launch, truth
from kernels.primitives import LOG2_E
from kernels.runtime import device


def ask(answer, rng, *, lengths, Hkv=1, G=1, S=1, D=16, block_n=16, **more):
    """Launch (S, Hkv, B) programs on a random int8 cache, whose scales differ by a factor of 16.

    After each row's keys there are stale numbers in the cache, and NaN in its scales.
    more: room (cells per row beyond the longest), gap (cells between the rows of the cache, and NaN
    between those of the scales), heads_first (k, v and their scales are laid out (B, Hkv, Lk, …)),
    k_scale and v_scale (a list: each for 8 tokens, then the next, and around again), q (a factor),
    opposite (q points away from all keys: every score is below 0), zeros (k or v → scales of the
    first tokens, all of whose numbers are 0 unless the scale is: then the stored ones are not).
    """
    B, capacity = len(lengths), max(lengths) + more.get("room", 5)
    q = more.get("q", 1.0) * torch.randn(B, Hkv * G, D, generator=rng)
    k, v = torch.randint(-127, 128, (2, B, capacity, Hkv, D), generator=rng, dtype=torch.int8)
    if "opposite" in more:
        q, k = q.abs(), -k.abs()
    scales = torch.exp2(4 * torch.rand(2, B, capacity, Hkv, generator=rng) - 2) / 64
    for x, name in zip(scales, ("k_scale", "v_scale"), strict=True):
        if name in more:
            given = torch.tensor(more[name])
            x[:] = given[torch.arange(capacity) // 8 % len(given)][:, None]
    for name, given in more.get("zeros", {}).items():
        x, of = (k, scales[0]) if name == "k" else (v, scales[1])
        given = torch.tensor(given)
        x[:, : len(given)] *= (given == 0)[:, None, None]
        of[:, : len(given)] = given[:, None]
    wide = [x.double() * of[..., None].double() for x, of in zip((k, v), scales, strict=True)]
    scale = D**-0.5
    wanted = truth(q, *wide, lengths, S, scale, block_n)
    for b, length in enumerate(lengths):
        scales[:, b, length:] = math.nan
    parts = {"k": k, "v": v, "k_scale": scales[0], "v_scale": scales[1]}
    gaps = dict.fromkeys(parts, more.get("gap", 0))
    ins, cache = laid_out(parts, gaps, more.get("heads_first", False))
    q = guarded(q.to(device()), "q")
    numbers = *cache[0].stride()[:3], *cache[2].stride(), scale * LOG2_E
    sizes = {"S": S, "Hkv": Hkv, "G": G, "D": D, "BLOCK_N": block_n}
    return launch(answer, (q.tensor, *cache), numbers, lengths, sizes, wanted, guards=(q, *ins))

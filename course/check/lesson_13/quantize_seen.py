"""The caches that exercise 13.1 is asked for, and what is wanted of them."""

import torch

from course.check.seen import Seen
from reference import quantization as reference


def cache(rng, B=2, Lk=3, Hkv=2, D=8):
    """Return random tokens, each of its own size; none of x / scale lies near a tie."""
    x = torch.randn(B, Lk, Hkv, D, generator=rng)
    x *= torch.exp2(4 * torch.rand(B, Lk, Hkv, 1, generator=rng) - 2)
    return away_from_ties(x)


def away_from_ties(x):
    """Put 0 in place of what x / scale leaves within 0.02 of a half.

    There a right answer that computes in another order may round to the other side.
    """
    wide = x.double()
    y = 127 * wide / wide.abs().amax(-1, keepdim=True).clamp_min(1e-300)
    near = (y - y.floor() - 0.5).abs() < 0.02
    return x.masked_fill(near, 0.0)


def ask(answer, x, given, scale=None):
    """Ask for the cache x, and compare with the reference's: scales within 8 roundings."""
    if scale is None:
        args, wanted = (x,), reference.quantize(x, torch.int8, "token")
    else:
        args, wanted = (x, scale), (reference.round_to_cache(x, scale, torch.int8), scale)
    given = f"x {tuple(x.shape)}, {given}"
    names = ("stored", "scale")
    return Seen.of(answer, args, wanted=wanted, given=given, names=names, atol=0.0, rtol=1e-6)

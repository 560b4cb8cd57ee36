"""Rounding in sums and in merges: what happens, and how much of it can happen.

Every floating-point operation gives the exact result times (1 + δ) with |δ| ≤ u, the *unit
roundoff*: half the gap between 1 and the next number. A value that has passed through r of them is
off by at most about r · u of its size. All bounds here count roundings in that way, to first order
in u.

Source: Higham 2002, "Accuracy and Stability of Numerical Algorithms", chapters 2 to 4.
"""

import math

import torch
from torch import Tensor

from reference.online_softmax import merge_states

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def unit_roundoff(dtype: torch.dtype) -> float:
    """u, the largest relative error of one rounding: eps / 2.

    Raises TypeError for a dtype that is none of fp16, bf16, fp32, fp64.

    >>> unit_roundoff(torch.float16) == 2**-11
    True
    """
    if dtype not in FLOATS:
        raise TypeError(f"dtype must be one of {', '.join(map(str, FLOATS))}; got {dtype}")
    return torch.finfo(dtype).eps / 2


def half_ulp(x: float, dtype: torch.dtype) -> float:
    """Half the gap between the numbers of `dtype` around x: the most that rounding moves x.

    x: a finite number in the range of `dtype`, or ValueError.

    >>> half_ulp(11.8, torch.float16)
    0.00390625

    From 8 to 16 the numbers of fp16 are 1/128 apart, so rounding moves 11.8 by at most 1/256.
    """
    u, info = unit_roundoff(dtype), torch.finfo(dtype)
    if not math.isfinite(x) or abs(x) > info.max:
        raise ValueError(f"x must be finite in {dtype}, at most {info.max:g} in size; got {x}")
    size = max(abs(x), info.tiny)
    return u * 2.0 ** math.floor(math.log2(size))


def running_sum(terms: Tensor, dtype: torch.dtype, *, block: int = 1) -> Tensor:
    """The totals of a sum that is carried in `dtype`, block by block from the left.

    terms: (rows, n), fp32. The terms of a block are added up in fp32, as a dot product does it;
    then the block's sum is added to the total, and the total rounded to `dtype`.
    Returns (rows, ⌈n / block⌉) in `dtype`: the total after each block. Raises ValueError for terms
    of another shape, or a block below 1.

    >>> running_sum(torch.tensor([[2048.0, 1.0, 1.0], [1.0, 1.0, 2048.0]]), torch.float16).tolist()
    [[2048.0, 2048.0, 2048.0], [1.0, 2.0, 2050.0]]

    The same three numbers: 2049 lies halfway between two numbers of fp16, and is rounded down.
    """
    unit_roundoff(dtype)
    if terms.dim() != 2 or block < 1:
        raise ValueError(
            f"terms must be (rows, n) and block at least 1; got {tuple(terms.shape)} and {block}"
        )
    sums = [part.sum(1) for part in terms.float().split(block, dim=1)] if terms.shape[1] else []
    total = torch.zeros(len(terms), dtype=dtype, device=terms.device)
    totals = terms.new_empty(len(terms), len(sums), dtype=dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for i, part in enumerate(sums):
        total = (total.to(wide) + part).to(dtype)
        totals[:, i] = total
    return totals


def stalls_at(term: float, dtype: torch.dtype) -> float:
    """The total at which adding `term` once more changes nothing, for a sum carried in `dtype`.

    Less than half a gap is rounded away, and so is exactly half a gap where the total is a power of
    two. Gaps double at powers of two, so the total stops at the first power of two that is
    at least term / u. math.inf if `dtype` overflows before that. Raises ValueError unless term > 0.

    >>> stalls_at(1.0, torch.float16), stalls_at(0.3, torch.float16), stalls_at(64.0, torch.float16)
    (2048.0, 1024.0, inf)

    0.3 / u is 614.4, and the next power of two is 1024. Sixty-four at a time overflow instead.
    """
    if not term > 0 or not math.isfinite(term):
        raise ValueError(f"term must be positive and finite; got {term}")
    total = 2.0 ** math.ceil(math.log2(term / unit_roundoff(dtype)))
    return total if total <= torch.finfo(dtype).max else math.inf


def lse_factor(lse: float, dtype: torch.dtype) -> float:
    """exp(δ): the most by which a weight exp(lse) is off if lse is stored in `dtype`.

    δ is half a gap around lse, `half_ulp`. The weight comes out between exp(−δ) and exp(δ) times
    what it should be.

    >>> round(lse_factor(11.8, torch.float16), 4), round(lse_factor(11.8, torch.bfloat16), 4)
    (1.0039, 1.0317)
    """
    return math.exp(half_ulp(lse, dtype))


def merge_with_lse_in(dtype: torch.dtype, o: Tensor, lse: Tensor) -> Tensor:
    """The merge of partials o (S, ..., D), lse (S, ...) after lse has been stored in `dtype`.

    Everything else is done in the dtype of o and lse (fp64 if these are). Returns o (..., D).
    """
    unit_roundoff(dtype)
    return merge_states(o, lse.to(dtype).to(lse.dtype))[0]


def merge_bound(dtype: torch.dtype, o: Tensor, lse: Tensor) -> Tensor:
    """How far `merge_with_lse_in(dtype, o, lse)` can be from the exact merge, at most.

    With weights w_s and every lse off by at most δ, the merged o moves by

        Σ w_s (e^{δ_s} − 1) (o_s − o) / Σ w_s e^{δ_s},   at most   e^δ (e^δ − 1) Σ w_s |o_s − o|

    o: (S, ..., D); lse: (S, ...), −inf for an empty split; δ is taken for the largest |lse| of all.
    Returns a tensor like the merged o, fp64: absolute, for each element.
    """
    o, lse = o.double(), lse.double()
    merged, total = merge_states(o, lse)
    weights = torch.exp(lse - torch.where(total == -math.inf, 0.0, total))
    finite = lse[lse.isfinite()].abs()
    grown = lse_factor(finite.max().item() if finite.numel() else 0.0, dtype)
    spread = (weights[..., None] * (o - merged).abs()).sum(0)
    return grown * (grown - 1.0) * spread


def decode_key_by_key(scores: Tensor, v: Tensor, num_splits: int) -> tuple[Tensor, Tensor]:
    """One row's partials, each sum made one key after the other: an order that can be counted.

    scores: (n,) and v: (n, D), fp32 or fp64; n a multiple of num_splits, or ValueError. All splits
    take their next key at the same time. Every operation is in the dtype of the inputs.
    Returns o (S, D), normalised, and lse (S,), natural log.
    """
    n = len(scores)
    if scores.dim() != 1 or v.dim() != 2 or len(v) != n:
        raise ValueError(
            f"scores must be (n,) and v (n, D); got {tuple(scores.shape)} and {tuple(v.shape)}"
        )
    if num_splits < 1 or n == 0 or n % num_splits:
        raise ValueError(f"num_splits must divide the {n} keys; got {num_splits}")
    s, v = scores.view(num_splits, -1), v.view(num_splits, n // num_splits, -1)
    m = s.amax(1)
    p = torch.exp(s - m[:, None])  # (S, n / S)
    l, acc = torch.zeros_like(m), torch.zeros_like(v[:, 0])
    for j in range(s.shape[1]):
        l = l + p[:, j]
        acc = acc + p[:, j, None] * v[:, j]
    return acc / l[:, None], m + l.log()


def split_bound(scores: Tensor, v: Tensor, num_splits: int, *, coin_flips: bool = False) -> Tensor:
    """How far S splits, each summed key by key in fp32 and then merged, can be from the truth.

    Counted are the roundings that a term goes through, twice: in numerator and denominator.

        a weight p         R + 2      R = largest max − score: a subtraction that large, and exp
        a split's sums     c          c = n / S keys; one product and c − 1 additions
        its division       1/2        (there is only one)
        the merge, S > 1   S + Λ + 4  Λ = largest |lse| + 2 ln c + largest difference of two lse:
                                      S additions, and weights exp(lse_s − lse) made of rounded lse

    scores, v, num_splits: as in `decode_key_by_key`. Returns (D,), fp64: for each element, 2u times
    the count times Σ p |v| / Σ p, the worst case to first order in u.
    coin_flips: what to expect rather than fear. Roundings up and down cancel like steps of a random
    walk, so the count becomes its square root and Σ p |v| becomes |Σ p v|, largest element.
    """
    scores, v = scores.double(), v.double()
    s = scores.view(num_splits, -1)
    c = s.shape[1]
    weight = (s.amax(1, keepdim=True) - s).max().item() + 2
    count = weight + c + 0.5
    if num_splits > 1:
        lse = s.logsumexp(1)
        size = lse.abs().max().item() + 2 * math.log(c) + (lse.max() - lse.min()).item()
        count += num_splits + size + 4
    p, u = torch.softmax(scores, 0), unit_roundoff(torch.float32)
    if coin_flips:
        return 2 * u * math.sqrt(count) * (p @ v).abs().max().expand(v.shape[1])
    return 2 * u * count * (p @ v.abs())

"""What the number of splits changes where scores are huge: no more than its docstring says.

Each split rounds its lse, in base 2 and again in natural logarithms: at a score s by at most
2 · |s| · 2^-24. Between two splits the weights' ratio then moves by e^(|s| · 2^-22) at most, which
moves their mean by tanh(|s| · 2^-24) ≤ |s| · 2^-24 of the distance of their answers; between two
numbers of splits, by twice that: |s| · 2^-23.
"""

import pytest
import torch

from kernels.flash_decoding import flash_decode
from kernels.runtime import device
from reference.attention import oracle_with_cache
from reference.flash_decoding import flash_decode as in_pytorch
from reference.flash_decoding_cpu import flash_decode_threads

DEVICE = device()
KEYS, D, SPLITS = 301, 16, (1, 2, 5)
WAYS = {"kernels": flash_decode, "reference": in_pytorch, "threads": flash_decode_threads}


def drawn(size, sign):
    """Scores within 6 of ±size, exact in fp32 in any order of sums; the values tell the halves."""
    rng = torch.Generator().manual_seed(round(size))
    q, k = torch.zeros(1, 1, 1, D), torch.zeros(1, KEYS, 1, D)
    q[..., 0] = 1.0
    near = size + 6 * torch.rand(1, KEYS, 1, generator=rng, dtype=torch.float64)
    k[..., 0] = sign * near.float()
    v = torch.ones(1, KEYS, 1, D)
    v[:, KEYS // 2 :] = -1.0
    return q, k, v


def answers(attend, x):
    x = [y.to(DEVICE) for y in x]
    found = [attend(*x, scale=1.0, num_splits=n, return_lse=True) for n in SPLITS]
    return [(o.cpu().double(), lse.cpu().double()) for o, lse in found]


@pytest.mark.parametrize("power", range(9), ids=lambda n: f"1e{n}")
@pytest.mark.parametrize("attend", WAYS.values(), ids=WAYS)
def test_no_more_than_the_bound(attend, power):
    for sign in (1, -1):
        x = drawn(10.0**power, sign)
        o_true, lse_true = oracle_with_cache(*x, scale=1.0)
        largest = lse_true.abs().max().item()
        bits = 16 * 2.0**-24  # what any answer may be off by, in units of the values
        bound = largest * 2.0**-23 * 2 + bits  # the values' range is 2
        for o, lse in answers(attend, x):
            assert (o - o_true).abs().max() <= min(bound, 2.0)
            assert (lse - lse_true).abs().max() <= 4 * 2.0**-24 * largest + bits


@pytest.mark.parametrize("attend", WAYS.values(), ids=WAYS)
def test_one_split_stays_exact_and_several_do_not(attend):
    """So the bound says something: at 1e6 a fp32 lse comes in steps of 1/16."""
    x = drawn(10.0**6, 1)
    o_true, _ = oracle_with_cache(*x, scale=1.0)
    off = [(o - o_true).abs().max().item() for o, _ in answers(attend, x)]
    assert off[0] < 1e-6 and max(off[1:]) > 1e-3

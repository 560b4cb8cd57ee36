"""kernels.cascade: what it refuses, and the messages it gives."""

import pytest
import torch

from kernels.cascade import cascade_decode
from kernels.runtime import INTERPRETED, device

DEVICE = device()
B, CAPACITY = 3, 80


def make(Lp, Lq):
    """q (3, Lq, 4, 16), a prefix and caches of 80 keys; 2 KV heads, values of 8."""
    rng = torch.Generator().manual_seed(0)
    shapes = [(B, Lq, 4, 16), (Lp, 2, 16), (Lp, 2, 8), (B, CAPACITY, 2, 16), (B, CAPACITY, 2, 8)]
    return [torch.randn(*shape, generator=rng).to(DEVICE) for shape in shapes]


@pytest.mark.parametrize(
    "change, error, says",
    [
        (lambda q, pk, pv, k, v: (q, pk[:, :1], pv, k, v), ValueError, r"prefix_k .*\(…, 2, 16\)"),
        (lambda q, pk, pv, k, v: (q, pk, pv[None], k, v), ValueError, r"prefix_v .*\(…, 2, 8\)"),
        (lambda q, pk, pv, k, v: (q, pk[1:], pv, k, v), ValueError, "Lp; got 5 and 6"),
        (lambda q, pk, pv, k, v: (q, pk.half(), pv, k, v), TypeError, "dtype of q.*float16"),
        (lambda q, pk, pv, k, v: (q, None, pv, k, v), TypeError, "prefix_k must be a tensor"),
        (lambda q, pk, pv, k, v: (q, pk, pv.to("meta"), k, v), ValueError, "prefix_v .*device"),
        (
            lambda q, pk, pv, k, v: (q, pk.mT.contiguous().mT, pv, k, v),
            ValueError,
            "prefix_k must be contiguous in its last dimension",
        ),
        (
            lambda q, pk, pv, k, v: (q, pk.clone().requires_grad_(), pv, k, v),
            ValueError,
            "prefix_k requires grad",
        ),
        (lambda q, pk, pv, k, v: (q, pk, pv, k[:2], v), ValueError, "must agree in all but D"),
    ],
)
def test_misuse(change, error, says):
    with pytest.raises(error, match=says):
        cascade_decode(*change(*make(6, 1)))


def test_keywords_it_does_not_have():
    with pytest.raises(TypeError, match="block_tables"):
        cascade_decode(*make(6, 1), block_tables=None)


@pytest.mark.skipif(not INTERPRETED, reason="lengths are not checked on a GPU")
def test_a_mask_wants_the_new_tokens_in_the_cache():
    lengths = torch.tensor([2, 9, 9])
    with pytest.raises(ValueError, match="at least Lq = 3 own keys; got 2"):
        cascade_decode(*make(6, 3), lengths, mask=torch.zeros(3, 3))


def test_a_mask_wants_room_for_the_new_tokens():
    q, pk, pv, k, v = make(6, 3)
    mask = torch.zeros(3, 3, device=DEVICE)
    with pytest.raises(ValueError, match="at least Lq = 3 own keys; got 2"):
        cascade_decode(q, pk, pv, k[:, :2], v[:, :2], mask=mask)

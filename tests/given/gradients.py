"""Gradients of attention, held against fp64 autograd beside autograd in the same dtype."""

import math
from dataclasses import replace

import torch

from course.check.guards import empty_is_nan, guarded
from reference.closeness import compare


def random(*shape, dtype=torch.float32, device="cpu", seed=0):
    """Normal numbers; rows of D lie apart, and everything between and around them is NaN."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=rng).to(device, dtype)
    return guarded(x, row_gap=8).tensor


def leaves(tensors, dtype=None):
    """Tensors like these that require grad, on the memory and strides of the given ones."""
    return [x.detach().to(dtype or x.dtype).requires_grad_() for x in tensors]


def autograd(attend, inputs, weights, rows=slice(None)):
    """o, lse and dq, dk, dv of a loss that weighs o with weights[0] and lse with weights[1].

    weights[1] None: no gradient flows into lse. rows: the only ones with a weight.
    """
    o, lse = attend(*inputs)
    outs = [(o, weights[0])] + [(lse, weights[1])] * (weights[1] is not None)
    outs = [(x[:, rows], w[:, rows].to(x.dtype)) for x, w in outs]
    grads = torch.autograd.grad([x for x, _ in outs], inputs, [w for _, w in outs])
    return o, lse, grads


def cancellation(q, k, v, do, roundings=1):
    """How far dq or dk may be off because do vᵀ − delta is smaller than its two terms.

    Each is a sum of about |do| |v|, rounded at the least when it is complete, and by half a unit:
    so the difference is off by eps |do| |v|, where naive attention, which subtracts weighted
    terms, may find exactly 0. It meets a row of q or k, and the scale 1/√D. It shows in fp32 only.
    """
    norms = (x.float().norm(dim=-1).max().item() for x in (do, v))
    largest = max(q.abs().max().item(), k.abs().max().item()) / q.shape[3] ** 0.5
    return roundings * torch.finfo(torch.float32).eps * math.prod(norms) * largest


def price_of_lse(naive, inputs, weights, rows):
    """How far dv = pᵀ do may be off because p is made from lse, kept as one fp32 number.

    p = 2^(s − lse · log2 e): the sum that is lse, the product that makes it natural and the one
    that makes it base 2 again are each rounded, by half a unit of a number about as large as lse.
    So p is off by 3/2 eps |lse|, beside what rounding s costs naive attention as well. It shows in
    fp32 only.
    """
    q, k, v = leaves(inputs, torch.float64)
    _, lse, (_, _, terms) = autograd(naive, (q, k, v), (weights[0].abs(), None), rows)
    largest = lse[lse.isfinite()].abs().max().item()
    return 1.5 * torch.finfo(torch.float32).eps * largest * terms.abs().max().item()


def judge_gradients(fast, naive, inputs, weights, *, keyless=0):
    """Assert that the gradients of `fast` are about as near to fp64 as those of `naive`.

    fast, naive: (q, k, v) → o, lse. weights: see `autograd`. keyless: so many first queries see no
    key; naive attention has no gradient of lse there, so only the others are compared.
    """
    with empty_is_nan():
        o, lse, got = autograd(fast, leaves(inputs), weights)
    (q, k, v), rows = inputs, slice(keyless, None)
    _, _, base = autograd(naive, leaves(inputs), weights, rows)
    _, _, true = autograd(naive, leaves(inputs, torch.float64), weights, rows)
    for name, x, g, b, t in zip("qkv", inputs, got, base, true, strict=True):
        assert g.shape == x.shape and g.dtype == x.dtype
        close = compare(g, b, t, name=f"d{name}")
        if not t.any():  # one key: p is always 1, and dq and dk are 0 up to rounding
            worst = 2 * v.shape[3] * q.shape[1]  # every rounding of a sum, in every row
            assert close.max_error <= cancellation(q, k, v, weights[0], worst), str(close)
        elif not close.ok:  # 2 × naive attention's, or what this way of computing costs
            price = price_of_lse(naive, inputs, weights, rows)
            extra = price if name == "v" else cancellation(q, k, v, weights[0])
            close = replace(close, band=close.band + extra)
            assert close.ok, str(close)
    assert not got[0][:, :keyless].any()
    return o, lse, got

"""kernels.flash_attention.op: the attention kernels as autograd and torch.compile see them."""

from functools import partial

import pytest
import torch
from gradients import autograd, leaves, random

from kernels.flash_attention import flash_attention
from kernels.flash_attention.forward import forward
from kernels.flash_attention.op import backward_op, forward_op
from kernels.flash_attention_varlen import flash_attention_varlen
from kernels.runtime import device

DEVICE = device()
SHAPES = ((2, 5, 2, 16), (2, 9, 1, 16), (2, 9, 1, 16))


def tensors():
    return [random(*shape, device=DEVICE, seed=i) for i, shape in enumerate(SHAPES)]


def packed():
    q, k, v = (x[0] for x in tensors())
    cu_q, cu_k = (torch.tensor(x, dtype=torch.int32, device=DEVICE) for x in ([0, 2, 5], [0, 6, 9]))
    return (q, k, v), (cu_q, cu_k, 3, 6)


def test_without_gradients_no_operator_is_called(monkeypatch):
    q, k, v = tensors()
    monkeypatch.setattr("kernels.flash_attention.forward_op", None)  # calling it would raise
    assert not flash_attention(q, k, v).requires_grad
    with torch.no_grad():
        flash_attention(q.requires_grad_(), k, v)
    with pytest.raises(TypeError, match="NoneType"):
        flash_attention(q, k, v)


@pytest.mark.parametrize("which", [0, 1, 2], ids="qkv")
def test_one_input_that_requires_grad_is_enough(which):
    inputs = tensors()
    inputs[which].requires_grad_()
    flash_attention(*inputs).sum().backward()
    wanted = autograd(partial(flash_attention, return_lse=True), leaves(tensors()),
                      (torch.ones(SHAPES[0], device=DEVICE), None))[2][which]  # fmt: skip
    assert torch.equal(inputs[which].grad, wanted)


def test_a_second_derivative_is_refused():
    q, k, v = leaves(tensors())
    (dq,) = torch.autograd.grad(flash_attention(q, k, v).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="autograd"):
        dq.sum().backward()


def test_the_operators_keep_what_they_promise():
    """PyTorch's own checks of the schema, fake, autograd and tracing, with changing shapes."""
    q, k, v = leaves(tensors())
    (pq, pk, pv), sequences = packed()
    one_row = [x[None].contiguous().requires_grad_() for x in (pq, pk, pv)]
    dense = (q, k, v, None, None, 0, 0, True, 0.3)
    for args, with_dlse in ((dense, False), ((*one_row, *sequences, True, 0.3), True)):
        torch.library.opcheck(forward_op, args)
        x, settings = [y.detach() for y in args[:3]], args[3:]
        o, lse = forward(*x, *settings)
        dlse = torch.randn_like(lse) if with_dlse else None
        torch.library.opcheck(backward_op, (torch.randn_like(o), dlse, *x, o, lse, *settings))


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_compiles_into_one_graph(layout):
    weights = random(*SHAPES[0], device=DEVICE, seed=5)
    inputs, sequences = tensors(), ()
    attend = partial(flash_attention, causal=True, return_lse=True)
    if layout == "packed":
        inputs, sequences = packed()
        weights, attend = weights[0], partial(flash_attention_varlen, causal=True, return_lse=True)

    def loss(q, k, v):
        o, lse = attend(2 * q, k, v, *sequences)
        return o, (o * weights).sum() + lse.sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = []
    for run in (loss, compiled):
        x = leaves(inputs)
        o, value = run(*x)
        found.append((o, value, *torch.autograd.grad(value, x)))
    assert all(map(torch.equal, *found))
    with torch.no_grad():
        assert torch.equal(compiled(*inputs)[0], found[0][0])

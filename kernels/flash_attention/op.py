"""Attention as PyTorch operators, so that autograd and torch.compile see through the kernels.

A kernel launch is opaque to both. An operator says what they need to know: the shapes it returns
(a *fake*: a function of shapes, no numbers) and how its gradient is computed (another operator).

    flash_decoding_course::flash_attention_forward    q, k, v, … → o, lse
    flash_decoding_course::flash_attention_backward   do, dlse, q, k, v, o, lse, … → dq, dk, dv

Calling an operator costs the host a few microseconds more than calling Python, so
`kernels.flash_attention` uses it only when a gradient is needed or torch.compile is running.
"""

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from kernels.flash_attention.backward import backward
from kernels.flash_attention.forward import forward
from kernels.flash_attention.packed import pack


@custom_op("flash_decoding_course::flash_attention_backward", mutates_args=())
def backward_op(
    do: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    max_seqlen_q: int | None,
    max_seqlen_k: int | None,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`kernels.flash_attention.backward.backward` with only the types that a schema can express."""
    packing = pack(q, k, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    return backward(q, k, v, o, lse, do, dlse, packing, causal, scale)


@backward_op.register_fake
def _(do: Tensor, dlse: Tensor | None, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(x.new_empty(x.shape) for x in inputs[:3])  # dq, dk, dv: contiguous


forward_op = custom_op("flash_decoding_course::flash_attention_forward", forward, mutates_args=())


@forward_op.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    o = q.new_empty(*q.shape[:3], v.shape[3])
    return o, q.new_empty(q.shape[:3], dtype=torch.float32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keep what the backward recomputes p from; the scores were never stored."""
    q, k, v, cu_seqlens_q, cu_seqlens_k, *ctx.settings = inputs
    ctx.save_for_backward(q, k, v, *output, cu_seqlens_q, cu_seqlens_k)
    ctx.set_materialize_grads(False)  # a dlse that nobody needs is None, and costs nothing


def _backward(ctx: Any, do: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
    """Gradients for q, k and v; None for the six settings."""
    q, k, v, o, lse, cu_seqlens_q, cu_seqlens_k = ctx.saved_tensors
    if do is None and dlse is None:
        return (None,) * 9
    do = torch.zeros_like(o) if do is None else do
    grads = backward_op(do, dlse, q, k, v, o, lse, cu_seqlens_q, cu_seqlens_k, *ctx.settings)
    return *grads, *[None] * 6


forward_op.register_autograd(_backward, setup_context=_setup_context)

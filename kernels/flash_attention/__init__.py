"""Exact attention that never writes a score to memory, forward and backward.

    here        the public function; for packed sequences: `kernels.flash_attention_varlen`
    forward     the kernel that lesson 06 builds: o and lse
    backward    dq, dk and dv, by computing p again from lse: backward_rows, _dkdv, _dq
    tiles       the tile sizes of the backward
    packed      where each of several packed sequences lies
    op          both directions as operators of PyTorch, for autograd and torch.compile

Source: Dao 2023, "FlashAttention-2: Faster Attention with Better Parallelism and Work
Partitioning", arXiv:2307.08691, algorithms 1 and 2.
"""

import torch
from torch import Tensor

from kernels.call import may_launch
from kernels.checks import check_qkv, resolve_scale
from kernels.flash_attention.forward import attend, flash_attention_kernel
from kernels.flash_attention.forward import forward as launch_forward
from kernels.flash_attention.op import forward_op
from kernels.flash_attention.packed import Packing

__all__ = ["attend", "attention_over", "flash_attention", "flash_attention_kernel"]


def flash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return softmax(scale · q kᵀ) v, exactly, without the Lq × Lk matrix in memory.

    q: (B, Lq, Hq, D); k: (B, Lk, Hkv, D); v: (B, Lk, Hkv, Dv), Hq a multiple of Hkv; fp32 (no
    TF32), fp16 or bf16; D and Dv from 1 to 256, each its own (MLA has 192 and 128) and contiguous,
    other strides arbitrary. causal: bottom-right aligned. scale: default 1/√D.

    Returns `o (B, Lq, Hq, Dv)`, contiguous, in the dtype of q, and with return_lse
    `lse (B, Lq, Hq)`, fp32, natural logarithm. Rows that see no key: o = 0, lse = -inf.
    Sums are fp32; p is rounded to the dtype of v before it is multiplied with v.

    Differentiable in q, k and v, also through lse, but only once: second derivatives are not
    supported. Under torch.compile it is one operator.

    Raises ValueError for shapes, strides and devices that do not fit and, in the backward, for D or
    Dv above 128 on an sm_75 (T4), whose registers cannot hold it; TypeError for dtypes.
    Sources: Dao 2023, algorithms 1 and 2.

    >>> q, k, v = torch.zeros(1, 2, 1, 16), torch.zeros(1, 2, 1, 16), torch.ones(1, 2, 1, 16)
    >>> o, lse = flash_attention(q, k, v, causal=True, return_lse=True)  # doctest: +SKIP
    >>> lse.flatten()                                                    # doctest: +SKIP
    tensor([0.0000, 0.6931])

    The first query sees one key, the second two; all scores are 0, so lse is log 1 and log 2.
    """
    check_qkv(q, k, v)
    o, lse = attention_over(q, k, v, None, causal, resolve_scale(scale, q.shape[-1]))
    return (o, lse) if return_lse else o


def attention_over(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Return o and lse, by the shortest path that serves autograd and torch.compile."""
    gradient = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    plain = not gradient and may_launch(q, k, v)
    settings = packing or (None, None, 0, 0)
    return (launch_forward if plain else forward_op)(q, k, v, *settings, causal, scale)

"""Attention over packed sequences: a batch of any lengths without a single padded token.

The kernels are those of `kernels.flash_attention`: a program asks cu_seqlens where its sequence
lies (`kernels.flash_attention.packed`) and goes on as if there were no other. Programs that only
the longest sequence needs end at once in a shorter one.

Source: Dao 2023, "FlashAttention-2", algorithms 1 and 2; the packed layout is that of
`flash_attn_varlen_func` in flash-attention.
"""

from torch import Tensor

from kernels.checks import check_qkv, resolve_scale
from kernels.flash_attention import attention_over
from kernels.flash_attention.packed import Packing, check_cu_seqlens


def flash_attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *,
    causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return attention within each of B sequences that lie one behind the other.

    q: (Tq, Hq, D); k, v: (Tk, Hkv, D): tokens of all sequences; dtypes and strides as in
    `flash_attention`. cu_seqlens_q, cu_seqlens_k: (B + 1,), int32, on the same device: sequence b
    owns the tokens cu_seqlens[b] … cu_seqlens[b + 1] - 1; the first entry is 0, the last Tq or Tk;
    sequences may be empty. max_seqlen_q, max_seqlen_k: the longest of them, or more. causal:
    bottom-right aligned, in each sequence by itself. scale: default 1/√D.

    Returns `o (Tq, Hq, D)` and, with return_lse, `lse (Tq, Hq)`, as `flash_attention` does, and
    differentiable like it.

    Raises ValueError and TypeError as `flash_attention`, and for cu_seqlens that do not fit. Their
    values are looked at only on the CPU; on a GPU the host would have to wait. There a kernel reads
    nothing outside of q, k and v whatever they say, but what no sequence covers is not written.

    >>> q, ones = torch.zeros(3, 1, 16), torch.ones(3, 1, 16)
    >>> cu_seqlens = torch.tensor([0, 1, 3], dtype=torch.int32)
    >>> sequences = cu_seqlens, cu_seqlens, 2, 2
    >>> o, lse = flash_attention_varlen(q, q, ones, *sequences, return_lse=True)  # doctest: +SKIP
    >>> lse.flatten()                                                             # doctest: +SKIP
    tensor([0.0000, 0.6931, 0.6931])

    The first sequence has one key, the second two; all scores are 0, so lse is log 1 and log 2.
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        if isinstance(x, Tensor) and x.ndim != 3:
            layout = "(Tq, Hq, D)" if name == "q" else "(Tk, Hkv, D)"
            raise ValueError(f"{name} must be {layout}, three dimensions; got {tuple(x.shape)}")
    if not all(isinstance(x, Tensor) for x in (q, k, v)):
        raise TypeError(f"q, k and v must be tensors; got {type(q)}, {type(k)} and {type(v)}")
    q, k, v = q[None], k[None], v[None]
    check_qkv(q, k, v)
    check_cu_seqlens("cu_seqlens_q", cu_seqlens_q, q.device)
    check_cu_seqlens("cu_seqlens_k", cu_seqlens_k, q.device)
    if cu_seqlens_q.shape != cu_seqlens_k.shape:
        raise ValueError(
            "cu_seqlens_q and cu_seqlens_k must tell of the same sequences; got "
            f"{tuple(cu_seqlens_q.shape)} and {tuple(cu_seqlens_k.shape)}"
        )
    packing = Packing(cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    o, lse = attention_over(q, k, v, packing, causal, resolve_scale(scale, q.shape[-1]))
    return (o[0], lse[0]) if return_lse else o[0]

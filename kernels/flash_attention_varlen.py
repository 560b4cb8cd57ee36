"""Attention over packed sequences: a batch of mixed lengths without a single padded token.

The kernels are those of `kernels.flash_attention`: a program looks up in cu_seqlens where its
sequence is (`kernels.flash_attention.packed`) and carries on as if there were no other. Programs
that the longest sequence needs but a shorter one doesn't exit at once.

Source: Dao 2023, "FlashAttention-2", algorithms 1 and 2; the packed layout is that of
`flash_attn_varlen_func` in flash-attention.
"""

from torch import Tensor

from kernels.checks import check_qkv, resolve_scale
from kernels.flash_attention import attention_over
from kernels.flash_attention.packed import Packing, check_cu_seqlens, longest_of


def flash_attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int | Tensor | None,
    max_seqlen_k: int | Tensor | None,
    *,
    causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return attention within each of B sequences stored one after the other.

    q: (Tq, Hq, D); k: (Tk, Hkv, D); v: (Tk, Hkv, Dv): tokens of all sequences; otherwise as in
    `flash_attention`. cu_seqlens_q, cu_seqlens_k: (B + 1,), int32, on the same device: sequence b
    has the tokens cu_seqlens[b] … cu_seqlens[b + 1] - 1; the first entry is 0, the last Tq or Tk;
    sequences may be empty. max_seqlen_q, max_seqlen_k: length of the longest, or more: an int, or a
    0-d integer tensor; None: computed from cu_seqlens. On a GPU the host waits for these two, since
    it lays out the grid; under torch.compile both are computed from cu_seqlens, when the graph
    runs. causal: bottom-right aligned within each sequence. scale: default 1/√D.

    Returns `o (Tq, Hq, Dv)` and, with return_lse, `lse (Tq, Hq)`, as `flash_attention` does, and
    differentiable like it.

    Raises ValueError and TypeError as `flash_attention` does, for cu_seqlens that do not fit, and
    for a max_seqlen that is no whole number from 0 to 2^31 - 1. What cu_seqlens says is checked
    only on the CPU; on a GPU the host would have to wait. There the kernel reads nothing outside q,
    k and v, whatever it says, but tokens that no sequence covers are not written.

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
            layout = {"q": "(Tq, Hq, D)", "k": "(Tk, Hkv, D)", "v": "(Tk, Hkv, Dv)"}[name]
            raise ValueError(f"{name} must be {layout}, three dimensions; got {tuple(x.shape)}")
    if not all(isinstance(x, Tensor) for x in (q, k, v)):
        raise TypeError(f"q, k and v must be tensors; got {type(q)}, {type(k)} and {type(v)}")
    q, k, v = q[None], k[None], v[None]
    check_qkv(q, k, v)
    check_cu_seqlens("cu_seqlens_q", cu_seqlens_q, q.device)
    check_cu_seqlens("cu_seqlens_k", cu_seqlens_k, q.device)
    if cu_seqlens_q.shape != cu_seqlens_k.shape:
        raise ValueError(
            "cu_seqlens_q and cu_seqlens_k must describe the same sequences; got "
            f"{tuple(cu_seqlens_q.shape)} and {tuple(cu_seqlens_k.shape)}"
        )
    longest_q = longest_of("max_seqlen_q", max_seqlen_q, cu_seqlens_q, q.shape[1])
    longest_k = longest_of("max_seqlen_k", max_seqlen_k, cu_seqlens_k, k.shape[1])
    packing = Packing(cu_seqlens_q, cu_seqlens_k, longest_q, longest_k)
    o, lse = attention_over(q, k, v, packing, causal, resolve_scale(scale, q.shape[-1]))
    return (o[0], lse[0]) if return_lse else o[0]

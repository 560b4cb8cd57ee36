"""An attention function for transformers that computes with this course's functions.

    q (B, Hq, Lq, D)  k, v (B, Hkv, Lk, D)  mask       what transformers hands over
         │ transposed views: nothing is copied  │
         ▼                                      ▼
    q (B, Lq, Hq, D)  k, v (B, Lk, Hkv, D)    Sight    start and end of what each query sees
         │
         ├─ prefill   many queries, plainly causal (or all see all)    → flash_attention
         └─ decode    one query or a few; padding, windows, sinks, …   → flash_decode
         ▼
    o (B, Lq, Hq, D)                                   as transformers expects it

A prompt with left padding, a window, a softcap or sinks is prefilled by `flash_decode`, too: it
takes any number of queries, and all four are its keywords. `flash_attention` knows none of them.

An argument that would change the answer and that we do not compute is refused by its name, and so
is any argument we have never heard of: what transformers adds tomorrow must not be ignored.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from course.huggingface.sight import Sight, read_mask, without_mask

FEW = 16
"""Queries per row that Flash-Decoding takes after a cache: more are a prefill that continues."""

# What else transformers passes to every attention function: it serves other parts of a model.
IGNORED = (
    "cache_position",
    "num_items_in_batch",
    "output_hidden_states",
    "output_router_logits",
    "position_ids",
    "return_dict",
    "use_cache",
)
REFUSED = {
    "cu_seq_lens_k": "sequences packed into one row are told apart by the mask alone",
    "cu_seq_lens_q": "sequences packed into one row are told apart by the mask alone",
    "head_mask": "a kernel never has the weights that it would multiply",
    "output_attentions": 'weights are never stored (attn_implementation="eager" stores them)',
    "position_bias": "numbers added to the scores are not among its features",
}


class Backend(NamedTuple):
    """Two functions to attend with, with the signatures that `reference` and `kernels` share."""

    flash_attention: Callable[..., Tensor]
    flash_decode: Callable[..., Tensor]


# Named, not imported: triton has no wheels for macOS, and loading it takes a while.
BACKENDS = {
    "kernel": ("kernels.flash_attention", "kernels.flash_decoding"),
    "reference": ("reference.flash_attention", "reference.flash_decoding"),
}


def backend_of(chosen: str | Backend) -> Backend:
    """The functions that a name stands for: "kernel" (Triton) or "reference" (PyTorch).

    Raises ValueError for another name, ImportError where Triton is missing.
    """
    if isinstance(chosen, Backend):
        return chosen
    if chosen not in BACKENDS:
        names = " or ".join(map(repr, BACKENDS))
        raise ValueError(f"backend must be {names}, or a Backend; got {chosen!r}")
    prefill, decode = (importlib.import_module(name) for name in BACKENDS[chosen])
    return Backend(prefill.flash_attention, decode.flash_decode)


def attend(
    q: Tensor, k: Tensor, v: Tensor, sight: Sight, backend: Backend, **scores: Any
) -> Tensor:
    """Attention of queries that see what `sight` says: (B, Lq, Hq, Dv).

    q: (B, Lq, Hq, D); k: (B, Lk, Hkv, D); v: (B, Lk, Hkv, Dv). scores: scale, softcap and sinks of
    `flash_decode`; None: off.
    """
    scale, features = scores.pop("scale"), {n: x for n, x in scores.items() if x is not None}
    B, Lq = q.shape[:2]
    n = sight.plain
    if n is not None and not features and Lq > 1 and (n == Lq or Lq > FEW):
        parts = (k, v) if n == k.shape[1] else (k[:, :n], v[:, :n])
        return backend.flash_attention(q, *parts, causal=sight.causal, scale=scale)
    if sight.rows is not None:
        features["cache_batch_idx"] = sight.rows
        q = q.reshape(B * Lq, 1, *q.shape[2:])
    if sight.leftpad is not None:
        features["cache_leftpad"] = sight.leftpad
    if sight.window is not None:
        features["window"] = sight.window
    lengths = None if n == k.shape[1] else sight.lengths
    o = backend.flash_decode(q, k, v, lengths, causal=sight.causal, scale=scale, **features)
    return o.reshape(B, Lq, *o.shape[2:])


class CourseAttention:
    """What `register` gives to transformers: callable as its attention functions are."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    # Traced into a graph, the reading of the mask would freeze what the first one showed.
    @torch.compiler.disable(reason="the mask is read on the host")
    def __call__(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        is_causal: bool | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        sliding_window: int | None = None,
        **others: Any,
    ) -> tuple[Tensor, None]:
        """Attention as transformers asks for it, and None in place of its weights.

        query: (B, Hq, Lq, D); key: (B, Hkv, Lk, D); value: (B, Hkv, Lk, Dv), the cache's part
        included. attention_mask: as `read_mask` says, or None, as `without_mask` says.
        scaling: factor of the scores; 1/√D if None. s_aux: (Hq,), the sinks.
        Returns o (B, Lq, Hq, Dv), contiguous.

        Raises ValueError or TypeError for what cannot be computed, naming it.
        """
        refuse(dropout, others)
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        if attention_mask is None:
            causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
            sight = without_mask(q, k, causal)
            check_window(sight, sliding_window)
        else:
            sight = read_mask(attention_mask, q.shape[0], q.shape[1], k.shape[1])
        scores = {"scale": scaling, "softcap": softcap, "sinks": s_aux}
        return attend(q, k, v, sight, self.backend, **scores).contiguous(), None


def refuse(dropout: float, others: dict[str, Any]) -> None:
    """Raise ValueError, with the name, for an argument that we do not compute."""
    if dropout:
        raise ValueError(
            f"dropout must be 0: it is not computed; got {dropout} (model.eval() turns it off)"
        )
    for name, given in others.items():
        if name in IGNORED or given is None or given is False:
            continue
        reason = REFUSED.get(name, "what it means is not known here, and it is not ignored")
        raise ValueError(f"{name} must be left out: {reason}; got {_kind(given)}")


def check_window(sight: Sight, sliding_window: int | None) -> None:
    """Raise ValueError if a window should hide keys, and there is no mask to say which."""
    if sliding_window is not None and sight.plain > sliding_window:
        raise ValueError(
            f"a sliding window of {sliding_window} must come with a mask that shows it; got no "
            f"mask, and {sight.plain} keys"
        )


def _kind(given: object) -> str:
    if isinstance(given, Tensor):
        return f"a tensor {tuple(given.shape)}"
    return f"{given!r:.60}"

"""The algorithms of this course in plain PyTorch, one module per idea.

Every module here presents its algorithm the way the lesson does: loops you can read, and the
same symbols as in the formulas. `kernels` has functions of the same names, made fast in Triton.

In reading order:

    attention               naive attention, its fp64 oracle; closeness: how close is close enough
    online_softmax          one pass, and merging what two workers found
    flash_attention         FlashAttention-1 and -2 tile by tile (traffic counts what they move),
                            flash_attention_backward, flash_attention_varlen
    flash_decoding          split, attend, merge; flash_decoding_cpu: the same on CPU threads
    features                what serving adds: windows, pages, sinks …; quantization, kv_cache
    paging                  a cache in pages: who holds which, forks, prefixes known by their hash
    plan, cascade           ragged batches; sequences with a common prefix
    transformer, generate   a Llama-style model, its cache and its text; pretrained: a real one
    serving                 an engine: many requests at once over one model and one paged cache
    distributed             the cache over many ranks, merged by messages
    quantized_cache         keys and values each in a format of their own; perplexity: what it costs
    speculative             several tokens guessed, checked in one pass, accepted or resampled

One letter, one meaning, everywhere in the course:

======  ==========================================================================
`B`     batch: independent sequences
`Lq`    queries per sequence (1 when decoding one token)
`Lk`    keys per sequence (the context, the length of the KV cache)
`Hq`    query heads
`Hkv`   key/value heads (`Hq` for MHA, fewer for GQA, 1 for MQA)
`G`     query heads that share one KV head, `Hq // Hkv`
`D`     head dimension
`S`     splits of the keys (Flash-Decoding)
======  ==========================================================================

Layouts: `q (B, Lq, Hq, D)`; `k, v (B, Lk, Hkv, D)`; output `o (B, Lq, Hq, D)`;
`lse (B, Lq, Hq)`, the natural logarithm of the softmax's denominator, in fp32 or better.

A causal mask is aligned bottom-right: the last query sees the last key. A row that sees no
key at all has `o = 0` and `lse = -inf`.
"""

import os

import torch

# PyTorch loads triton sooner or later, for an optimizer for example, and triton then decides once
# whether kernels are compiled. `kernels.runtime` explains the rule; without a GPU it is this one.
if torch.cuda.device_count() == 0:
    os.environ.setdefault("TRITON_INTERPRET", "1")

"""Attention in Triton: the functions of `reference`, fast. Names and arguments are the same there.

    ground floor      runtime (compiled or interpreted; asks about this machine's GPU) · primitives
                      (steps of the online softmax) · call (a launch as a value; whether to launch)
                      · call_cache (what was checked before need not be again)
                      · operators (what torch gets to look at instead: torch.compile, fake tensors)
                      · checks (of arguments, those that several folders share) · heuristics
                      (chooses the number of splits, and the tiles of forward and decode) ·
                      split_rules (what a number of splits costs) · devices (datasheets of GPUs)
    first kernels     primer (vector sum, matmul) · softmax
    FlashAttention-2  flash_attention/: forward · backward and its kernels _rows, _dkdv, _dq ·
                      tiles (of the backward) · packed (sequences without padding) · op (autograd,
                      torch.compile); flash_attention_varlen is the door for packed sequences
    Flash-Decoding    flash_decoding/, in the order of a call:
        checks, features    what is accepted; the optional arguments
        launch, op          launches both stages; wraps that for torch.compile
        split               stage 1, the kernel: which keys and queries a program takes
        attend              its loop: where a key lies (row, page), int8 and fp8 widened, products
        rows                a row's length and padding; window, softcap, ALiBi, mask on its scores
        combine             stage 2, the kernel: the splits of one call become the answer
    around it         append/ (new tokens, rotated and quantised, written into the cache) · plan/
                      (ragged batches in equal chunks) · merge (results of separate calls become
                      one) · cascade (a prefix shared by rows) · kvcache_api (that of flash-attn)
    without a GPU     explain/ (model: predicted time) · compile_report/: targets (the GPUs compiled
                      for) · launches/ (one file per folder of kernels: what is compiled, and for
                      which GPU it is unsupported) · promises (what must hold, e.g. no spills) ·
                      case, compiling · rows, load_widths, sass, amdgcn (reading the result) ·
                      counts, loops, pipes (what a tile costs) · contraction · counted

A folder is a door with several rooms: import its function from the folder itself, for instance
`from kernels.flash_decoding import flash_decode`. A folder's own `checks`, where it has one, says
what its function accepts.

`heuristics`, `split_rules`, `devices` and `explain` import without triton. Every module that has a
kernel imports `kernels.runtime` before triton, which decides for the whole process whether kernels
are compiled or interpreted.
"""

import sys
from contextlib import suppress

if "torch" in sys.modules:  # it may load triton at any time: decide first
    with suppress(ImportError):  # without triton there is nothing to decide
        from kernels import runtime  # noqa: F401

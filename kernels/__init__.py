"""Attention in Triton: the functions of `reference`, fast. Names and arguments are the same there.

    the ground floor    runtime (compiled or interpreted), primitives (the online softmax), call (a
                        launch as a value), checks (of arguments, shared), heuristics (tile sizes),
                        split_rules (how many splits), devices (GPUs in numbers)
    first kernels       primer, softmax
    FlashAttention-2    flash_attention/ (forward, then backward), flash_attention_varlen
    Flash-Decoding      flash_decoding/ (split: stage 1, attend: its loop, combine: stage 2)
    around it           append/ (the cache grows), plan/ (ragged batches), merge, cascade,
                        kvcache_api (flash-attn's own call)
    without a GPU       explain/ (a model of time), compile_report/ (what the compiler made of it)

A folder is a door with several rooms: import its function from the folder itself, for instance
`from kernels.flash_decoding import flash_decode`. In every folder `checks` says what is accepted.

`heuristics`, `split_rules`, `devices`, `explain` and `call` import without triton. Every module
that has a kernel imports `kernels.runtime` before triton, which decides whether kernels are
compiled or interpreted. So nothing is imported here: importing a kernel settles that decision for
the whole process, and must be asked for by name.
"""

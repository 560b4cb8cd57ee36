"""Attention in Triton: the functions of `reference`, fast. Names and arguments are the same there.

    ground floor      runtime (compiled or interpreted; what this GPU has) · primitives (steps of
                      the online softmax) · call (a launch as a value) · checks (of arguments,
                      shared) · heuristics (chooses tile sizes and the number of splits) ·
                      split_rules (the rules it chooses by) · devices (GPUs in numbers)
    first kernels     primer · softmax
    FlashAttention-2  flash_attention/: forward, backward and their tiles · flash_attention_varlen
    Flash-Decoding    flash_decoding/, in the order of a call:
        checks, features    what is accepted; the optional arguments
        launch, op          both stages launched; the same for torch.compile
        split               stage 1, the kernel: which keys and queries a program takes
        attend              its loop: where a key lies (rows, pages), K and V loaded and multiplied
        rows                a row's length and padding; window, softcap, ALiBi, mask on its scores
        combine             stage 2, the kernel: the splits of one call become the answer
    around it         append/ (new tokens into the cache: rotary, quantization) · plan/ (ragged
                      batches in equal chunks) · merge (results of separate calls become one) ·
                      cascade (a prefix that rows share) · kvcache_api (flash-attn's own call)
    without a GPU     explain/ (a model of time) · compile_report/: targets (GPUs), launches/ (what
                      is compiled for them, and what they do not support), promises (what must
                      hold), rows, load_widths, sass, amdgcn (what the compiler made of it)

A folder is a door with several rooms: import its function from the folder itself, for instance
`from kernels.flash_decoding import flash_decode`. In every folder `checks` says what is accepted.

`heuristics`, `split_rules`, `devices`, `explain` and `call` import without triton. Every module
that has a kernel imports `kernels.runtime` before triton, which decides whether kernels are
compiled or interpreted. So nothing is imported here: importing a kernel settles that decision for
the whole process, and must be asked for by name.
"""

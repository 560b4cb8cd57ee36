"""Attention in Triton: the functions of `reference`, fast.

The modules carry the same names as in `reference` and their functions the same arguments. In the
order in which they are best read:

    shared by all       runtime (compiled or interpreted), primitives (the online softmax), call
                        (a launch as a value), heuristics (tiles, plain Python) and split_rules
                        (how many splits)
    first kernels       primer, softmax
    FlashAttention-2    flash_attention_forward, flash_attention; then attention_op, packed,
                        flash_attention_varlen, and flash_attention_backward with backward_*
    Flash-Decoding      split (stage 1), attend (its loop), combine (stage 2); then decode, which
                        launches them, and flash_decoding, the function to import
    what serving adds   features, rows, score_rules; quantization, rotary, append (the cache
                        grows); plan and splits (ragged batches); merge, cascade; kvcache_api
    without a GPU       explain, with devices (a model of time); compile_report, with targets and
                        compile_* (what the compiler made of it)

`*_arguments` check what a caller passes, `*_cases` list what is compiled, `*_op` register the
operator with PyTorch.

`heuristics`, `split_rules`, `devices`, `explain`, `targets` and `call` import without triton; every
module with a kernel needs it, and first imports `kernels.runtime`, which decides whether kernels
are compiled or interpreted. So nothing is imported here: importing a kernel fixes that decision
for the whole process, and should happen only when you ask for it by name.
"""

"""Attention in Triton: the functions of `reference`, fast.

The modules carry the same names as in `reference` (`kernels.flash_attention`,
`kernels.flash_decoding`) and their functions the same arguments. `kernels.heuristics` is plain
Python and imports anywhere; every other module needs triton, and imports `kernels.runtime` before
it, which decides whether kernels are compiled or interpreted.

Nothing is imported here: importing a kernel binds that decision for the whole process, so it must
be asked for by name.
"""

"""Flash-Decoding and FlashAttention-2: the algorithms in PyTorch, and the same in Triton, fast.

    flash_decoding_course.reference     plain PyTorch to read; the fp64 oracle; a small model
    flash_decoding_course.kernels       the same functions as Triton kernels; the compile report

Nothing is imported here: importing a kernel settles for the whole process whether kernels are
compiled or interpreted (`flash_decoding_course.kernels.runtime`), and must be asked for by name.
"""

from importlib.metadata import version

__version__ = version("flash-decoding-course")

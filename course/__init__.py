"""What lessons use to show and check things: environment, style, figures, checks, progress.

The algorithms themselves live in `reference` (plain PyTorch) and `kernels` (Triton); nothing
that a lesson teaches is defined here.
"""

import sys
from contextlib import suppress

# Decides whether kernels are compiled, before PyTorch or a notebook loads triton. What is missing
# or in the way is the concern of `course.environment`, which imports it again and says so. Nothing
# is loaded for `course.bootstrap`, which any Python must be able to run.
if "torch" in sys.modules:
    with suppress(ImportError):
        from kernels import runtime  # noqa: F401

"""What lessons use to show and check things: environment, style, figures, checks, progress.

The algorithms themselves live in `reference` (plain PyTorch) and `kernels` (Triton); nothing
that a lesson teaches is defined here.
"""

from contextlib import suppress

# Decides whether kernels are compiled, before PyTorch or a notebook loads triton. What is missing
# or in the way is the concern of `course.environment`, which imports it again and says so.
with suppress(ImportError):
    import kernels.runtime  # noqa: F401

"""What lessons use to show and check things: environment, style, figures, checks, progress.

The algorithms themselves live in `reference` (plain PyTorch) and `kernels` (Triton); nothing
that a lesson teaches is defined here.
"""

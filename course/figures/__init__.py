"""Every figure of the course: one call, one Figure. One module per lesson.

A function here takes plain numbers or tensors and returns a `Figure` in the course's style
(`course.style`). It draws; it never computes what the lesson teaches.
"""

from course.figures import (
    attention,
    flash_attention,
    flash_attention_triton,
    flash_decoding,
    flash_decoding_triton,
    online_softmax,
    start_here,
    triton_primer,
)

__all__ = [
    "attention",
    "flash_attention",
    "flash_attention_triton",
    "flash_decoding",
    "flash_decoding_triton",
    "online_softmax",
    "start_here",
    "triton_primer",
]

"""Figures of the lesson on flash decoding triton."""

__all__: list[str] = []

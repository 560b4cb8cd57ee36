"""Figures of the lesson on flash attention triton."""

__all__: list[str] = []

"""Figures of the lesson on triton primer."""

__all__: list[str] = []

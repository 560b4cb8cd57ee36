"""Figures of the lesson on start here."""

__all__: list[str] = []

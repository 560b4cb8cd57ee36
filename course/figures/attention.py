"""Figures of the lesson on attention."""

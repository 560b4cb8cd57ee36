"""Figures of the lesson on triton_primer."""

"""Figures of the lesson on flash_attention."""

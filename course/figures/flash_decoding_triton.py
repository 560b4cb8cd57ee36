"""Figures of the lesson on flash_decoding_triton."""

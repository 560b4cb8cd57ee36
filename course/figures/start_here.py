"""Figures of the lesson on start_here."""

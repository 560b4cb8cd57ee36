"""Figures of the lesson on online_softmax."""

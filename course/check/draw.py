"""Random numbers for probes, all drawn from the generator a probe is given."""

import torch


def integer(rng: torch.Generator, low: int, high: int) -> int:
    """Return a random int from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=rng))

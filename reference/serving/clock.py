"""The engine's clock: the real one, or one that a model of a step's time moves.

A measured time differs from run to run. In simulated time a step takes what a formula says, so a
day of requests passes in a moment, and always the same way. The decisions are the engine's own.
"""

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol


class Load(NamedTuple):
    """What a step had to do: rows that decode, tokens of prompts, keys read in attention."""

    decodes: int
    prompt_tokens: int
    keys: int


class Clock(Protocol):
    """Seconds that pass."""

    def now(self) -> float:
        """The time in seconds; only differences mean anything."""

    def wait(self, until: float) -> None:
        """Return when it is that late."""

    def stepped(self, load: Load) -> None:
        """The engine has made a step."""


class RealClock:
    """`time.perf_counter`."""

    def now(self) -> float:
        """Seconds since some moment in the past."""
        return time.perf_counter()

    def wait(self, until: float) -> None:
        """Sleep until then."""
        time.sleep(max(0.0, until - self.now()))

    def stepped(self, load: Load) -> None:
        """The step has taken its time already."""


class SimulatedClock:
    """Time that passes only by steps and by waiting. seconds: how long a step takes.

    >>> clock = SimulatedClock(lambda load: 0.02 + 0.001 * load.prompt_tokens)
    >>> clock.stepped(Load(decodes=3, prompt_tokens=100, keys=0)), round(clock.now(), 3)
    (None, 0.12)

    A fixed part, which reading the weights takes, and a millisecond per token of a prompt.
    """

    def __init__(self, seconds: Callable[[Load], float]) -> None:
        self.seconds, self._now = seconds, 0.0

    def now(self) -> float:
        """Seconds since the beginning."""
        return self._now

    def wait(self, until: float) -> None:
        """It is that late now."""
        self._now = max(self._now, until)

    def stepped(self, load: Load) -> None:
        """Let the time of a step pass."""
        self._now += self.seconds(load)

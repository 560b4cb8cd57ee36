"""Who failed? When a message does not come, the survivors find out together, through a store.

A backend reports a failure as it sees it: "Connection closed by peer [address]", or "Timed out".
The peer it names is a neighbour, which may only have waited for the one that failed. So each rank
leaves three kinds of notes in a key-value store beside the group:

    at/RANK        the number of the collective that it has entered
    words/RANK     its last words: the exception that ends it
    alive/RANK     written once an operation has failed: "I did not fail, I am looking, too"

A rank whose operation fails writes `alive`, then looks for the others. A rank that left last words
failed, and these say how. One that leaves no note within the grace period is dead, or hangs.
"""

import time
from collections.abc import Iterable
from datetime import timedelta

import torch.distributed as dist

from reference.distributed.links import RankFailed

LOOK_EVERY = 0.05  # seconds from one look for the others to the next


class Watch:
    """One rank's notes, and its eyes on those of the others.

    store: shared by all ranks, on a connection of its own. grace: seconds that a survivor gives the
    others to show themselves. timeout: what the group waits for a message, seconds; for the text.
    """

    def __init__(
        self, store: dist.Store, rank: int, ranks: int, *, timeout: float, grace: float
    ) -> None:
        self.store, self.rank, self.ranks = store, rank, ranks
        self.timeout, self.grace = timeout, grace
        self.entered = 0
        store.set_timeout(timedelta(seconds=grace))

    def enter(self) -> None:
        """Note that this rank enters its next collective."""
        self.entered += 1
        self.store.set(f"at/{self.rank}", str(self.entered))

    def last_words(self, error: BaseException) -> None:
        """Say what ends this rank. What comes of another rank's failure is not worth a word."""
        if not isinstance(error, RankFailed):
            self.store.set(f"words/{self.rank}", f"{type(error).__name__}: {error}")

    def explain(self, error: Exception) -> RankFailed:
        """The failure behind `error`, which an operation of the group has raised on this rank."""
        try:
            return RankFailed(self._reasons(error))
        except (RuntimeError, OSError) as lost:  # the store is as dead as the rank that kept it
            return RankFailed({0: f"it kept the store, which no longer answers ({lost})"})

    def _reasons(self, error: Exception) -> dict[int, str]:
        self.store.set(f"alive/{self.rank}", str(self.entered))
        others = [rank for rank in range(self.ranks) if rank != self.rank]
        deadline = time.monotonic() + self.grace
        while time.monotonic() < deadline:
            if words := self._notes("words", others):
                return words
            if len(self._notes("alive", others)) == len(others):
                return {self.rank: f"the others have given it up, and are alive ({error})"}
            time.sleep(LOOK_EVERY)
        silent = set(others) - set(self._notes("alive", others))
        at = self._notes("at", silent)
        return {rank: self._silence(int(at.get(rank, 0))) for rank in sorted(silent)}

    def _silence(self, entered: int) -> str:
        seen = f"it entered collective {entered}" if entered else "it entered no collective"
        return (
            f"no sign of life; {seen}, this rank is in number {self.entered} "
            f"(a message may take {self.timeout:g} s, a sign of life {self.grace:g} s)"
        )

    def _notes(self, kind: str, ranks: Iterable[int]) -> dict[int, str]:
        """The notes of one kind that some ranks have left so far."""
        found = {}
        for rank in ranks:
            if self.store.check([f"{kind}/{rank}"]):
                found[rank] = self.store.get(f"{kind}/{rank}").decode()
        return found

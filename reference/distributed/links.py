"""Messages between ranks, every byte counted where it is sent.

`Links` is all that the collectives need: who am I, how many are we, and `exchange`: send to one
rank while receiving from another. Two kinds exist, and the code above cannot tell them apart:

    ThreadLinks    ranks are threads of one process: to learn and to test, with any number of ranks
    ProcessLinks   ranks are processes, connected by torch.distributed: see `group`

`Members` is a view of either in which only some of the ranks take part.
"""

import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class RankFailed(RuntimeError):
    """Another rank failed, so this one cannot go on.

    ranks: which ones, as far as that is known. The message says how each of them failed.
    """

    def __init__(self, reasons: dict[int, str]) -> None:
        self.ranks = sorted(reasons)
        super().__init__("; ".join(f"rank {rank} failed: {reasons[rank]}" for rank in self.ranks))


class Links:
    """What one rank has of the others. `sent` and `messages` count what has left it so far."""

    def __init__(self, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks
        self.device = torch.device("cpu")  # where what it sends has to be
        self.sent = 0  # bytes
        self.messages = 0

    def exchange(self, to: int, message: Tensor, sender: int, like: Tensor) -> Tensor:
        """Send `message` to rank `to`, and return what rank `sender` sends this one.

        like: any tensor with the shape, dtype and device of what will come. Both ends must agree
        on it. Raises RankFailed if the other rank fails.
        """
        self.sent += message.numel() * message.element_size()
        self.messages += message.numel() > 0
        return self._exchange(to, message.contiguous(), sender, like)

    def _exchange(self, to: int, message: Tensor, sender: int, like: Tensor) -> Tensor:
        raise NotImplementedError

    def begin(self) -> None:
        """Note that this rank enters another collective."""


class Members(Links):
    """Links among some of the ranks: `members[i]` of the others is rank i here.

    Raises ValueError unless this rank is among them.
    """

    def __init__(self, links: Links, members: Sequence[int]) -> None:
        if links.rank not in members:
            raise ValueError(f"members must include this rank, {links.rank}; got {list(members)}")
        super().__init__(list(members).index(links.rank), len(members))
        self.links, self.members, self.device = links, list(members), links.device

    def _exchange(self, to: int, message: Tensor, sender: int, like: Tensor) -> Tensor:
        return self.links.exchange(self.members[to], message, self.members[sender], like)

    def begin(self) -> None:
        """Note that this rank enters another collective."""
        self.links.begin()


class ThreadLinks(Links):
    """One rank among threads: a message is a tensor put into a mailbox."""

    def __init__(self, rank: int, room: "Room") -> None:
        super().__init__(rank, room.ranks)
        self.room = room

    def _exchange(self, to: int, message: Tensor, sender: int, like: Tensor) -> Tensor:
        self.room.mail[self.rank, to].put(message.clone())
        received = self.room.take(sender, self.rank)
        if received.shape != like.shape or received.dtype != like.dtype:
            raise ValueError(
                f"rank {self.rank} expected {like.dtype} {tuple(like.shape)} from rank {sender}; "
                f"got {received.dtype} {tuple(received.shape)}"
            )
        return received


class Room:
    """What threads that pose as ranks share: their mailboxes, and who has failed."""

    def __init__(self, ranks: int, timeout: float) -> None:
        self.ranks, self.timeout = ranks, timeout
        self.mail: dict[tuple[int, int], queue.SimpleQueue[Tensor | None]] = defaultdict(
            queue.SimpleQueue
        )
        self.failed: dict[int, str] = {}
        for pair in ((a, b) for a in range(ranks) for b in range(ranks)):
            self.mail[pair]  # made here, before the threads: two must not make the same one

    def take(self, sender: int, rank: int) -> Tensor:
        """The next message from `sender`. Raises RankFailed if there will be none."""
        try:
            message = self.mail[sender, rank].get(timeout=self.timeout)
        except queue.Empty:
            raise RankFailed({sender: f"it sent nothing for {self.timeout:g} s"}) from None
        if message is None and self.failed:
            raise RankFailed(dict(self.failed))
        if message is None:
            raise RankFailed({sender: f"it has left, and rank {rank} waits for a message of it"})
        return message

    def fail(self, rank: int, error: BaseException) -> None:
        """Tell all others that this rank is gone. Whoever only follows it is not to blame."""
        if not isinstance(error, RankFailed):
            self.failed[rank] = f"{type(error).__name__}: {error}"
        self.leave(rank)

    def leave(self, rank: int) -> None:
        """Nothing more will come from this rank."""
        for other in range(self.ranks):
            self.mail[rank, other].put(None)


def run_ranks(ranks: int, work: Callable[[Links], Any], *, timeout: float = 30.0) -> list[Any]:
    """Call `work(links)` once per rank, each in a thread of its own, and return what they return.

    timeout: seconds that a rank waits for a message. Raises the first error that was not caused by
    another rank's.

    >>> run_ranks(3, lambda links: links.exchange(
    ...     (links.rank + 1) % 3, torch.tensor(links.rank), (links.rank - 1) % 3, torch.tensor(0)
    ... ).item())
    [2, 0, 1]
    """
    room, results, errors = Room(ranks, timeout), [None] * ranks, {}

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadLinks(rank, room))
            room.leave(rank)
        except BaseException as error:
            errors[rank] = error
            room.fail(rank, error)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        first = sorted(errors.items(), key=lambda item: isinstance(item[1], RankFailed))[0]
        raise first[1]
    return results


def nothing_like(shape: Sequence[int], x: Tensor) -> Tensor:
    """An empty tensor of a shape, with the dtype and device of x: what `exchange` is to receive."""
    return torch.empty(tuple(shape), dtype=x.dtype, device=x.device)

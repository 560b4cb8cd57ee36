"""Collectives as schedules: who sends which chunks to whom, round by round.

One description serves three readers: `collectives` carries it out and counts the bytes,
`sent_chunks` adds up what the formula says, and `course.hardware.interconnects` puts a time on it,
for more GPUs than anyone has at hand.

    all-gather, ring          R − 1 rounds, one chunk each, always to the right-hand neighbour
    all-gather, doubling      log₂ R rounds, 1, 2, 4 … chunks, to the rank 1, 2, 4 … away
    reduce-scatter, ring      R − 1 rounds, one chunk each; the receiver adds its own
    reduce-scatter, halving   log₂ R rounds, R/2, R/4 … 1 chunks
    all-to-all, shift         R − 1 rounds, one chunk each, to the rank 1, 2, 3 … away

An all-reduce is a reduce-scatter and then an all-gather of the finished chunks. Per rank and chunk
size c, every all-gather and every reduce-scatter here sends (R − 1) · c bytes. They differ in
rounds, and a round costs a latency.

Source: Thakur, Rabenseifner & Gropp 2005, "Optimization of collective communication operations in
MPICH", sections 4.1 to 4.5.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple


class Round(NamedTuple):
    """What one rank does in one round: send chunks `send` to `to`, receive `receive` from `sender`.

    Chunks are numbered by the rank that they begin at (gather, all-to-all) or end at (scatter).
    """

    to: int
    sender: int
    send: range
    receive: range


Schedule = Callable[[int, int], Iterator[Round]]


def ring_all_gather(rank: int, ranks: int, shift: int = 0) -> Iterator[Round]:
    """Each round: pass on to the right what came from the left. Rank r begins with chunk r + shift.

    >>> [round.send[0] for round in ring_all_gather(rank=0, ranks=4)]
    [0, 3, 2]

    Rank 0 sends its own chunk, then the one that rank 3 sent it, then the one that rank 3 had
    from rank 2.
    """
    right, left = (rank + 1) % ranks, (rank - 1) % ranks
    for step in range(ranks - 1):
        send, receive = (rank + shift - step) % ranks, (left + shift - step) % ranks
        yield Round(right, left, range(send, send + 1), range(receive, receive + 1))


def ring_reduce_scatter(rank: int, ranks: int) -> Iterator[Round]:
    """Each round: pass a partial sum to the right; rank r ends with chunk r + 1, complete."""
    right, left = (rank + 1) % ranks, (rank - 1) % ranks
    for step in range(ranks - 1):
        send, receive = (rank - step) % ranks, (left - step) % ranks
        yield Round(right, left, range(send, send + 1), range(receive, receive + 1))


def doubling_all_gather(rank: int, ranks: int) -> Iterator[Round]:
    """Each round: swap all you have with the rank at twice the distance; ranks: a power of two.

    >>> [(round.to, len(round.send)) for round in doubling_all_gather(rank=5, ranks=8)]
    [(4, 1), (7, 2), (1, 4)]

    Raises ValueError for other numbers of ranks.
    """
    _check_power_of_two(ranks)
    width = 1
    while width < ranks:
        other = rank ^ width
        mine, theirs = rank // width * width, other // width * width
        yield Round(other, other, range(mine, mine + width), range(theirs, theirs + width))
        width *= 2


def halving_reduce_scatter(rank: int, ranks: int) -> Iterator[Round]:
    """Each round: keep half of the chunks, send the other half; rank r ends with chunk r, complete.

    Raises ValueError unless ranks is a power of two.
    """
    _check_power_of_two(ranks)
    width = ranks // 2
    while width:
        other = rank ^ width
        mine, theirs = rank // width * width, other // width * width
        yield Round(other, other, range(theirs, theirs + width), range(mine, mine + width))
        width //= 2


def shifted_all_to_all(rank: int, ranks: int) -> Iterator[Round]:
    """Each round: give the rank `step` to the right its chunk, get yours from the left."""
    for step in range(1, ranks):
        to, sender = (rank + step) % ranks, (rank - step) % ranks
        yield Round(to, sender, range(to, to + 1), range(sender, sender + 1))


ALL_GATHER: dict[str, Schedule] = {"ring": ring_all_gather, "doubling": doubling_all_gather}
REDUCE_SCATTER: dict[str, Schedule] = {
    "ring": ring_reduce_scatter,
    "doubling": halving_reduce_scatter,
}


def best_schedule(ranks: int) -> str:
    """The name of the schedule with the fewest rounds: "doubling", or "ring" unless ranks = 2ⁿ."""
    return "doubling" if _is_power_of_two(ranks) else "ring"


def sent_chunks(schedule: Iterator[Round]) -> int:
    """How many chunks one rank sends in all its rounds.

    >>> [sent_chunks(f(3, 8)) for f in (ring_all_gather, doubling_all_gather, shifted_all_to_all)]
    [7, 7, 7]
    """
    return sum(len(step.send) for step in schedule)


def _is_power_of_two(ranks: int) -> bool:
    return ranks > 0 and ranks & (ranks - 1) == 0


def _check_power_of_two(ranks: int) -> None:
    if not _is_power_of_two(ranks):
        raise ValueError(f"ranks must be a power of two for this schedule; got {ranks}")

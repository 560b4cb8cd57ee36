"""Which program runs where and when: what a picture of SMs over time is drawn from.

There are two ways to make such a list. `schedule` deals out programs of any durations, the way a
GPU's scheduler does: the next one goes to the slot that is free first. `timeline_of` shows what the
model of `kernels.explain` says: its waves, each as long as its fullest SM.

A GPU with `sms` SMs and p places on each has p · sms slots; slot s is on SM s mod sms, so every SM
gets its first program before any gets its second.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from course.hardware.sizes import positive
from kernels.explain.model import Explanation


@dataclass(frozen=True)
class Run:
    """A program's run: where (slot, and its SM), from start to stop (µs), and which program."""

    slot: int
    sm: int
    start: float
    stop: float
    program: int


def schedule(durations: Iterable[float], sms: int, programs_per_sm: int = 1) -> list[Run]:
    """Deal out programs, in order, each to the slot that is free first (the lowest if several are).

    durations: of each program, not negative; start and stop are in the same unit.

    >>> [(run.slot, run.start, run.stop) for run in schedule([3, 1, 1, 1], sms=2)]
    [(0, 0.0, 3.0), (1, 0.0, 1.0), (1, 1.0, 2.0), (1, 2.0, 3.0)]

    A row of 3,000 keys and three of 1,000 on two SMs: the short ones share one. The result is never
    more than twice as long as the best possible (Graham 1969, "Bounds on multiprocessing timing
    anomalies"). Raises ValueError for a negative duration, or fewer than one SM.
    """
    positive("sms", sms)
    positive("programs_per_sm", programs_per_sm)
    free = [(0.0, slot) for slot in range(sms * programs_per_sm)]  # a heap already
    runs = []
    for program, duration in enumerate(durations):
        if not duration >= 0:
            raise ValueError(f"durations must not be negative; got {duration} of program {program}")
        start, slot = heapq.heappop(free)
        heapq.heappush(free, (start + duration, slot))
        runs.append(Run(slot, slot % sms, start, start + duration, program))
    return runs


def timeline_of(explanation: Explanation) -> list[Run]:
    """Lay out stage 1 of a decode call as the model sees it, in µs, omitting programs without keys.

    Programs on one SM share its pace: if there are two, both take twice as long. A wave starts when
    the previous one is done, so the last `stop` is `explanation.stage_1_us`.

    >>> from kernels.explain import explain
    >>> said = explain(
    ...     batch=3, heads=(40, 40), head_dim=64, length=4096, num_splits=1, device="A100 40GB")
    >>> runs = timeline_of(said)
    >>> len(runs), runs[0].sm == runs[108].sm, round(runs[108].stop / runs[20].stop, 3)
    (120, True, 2.0)

    120 programs on 108 SMs: 12 SMs have two, and everything waits for those.
    """
    sms, slots, runs = explanation.device.sms, explanation.slots, []
    counts = [min(slots, explanation.busy - first) for first in range(0, explanation.busy, slots)]
    heights = [-(-count // sms) for count in counts]  # programs on the fullest SM of each wave
    unit = explanation.stage_1_us / sum(heights) if heights else 0.0
    start = 0.0
    for wave, (count, height) in enumerate(zip(counts, heights, strict=True)):
        for slot in range(count):
            beside = -(-(count - slot % sms) // sms)  # programs on this slot's SM
            stop = start + unit * beside
            runs.append(Run(slot, slot % sms, start, stop, wave * slots + slot))
        start += unit * height
    return runs


def makespan(runs: Sequence[Run]) -> float:
    """Return when the last program stops; 0 if there is none."""
    return max((run.stop for run in runs), default=0.0)


def utilisation(runs: Sequence[Run], sms: int) -> float:
    """Return the share of SM-time, until all is done, in which an SM is busy: 0 to 1.

    >>> utilisation(schedule([3, 1, 1, 1], sms=2), sms=2), utilisation(schedule([4], 4), sms=4)
    (1.0, 0.25)
    """
    positive("sms", sms)
    total = makespan(runs)
    busy = 0.0
    until: dict[int, float] = {}  # runs of an SM may overlap: count the time with at least one
    for run in sorted(runs, key=lambda run: run.start):
        busy += max(0.0, run.stop - max(run.start, until.get(run.sm, 0.0)))
        until[run.sm] = max(run.stop, until.get(run.sm, 0.0))
    return busy / (total * sms) if total else 0.0

"""Time on the GPU's own clock, from a cold cache, contestants taking turns.

- *Cold.* A call that finds its K and V in the L2 cache measures the L2 cache. Every contestant
  therefore walks through several sets of inputs, together larger than `cold_bytes`.
- *Eager* is one call between two CUDA events with an idle GPU before it: the kernels, or the time
  the host takes to launch them, whichever is longer.
- *Graph* is a CUDA graph of one call per set, replayed between two events and divided by the
  number of calls: what the GPU does when the host is not in the way, as in a served model.
- *Turns.* One sample of each contestant per round, in an order that shifts, so that a slow moment
  or a falling clock hits everyone.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

Call = Callable[[], Any]

ROUNDS = 25
LEAST_ROUNDS = 7
WARM_UP_ROUNDS = 3
WARM_UP_MS = 30.0  # an idle GPU has slow clocks, which take this long to rise
SECONDS_A_CELL = 1.0  # of measured time, eager and graph each; long calls get fewer rounds
LEAST_GRAPH_MS = 2.0  # next to this, an event's error is negligible
MOST_REPEATS_IN_GRAPH = 20
COLD_BYTES = 256 * 2**20
ALONE_BYTES = 8 * 2**30  # one such set is a hundred L2 caches: it pushes itself out
BUSY_CYCLES = 100_000_000  # about 50 ms


class Stopwatch(Protocol):
    """What `take_turns` measures with."""

    def mark(self, name: str, step: Call) -> None:
        """Run `step` and remember how long it took."""

    def read(self) -> dict[str, float]:
        """Wait for all marked steps; return the milliseconds of each."""


class HostClock:
    """The host's clock: for interpreted kernels, which are done when the call returns."""

    def __init__(self) -> None:
        self._ms: dict[str, float] = {}

    def mark(self, name: str, step: Call) -> None:
        """Run `step` and remember how long it took."""
        start = time.perf_counter()
        step()
        self._ms[name] = (time.perf_counter() - start) * 1e3

    def read(self) -> dict[str, float]:
        """Return the milliseconds of each marked step, and forget them."""
        ms, self._ms = self._ms, {}
        return ms


class GpuEvents:
    """CUDA events around each step: the GPU's clock."""

    def __init__(self) -> None:
        # One pair per contestant, made once: making an event takes the host longer than a launch.
        self._events: dict[str, tuple[Any, Any]] = {}
        self._marked: list[str] = []

    def mark(self, name: str, step: Call) -> None:
        """Enqueue `step` between two events; does not wait."""
        if name not in self._events:
            self._events[name] = tuple(torch.cuda.Event(enable_timing=True) for _ in "ab")
        start, end = self._events[name]
        start.record()
        step()
        end.record()
        self._marked.append(name)

    def read(self) -> dict[str, float]:
        """Wait for the GPU; return the milliseconds of each marked step, and forget them."""
        torch.cuda.synchronize()
        marked, self._marked = self._marked, []
        return {name: self._events[name][0].elapsed_time(self._events[name][1]) for name in marked}


def take_turns(
    steps: Mapping[str, Callable[[int], Any]],
    watch: Stopwatch,
    rounds: int = ROUNDS,
    warm_up: int = WARM_UP_ROUNDS,
    warm_up_ms: float = WARM_UP_MS,
) -> dict[str, list[float]]:
    """Milliseconds of every contestant's step in every counted round.

    steps: by name; each is called with a number that grows by one with every call of any step, to
    choose the set of inputs. rounds: at most; fewer, but at least `LEAST_ROUNDS`, if they would
    take longer than `SECONDS_A_CELL`. Not counted: the first `warm_up` rounds, or more, until they
    have taken `warm_up_ms`.
    """
    names = list(steps)
    times: dict[str, list[float]] = {name: [] for name in names}
    turn, wanted, round_, warm = 0, rounds, -warm_up, 0.0
    while round_ < wanted:
        shift = round_ % len(names) if names else 0
        for name in names[shift:] + names[:shift]:
            watch.mark(name, lambda step=steps[name], turn=turn: step(turn))
            turn += 1
        ms = watch.read()
        if round_ >= 0:
            for name in names:
                times[name].append(ms[name])
            round_ += 1
            continue
        warm += sum(ms.values())
        affordable = int(SECONDS_A_CELL * 1e3 / max(sum(ms.values()), 1e-6))
        wanted = min(rounds, max(LEAST_ROUNDS, affordable))
        if round_ < -1 or warm >= warm_up_ms:
            round_ += 1
    return times


@dataclass(frozen=True)
class Captured:
    """A CUDA graph of `calls` calls, and what the first of them returned (filled by a replay)."""

    graph: Any
    calls: int
    first: Any


def capture(calls: Sequence[Call], ms: float = 0.0) -> Captured:
    """Capture a CUDA graph of all `calls`, repeated if they are short.

    ms: roughly what one call takes. The graph takes `LEAST_GRAPH_MS`, or 20 times all calls.

    Raises whatever the calls raise when captured, e.g. because they look at a value on the host.
    """
    for call in calls[:WARM_UP_ROUNDS]:  # one-off compilation and allocation happen here
        call()
    torch.cuda.synchronize()
    wanted = LEAST_GRAPH_MS / max(len(calls) * ms, 1e-6)
    again = min(MOST_REPEATS_IN_GRAPH, max(1, math.ceil(wanted)))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        first = calls[0]()  # kept, so that no later call is given its memory
        for call in (list(calls) * again)[1:]:
            call()
    return Captured(graph, again * len(calls), first)


def replay_in_turns(
    graphs: Mapping[str, Captured], watch: Stopwatch, rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Milliseconds of one call of every contestant, by replaying its graph; see `take_turns`."""
    steps = {name: (lambda _, g=captured.graph: g.replay()) for name, captured in graphs.items()}
    times = take_turns(steps, watch, rounds)
    return {name: [ms / graphs[name].calls for ms in times[name]] for name in times}


def cold_bytes() -> int:
    """Bytes that push everything else out of the L2: four times its size, at least 256 MiB."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return max(COLD_BYTES, 4 * getattr(properties, "L2_cache_size", 0))


def number_of_sets(set_bytes: int, cold: int) -> int:
    """How many sets of inputs of `set_bytes` to rotate through, so that none is found in the L2.

    >>> number_of_sets(2**26, cold=2**28), number_of_sets(2**30, cold=2**28)
    (5, 2)
    """
    if set_bytes >= ALONE_BYTES:
        return 1
    return max(2, -(-cold // set_bytes) + 1)  # one more: the set in use does not push itself out


def host_microseconds(call: Call, calls: int = 100, repeats: int = 9) -> list[float]:
    """Microseconds the host spends on one `call`, `repeats` samples.

    The GPU is kept busy meanwhile, so that no call waits for it; 100 calls fit in its queue.

    Raises RuntimeError if the GPU was idle before the host had made all calls.
    """
    for _ in range(10):
        call()
    torch.cuda.synchronize()
    samples = []
    for _ in range(repeats):
        busy = torch.cuda.Event()
        torch.cuda._sleep(BUSY_CYCLES)
        busy.record()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        samples.append((time.perf_counter() - start) / calls * 1e6)
        if busy.query():
            raise RuntimeError("the GPU ran out of work before the host had made all its calls")
        torch.cuda.synchronize()
    return samples


def median_and_quartiles(name: str, samples: Sequence[float]) -> dict[str, Any]:
    """`{name: median, name_quartiles: [q1, q2, q3]}`, as the rows of a record hold them.

    >>> median_and_quartiles("x_ms", [4.0, 1.0, 2.0, 3.0, 5.0])
    {'x_ms': 3.0, 'x_ms_quartiles': [1.5, 3.0, 4.5]}
    """
    quartiles = statistics.quantiles(samples) if len(samples) > 1 else [samples[0]] * 3
    rounded = [float(f"{x:.5g}") for x in quartiles]
    return {name: rounded[1], f"{name}_quartiles": rounded}

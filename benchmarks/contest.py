"""One cell of a benchmark: check each contestant against fp64, then time them all, taking turns."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.timing import (
    ROUNDS,
    Call,
    GpuEvents,
    HostClock,
    capture,
    median_and_quartiles,
    replay_in_turns,
    take_turns,
)


@dataclass(frozen=True)
class Entrant:
    """A contestant, ready to run.

    calls: one per set of inputs. check: takes what the call on the first set returned and says what
    is wrong with it, "" if nothing. graph: whether to time it in a CUDA graph too.
    """

    name: str
    calls: Sequence[Call]
    check: Callable[[Any], str]
    graph: bool = True


def compete(
    entrants: Iterable[Entrant], *, on_gpu: bool, rounds: int = ROUNDS
) -> tuple[dict[str, Any], dict[str, str]]:
    """Check, then time.

    Returns:
        times: milliseconds per call. `NAME_ms` and `NAME_ms_quartiles`: in a CUDA graph if
        the entrant wants one, and then `NAME_eager_ms` and its quartiles too; otherwise eager.
        Interpreted, `NAME_ms` alone, by the host's clock.
        cannot: by name, why a contestant was not timed ("wrong: …" if its answer is), and by
        "NAME graph", why it could not be captured.
    """
    cannot: dict[str, str] = {}
    entrants = [e for e in entrants if _right(e, lambda e: e.calls[0](), cannot)]
    if not entrants:
        return {}, cannot
    steps = {e.name: (lambda turn, c=e.calls: c[turn % len(c)]()) for e in entrants}
    if on_gpu:
        eager = take_turns(steps, GpuEvents(), rounds)
    else:  # two rounds show that it runs; more would add nothing
        eager = take_turns(steps, HostClock(), rounds=2, warm_up=1, warm_up_ms=0.0)
    graphs = {}
    for entrant in entrants if on_gpu else ():
        if entrant.graph:
            try:
                ms = statistics.median(eager[entrant.name])
                graphs[entrant.name] = capture(entrant.calls, ms)
            except Exception as error:
                cannot[f"{entrant.name} graph"] = reason(error)
                still_alive(entrant.name)
    replayed = replay_in_turns(graphs, GpuEvents(), rounds) if graphs else {}
    wrong: dict[str, str] = {}
    for entrant in entrants:  # what the graph computed is an answer too
        if entrant.name in graphs:
            _right(entrant, lambda e: graphs[e.name].first, wrong)
    times: dict[str, Any] = {}
    for entrant in entrants:
        name = entrant.name
        if name in wrong:
            cannot[name] = wrong[name]
            continue
        if name in replayed or not (on_gpu and entrant.graph):
            times |= median_and_quartiles(f"{name}_ms", replayed.get(name, eager[name]))
        if on_gpu and entrant.graph:
            times |= median_and_quartiles(f"{name}_eager_ms", eager[name])
    return times, cannot


def _right(entrant: Entrant, answer: Callable[[Entrant], Any], cannot: dict[str, str]) -> bool:
    """Whether there is an answer and it is right; if not, the reason goes into `cannot`."""
    try:
        problem = entrant.check(answer(entrant))
    except Exception as error:
        cannot[entrant.name] = reason(error)
        still_alive(entrant.name)
        return False
    if problem:
        cannot[entrant.name] = f"wrong: {problem}"
    return not problem


def reason(error: Exception) -> str:
    """An exception in one line of at most 200 characters."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


def still_alive(name: str) -> None:
    """Free the memory that a failed contestant took.

    Raises SystemExit if the GPU no longer answers: after a bad memory access, for example, nothing
    more can be measured in this process.
    """
    if not torch.cuda.is_available():
        return
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError as error:
        raise SystemExit(
            f"{name} has broken the GPU's context ({reason(error)}). What was measured before is "
            "saved: continue with --resume, and leave it out with --peers."
        ) from error

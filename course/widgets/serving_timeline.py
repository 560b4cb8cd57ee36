"""Eight requests at a small engine: who computes, who writes, who waits, who gives way."""

from __future__ import annotations

import ipywidgets

from course.figures.serving import request_timeline
from course.serving import LOST, Run, poisson_load, simulate
from course.widgets.explorer import Steps, View, explorer
from reference.serving import Limits, Load

REQUESTS, PAGE_SIZE, MOST, SEED = 8, 8, 8, 18
CHUNKS = (8, 16, 32, 64, 128, 1024)
PAGES = (24, 28, 32, 40, 48, 64, 96)
RATES = (2, 4, 8, 16, 32)


def step_seconds(load: Load) -> float:
    """Return how long a step takes: 20 ms, and half a millisecond per token of a prompt."""
    return 0.02 + 0.0005 * load.prompt_tokens


def serving_timeline_view(*, chunk: int, pages: int, rate: int) -> View:
    """Draw what each request does, and say how it went.

    chunk: tokens per step; 1,024 are more than any prompt has, so none is cut. pages: of 8 tokens
    each. rate: requests arriving per second, on average.

    >>> print(serving_timeline_view(chunk=32, pages=32, rate=8).sentence.split(". ")[0])
    8 requests in 108 steps, at most 4 at once

    Raises ValueError where a request needs more pages than there are.
    """
    asked = poisson_load(REQUESTS, rate, (50, 0.7), (40, 0.5), seed=SEED)
    run = simulate(asked, Limits(PAGE_SIZE, pages, MOST, chunk), step_seconds)
    whole = chunk > max(one.prompt for one in asked)
    cut = "whole prompts" if whole else f"{chunk} tokens per step"
    title = f"{cut}, {pages} pages of {PAGE_SIZE}, {rate} requests per second"
    return View(request_timeline({title: run}, unit="s"), _sentence(run))


def serving_timeline() -> ipywidgets.VBox:
    """The timeline with controls for the tokens per step, the pages and the rate of arrivals."""
    return explorer(
        serving_timeline_view,
        chunk=Steps("tokens per step", CHUNKS, 32),
        pages=Steps("pages", PAGES, 32),
        rate=Steps("requests / s", RATES, 8),
    )


def _sentence(run: Run) -> str:
    """Say how long they waited, for their first token and for any later one."""
    longest = max(trace.ttft for trace in run.traces)
    gap = max(gap for trace in run.traces for gap in trace.gaps)
    again = sum(span.tokens for span in run.spans if span.kind == LOST)
    times = f"{run.preemptions} preemption{'s' * (run.preemptions != 1)}"
    lost = f"{times}, {again} tokens computed again" if again else "nobody had to give way"
    return (
        f"{len(run.traces)} requests in {run.steps} steps, at most {run.most_running} at once. "
        f"The longest wait for a first token: {longest:.2f} s; for a later one: {1000 * gap:.0f} "
        f"ms. Pages: {lost}."
    )

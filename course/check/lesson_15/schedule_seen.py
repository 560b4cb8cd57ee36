"""What exercise 15.1 sees of a scheduler: its decision in words, for one step or for a whole run.

A decision is compared as what it says, not as which containers it comes in. In a run, the state
moves on as the right decisions say, so that one wrong step is one difference and not a hundred.
"""

from typing import NamedTuple

from course.check.draw import integer
from course.check.seen import Seen

NAMES = "abcdefghijklmnopqrstuvwxyz"


class Request(NamedTuple):
    """As the notebook defines it."""

    name: str
    cached: int
    known: int
    pages: int


class Moment(NamedTuple):
    """What a scheduler is told: its arguments."""

    running: list
    waiting: list
    budget: int
    free: int
    page_size: int

    def __str__(self) -> str:
        def rows(some):
            return "; ".join(f"{r.name} {r.cached} of {r.known} in {r.pages}" for r in some) or "—"

        return (
            f"running (cached of known, in pages): {rows(self.running)}. Waiting: "
            f"{rows(self.waiting)}. budget = {self.budget}, free = {self.free}, "
            f"page_size = {self.page_size}"
        )


def seen(answer, right, running, waiting, budget, free, page_size):
    """Observe a decision: what is computed, who is preempted, whether the lists are as they "
    "were."""
    moment = Moment(list(running), list(waiting), budget, free, page_size)
    return asked(answer, right, moment)


def asked(answer, right, moment):
    """As `seen`, of a Moment."""
    given = str(moment)
    try:
        got = decision(answer, moment)
    except Exception as error:
        error.add_note(given)
        raise
    return Seen(got, decision(right, moment), given)


def decision(answer, moment):
    """What an answer decides, in words, by part."""
    running, waiting = list(moment.running), list(moment.waiting)
    said = answer(running, waiting, *moment[2:])
    if not isinstance(said, (tuple, list)) or len(said) != 2 or not hasattr(said[0], "items"):
        return {"work": f"returned {said!r}, not (work, preempted)", "preempted": "", "lists": ""}
    work, preempted = said
    alone = running == moment.running and waiting == moment.waiting
    return {
        "work": ", ".join(f"{name}: {n}" for name, n in sorted(work.items())) or "nobody",
        "preempted": ", ".join(sorted(map(str, preempted))) or "nobody",  # in any order
        "lists": "as they were" if alone else "changed",
    }


class Run:
    """Requests that come and go, one step after the other, as a scheduler decides.

    Each is (name, prompt, answer): tokens it brings, and tokens that it will want.
    """

    def __init__(self, requests, budget, pages, page_size):
        self.waiting = [Request(name, 0, prompt, 0) for name, prompt, _ in requests]
        self.end = {name: prompt + answer for name, prompt, answer in requests}
        self.running, self.free = [], pages
        self.budget, self.page_size = budget, page_size

    @property
    def over(self):
        """Whether all have their answers."""
        return not self.running and not self.waiting

    def moment(self):
        """What the scheduler is told now."""
        return Moment(list(self.running), self.waiting[:3], self.budget, self.free, self.page_size)

    def advance(self, work, preempted):
        """Carry out a decision: compute, hand out pages, take them back, end who is done."""
        for name in preempted:
            gone = next(r for r in self.running if r.name == name)
            self.running.remove(gone)
            self.waiting.insert(0, gone._replace(cached=0, pages=0))
            self.free += gone.pages
        begun = [r for r in self.waiting if r.name in work]
        self.waiting = [r for r in self.waiting if r.name not in work]
        self.running = [self.computed(r, work.get(r.name, 0)) for r in self.running + begun]
        self.free += sum(r.pages for r in self.running if r.known == self.end[r.name])
        self.running = [r for r in self.running if r.known < self.end[r.name]]

    def computed(self, request, tokens):
        """One request after its part of the step; a token more if it has caught up."""
        pages = request.pages
        if tokens:
            pages = max(pages, -(-request.known // self.page_size))
        self.free -= pages - request.pages
        cached = request.cached + tokens
        return request._replace(cached=cached, known=request.known + (cached == request.known),
                                pages=pages)  # fmt: skip


def a_run(answer, right, rng, count=9, pages=9, page_size=4, budget=12):
    """Observe every step of a run of random requests, up to the first that differs."""
    sizes = [(integer(rng, 1, 22), integer(rng, 1, 9)) for _ in range(count)]
    requests = [(name, *size) for name, size in zip(NAMES, sizes, strict=False)]
    run, found = Run(requests, budget, pages, page_size), []
    while not run.over:
        moment = run.moment()
        found.append(asked(answer, right, moment))
        if found[-1].got != found[-1].wanted:
            break
        run.advance(*right(list(moment.running), list(moment.waiting), *moment[2:]))
    return found

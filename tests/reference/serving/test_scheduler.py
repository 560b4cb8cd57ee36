"""reference.serving.scheduler: whatever there is, a decision can be carried out, and is fair."""

import doctest
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.serving import scheduler
from reference.serving.scheduler import Decision, Job, Limits, Work, decide


def test_examples():
    assert doctest.testmod(scheduler).failed == 0


def test_the_picture_at_the_top_of_the_module():
    limits = Limits(page_size=4, num_pages=100, max_running=4, step_tokens=8)
    a, b = Job("a", (0,), 5, 4, (0,)), Job("b", (1,), 9, 8, (1, 2))
    c, d = Job("c", (2,), 14, 0), Job("d", (3,), 5, 0)
    first = decide([a, b], [c, d], limits)
    assert first == ((), ("c",), (("a", 1), ("b", 1), ("c", 6)))
    c = c._replace(computed=6, pages=(3, 4))
    second = decide([a, b, c], [d], limits)
    assert second == ((), (), (("a", 1), ("b", 1), ("c", 6)))
    c = c._replace(computed=12, pages=(3, 4, 5))
    assert decide([a, c], [d], limits) == ((), ("d",), (("a", 1), ("c", 2), ("d", 5)))


def test_without_a_budget_a_prompt_is_computed_in_one_step():
    limits = Limits(page_size=4, num_pages=100, step_tokens=None)
    decision = decide([Job(0, (0,), 5, 4, (0,))], [Job(1, (1,), 300, 0)], limits)
    assert decision.work == ((0, 1), (1, 300))


@pytest.mark.parametrize("pages, admitted", [(3, ()), (4, (1,))])
def test_a_page_is_left_for_each_that_is_running(pages, admitted):
    limits = Limits(page_size=4, num_pages=pages, max_running=4)
    decision = decide([Job(0, (0,), 4, 3, (0,))], [Job(1, (1,), 8, 0)], limits)
    assert decision.admit == admitted


def test_nobody_overtakes_a_long_prompt_that_waits():
    limits = Limits(page_size=4, num_pages=10)
    running = [Job(0, (0,), 17, 16, (0, 1, 2, 3))]
    long, short = Job(1, (1,), 30, 0), Job(2, (2,), 2, 0)
    assert decide(running, [long, short], limits).admit == ()
    assert decide(running, [short], limits).admit == (2,)


def test_who_waits_is_not_read_further_than_needed():
    def waiting():
        yield Job(1, (1,), 40, 0)
        raise AssertionError("nobody can overtake it, so nobody else need be looked up")

    decide([], waiting(), Limits(page_size=4, num_pages=9))


def test_a_shared_page_is_free_only_when_its_last_holder_leaves():
    limits = Limits(page_size=4, num_pages=3, max_running=3)
    a, b = Job("a", (0,), 9, 8, (0, 1)), Job("b", (1,), 8, 7, (0, 1))
    c = Job("c", (2,), 4, 3, (2,))
    decision = decide([a, b, c], [], limits)  # a wants a page: c has one of its own, b has none
    assert decision.preempt == ("c",) and decision.work == (("a", 1), ("b", 1))
    d = Job("d", (3,), 8, 7, (0, 1))  # only when both b and d have left is there a page
    gone = decide([a._replace(pages=(2, 3)), b, d], [], replace(limits, num_pages=4))
    assert gone.preempt == ("d", "b") and gone.work == (("a", 1),)


def test_a_page_found_in_the_cache_counts_if_nobody_holds_it():
    limits = Limits(page_size=4, num_pages=3)
    holder = Job("a", (0,), 8, 7, (0, 1))
    found = Job("b", (1,), 10, 8, (0, 1))  # its first pages are held by a already
    assert decide([holder], [found], limits).admit == ()  # one new, and one to be left for a
    assert decide([holder], [found], replace(limits, num_pages=4)).admit == ("b",)
    idle = found._replace(pages=(2, 3))
    assert decide([holder], [idle], replace(limits, num_pages=5)).admit == ()
    assert decide([holder], [idle], replace(limits, num_pages=6)).admit == ("b",)


@pytest.mark.parametrize("step_tokens", [2, None])
def test_a_higher_rank_takes_the_place_of_the_lowest(step_tokens):
    limits = Limits(page_size=4, num_pages=100, max_running=2, step_tokens=step_tokens)
    running = [Job("a", (1,), 5, 4, (0,)), Job("b", (2,), 9, 8, (1, 2))]
    urgent = Job("c", (0,), 3, 0)
    decision = decide(running, [urgent], limits)
    assert decision.preempt == ("b",) and decision.admit == ("c",)
    assert decision.work == (("a", 1), ("c", 3 if step_tokens is None else 1))


@pytest.mark.parametrize(
    "wrong, said",
    [({"page_size": 0}, "at least 1"), ({"num_pages": 0}, "at least 1"),
     ({"max_running": 0}, "at least 1"), ({"step_tokens": 7}, "at least max_running, 8, or None")],
)  # fmt: skip
def test_limits_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        Limits(**({"page_size": 4, "num_pages": 4} | wrong))


# ---- any load, carried out without a model -------------------------------------------------------


@dataclass
class Simulated:
    """A request as the scheduler sees it, and how many tokens it has yet to write."""

    job: Job
    to_write: int
    new: list[int] = field(default_factory=list)


def carry_out(decision: Decision, running, waiting, free: set[int], limits: Limits) -> None:
    """Do what was decided, with numbered pages; nothing may be missing."""
    for id_ in decision.preempt:
        one = running.pop(id_)
        free |= set(one.job.pages)
        one.job = one.job._replace(computed=0, pages=())
        waiting[id_] = one
    for id_ in decision.admit:
        running[id_] = waiting.pop(id_)
    for id_, count in decision.work:
        one = running[id_]
        wanted = limits.pages_for(one.job.computed + count) - len(one.job.pages)
        pages = tuple(free.pop() for _ in range(wanted))  # KeyError: handed out twice
        one.job = one.job._replace(computed=one.job.computed + count, pages=one.job.pages + pages)
        if one.job.missing == 0:
            one.to_write -= 1
            one.job = one.job._replace(known=one.job.known + 1)
            if one.to_write == 0:
                free |= set(running.pop(id_).job.pages)


@st.composite
def loads(draw):
    page_size, num_pages = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    max_running = draw(st.integers(1, 4))
    step_tokens = draw(st.one_of(st.none(), st.integers(max_running, 3 * max_running)))
    limits = Limits(page_size, num_pages, max_running, step_tokens)
    most = page_size * num_pages
    requests = []
    for i in range(draw(st.integers(1, 8))):
        prompt = draw(st.integers(1, most))
        answer = draw(st.integers(1, min(6, most - prompt + 1)))
        arrival = draw(st.integers(0, 12))
        requests.append(
            (arrival, Simulated(Job(i, (draw(st.integers(0, 2)), i), prompt, 0), answer))
        )
    return limits, requests


@settings(max_examples=400, deadline=None)
@given(loads())
def test_any_load_is_served_within_its_limits_and_the_first_in_rank_always_moves_on(load):
    limits, requests = load
    running, waiting = {}, {}
    free = set(range(limits.num_pages))
    work_in_all = sum(x.job.known + x.to_write for _, x in requests)
    for now in range(12 + len(requests) * work_in_all + 1):
        waiting |= {x.job.id: x for arrival, x in requests if arrival == now}
        if not running and not waiting:
            continue
        line = sorted((x.job for x in waiting.values()), key=lambda job: job.rank)
        before = {id_: x.job for id_, x in (running | waiting).items()}
        decision = decide([x.job for x in running.values()], line, limits)
        check(decision, running, line, limits)
        carry_out(decision, running, waiting, free, limits)
        held = [page for x in running.values() for page in x.job.pages]
        assert sorted([*held, *free]) == list(range(limits.num_pages))
        first = min(before.values(), key=lambda job: job.rank)
        assert first.id in {work.id for work in decision.work}
    assert not running and not waiting and len(free) == limits.num_pages


def check(decision: Decision, running, line: list[Job], limits: Limits) -> None:
    """What every decision must keep."""
    jobs = {x.job.id: x.job for x in running.values()} | {job.id: job for job in line}
    work = dict(decision.work)
    stay = (set(running) - set(decision.preempt)) | set(decision.admit)
    assert set(work) <= stay and len(stay) <= limits.max_running and len(work) == len(decision.work)
    assert all(1 <= count <= jobs[id_].missing for id_, count in work.items())
    assert limits.step_tokens is None or sum(work.values()) <= limits.step_tokens
    assert all(id_ in work for id_ in stay if jobs[id_].missing == 1)  # nobody who decodes waits
    assert decision.admit == tuple(job.id for job in line[: len(decision.admit)])  # no overtaking
    counts = [count if jobs[id_].missing > 1 else 0 for id_, count in work.items()]
    assert counts == sorted(counts, key=bool)  # those who decode come first
    for gone in decision.preempt:  # only for a higher rank, and the lowest first
        assert all(jobs[gone].rank > jobs[id_].rank for id_ in stay if id_ in running)


def test_work_and_decisions_are_plain_tuples():
    assert Work("a", 3) == ("a", 3)
    assert decide([], [], Limits(4, 4)) == Decision((), (), ())

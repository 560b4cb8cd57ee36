"""reference.paging.day: the stated day, memory never handed out twice, sums that add up."""

import itertools
import math
import statistics

import pytest

from reference.paging.day import (
    LONGEST,
    TOKENS_PER_SECOND,
    Contiguous,
    Day,
    Paged,
    Request,
    requests,
)

CAPACITY = 32_768


@pytest.fixture(scope="module")
def day():
    return requests()


def test_the_day_is_the_stated_one(day):
    """The logarithm of a median of n draws is off by about 1.25 σ / √n; five of those."""
    assert len(day) == 2000 and day == requests(seed=0) != requests(seed=1)
    assert [r.arrival for r in day] == sorted(r.arrival for r in day)
    assert day[0].arrival >= 8 * 3600 and day[-1].arrival < 20 * 3600 + 30
    for lengths, median, sigma, most in (
        ([r.prompt for r in day], 600, 1.0, 6144), ([r.answer for r in day], 300, 0.9, 2048)
    ):  # fmt: skip
        off = 1.25 * sigma / math.sqrt(len(day))
        assert abs(math.log(statistics.median(lengths) / median)) < 5 * off
        assert min(lengths) >= 1 and max(lengths) <= most
        logs = [math.log(n) for n in lengths]
        # clipping takes a little off the spread: 1 % of the prompts, 2 % of the answers
        assert 0.9 * sigma < statistics.stdev(logs) < 1.05 * sigma


@pytest.mark.parametrize("memory", [
    lambda: Contiguous(CAPACITY, LONGEST), lambda: Contiguous(CAPACITY),
    lambda: Paged(CAPACITY, 1), lambda: Paged(CAPACITY, 16), lambda: Paged(CAPACITY, 1024),
])  # fmt: skip
def test_every_second_adds_up(memory, day):
    memory = memory()

    def look(now, second):
        held, later, never, free = now.shares()
        assert held + later + never + free == pytest.approx(1, abs=1e-12)
        assert min(held, later, never) >= 0 and free >= -1e-12
        if isinstance(memory, Contiguous):
            pieces = sorted(memory.pieces.values())
            assert all(a[1] <= b[0] for a, b in itertools.pairwise(pieces))
            assert not pieces or (pieces[0][0] >= 0 and pieces[-1][1] <= memory.capacity)
        else:
            assert memory.free + sum(memory.pages.values()) == memory.capacity // memory.page_size
        assert all(memory.reserved(h) >= n for h, n in now.tokens.items())

    run = Day(day[:600], memory)
    outcome = run.run(look)
    assert len(run.waited) == 600 and not run.tokens and not run.waiting
    assert outcome.held + outcome.later + outcome.never + outcome.free == pytest.approx(1)
    assert not getattr(memory, "pieces", None) and not getattr(memory, "pages", None)


def test_pages_hold_more_requests_than_reserving_what_nobody_can_know(day):
    longest, exact, pages = (
        Day(day, memory).run()
        for memory in (Contiguous(CAPACITY, LONGEST), Contiguous(CAPACITY), Paged(CAPACITY, 16))
    )
    assert longest.running == CAPACITY // LONGEST == longest.most
    assert exact.never == 0 and exact.scattered > 0.5 and longest.scattered == 0
    assert pages.scattered == 0
    assert longest.held < exact.held < pages.held
    assert longest.running < exact.running < pages.running


def test_half_a_page_is_wasted_for_each_request(day):
    """The last page of a request is half full on average, if lengths know nothing of pages."""
    for size in (16, 64, 256):
        memory, tails = Paged(CAPACITY, size), []
        Day(day, memory).run(lambda now, _, memory=memory, tails=tails: tails.extend(
            memory.reserved(h) - n for h, n in now.tokens.items()))  # fmt: skip
        spread = size / math.sqrt(12)
        # a running request is seen again every second, about 20 times: so many fewer draws
        near = 5 * spread / math.sqrt(len(tails) / 20)
        assert abs(statistics.mean(tails) - (size - 1) / 2) < near


def test_three_requests_by_hand():
    """30 tokens of room. a takes 4, b 24; a ends, c needs 5: in one piece only when b has ended."""
    day = [Request(0, 3, 1), Request(0, 2, 2 + TOKENS_PER_SECOND), Request(1, 4, 1)]
    memory = Contiguous(30)
    assert memory.begin(0, 3, 4) and memory.begin(1, 2, 24) and not memory.begin(2, 4, 5)
    memory.end(0)
    assert not memory.begin(2, 4, 5)  # 4 + 2 are free, and 5 are wanted
    memory.end(1)
    assert memory.begin(2, 4, 5) and memory.pieces == {2: (0, 5)}
    outcome = Day(day, Contiguous(30)).run()
    assert (outcome.busy, outcome.scattered, outcome.running, outcome.most) == (1, 1.0, 1.0, 1)
    assert Day(day, Paged(30, 1, spare=0.0)).run().busy == 0


def test_a_request_sent_back_is_finished_later():
    """Both begin, neither can end beside the other: the later one waits, with its tokens kept."""
    day = [Request(0, 20, 60), Request(0, 20, 60)]
    run = Day(day, Paged(100, 10))
    outcome = run.run()
    assert (outcome.restarted, run.done, outcome.busy) == (1, {1: 40}, 1)
    # With no page to spare it begins again at once, only to be sent back once more.
    assert Day(day, Paged(100, 10, spare=0.0)).run().restarted == 2


def test_what_never_fits_is_an_error_and_not_an_endless_loop():
    for memory in (Contiguous(50), Paged(50, 5)):
        with pytest.raises(ValueError, match="90 tokens does not fit into an empty memory of 50"):
            Day([Request(0, 30, 60)], memory).run()
    for make, says in (
        (lambda: Contiguous(10, 11), "at least 11 tokens; got 10"),
        (lambda: Paged(10, 0), "1…10, the capacity; got 0"),
        (lambda: Paged(10, 11), "1…10, the capacity; got 11"),
        (lambda: requests(0), "count and jobs must be at least 1; got 0 and 40"),
    ):
        with pytest.raises(ValueError, match=says):
            make()

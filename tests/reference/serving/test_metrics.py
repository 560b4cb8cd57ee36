"""reference.serving.metrics: by hand, and by definition."""

import doctest
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.serving import metrics as module
from reference.serving.metrics import Objective, Trace, percentile, summarise


def test_examples():
    assert doctest.testmod(module).failed == 0


@given(st.lists(st.integers(-50, 50), min_size=1), st.integers(1, 100))
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(values, p):
    got = percentile(values, p)

    def share(x):
        return 100 * sum(value <= x for value in values)  # of len(values), in per cent

    assert got in values and share(got) >= p * len(values)
    assert all(share(x) < p * len(values) for x in values if x < got)


@pytest.mark.parametrize("p", [0, -1, 101])
def test_a_percentile_lies_between_0_and_100(p):
    with pytest.raises(ValueError, match=r"\(0, 100\]"):
        percentile([1.0], p)


def test_a_run_by_hand():
    traces = [
        Trace(0.0, 0.0, [1.0, 2.0, 4.0], 4.0),  # TTFT 1, TPOT 1.5, gaps 1 and 2
        Trace(1.0, 2.0, [5.0, 5.5], 5.5),  # TTFT 4, TPOT 0.5
        Trace(2.0, 4.0, [8.0], 8.0),  # TTFT 6, no TPOT
        Trace(3.0),  # cancelled before it began
    ]
    s = summarise(traces, Objective(ttft=6.0, tpot=1.0), percentiles=(50, 100))
    assert (s.requests, s.tokens, s.seconds) == (4, 6, 8.0)
    assert s.throughput == 6 / 8 and s.goodput == 2 / 8
    assert s.ttft == {50: 4.0, 100: 6.0} and s.tpot == {50: 0.5, 100: 1.5}
    assert s.gap == {50: 1.0, 100: 2.0} and s.queueing == {50: 1.0, 100: 2.0}
    assert "4 requests, 6 tokens in 8.00 s: 0.8 tokens/s, goodput 0.25 requests/s" in str(s)
    assert "TTFT         4,000.0   6,000.0" in str(s)


def test_what_never_happened_has_no_time():
    trace = Trace(1.0)
    assert all(map(math.isnan, (trace.ttft, trace.tpot, trace.queueing))) and trace.gaps == []
    s = summarise([trace])
    assert math.isnan(s.throughput) and math.isnan(s.goodput) and math.isnan(s.ttft[50])
    assert not Objective(math.inf, math.inf).met(trace)


def test_a_summary_needs_a_request():
    with pytest.raises(ValueError, match="at least one"):
        summarise([])

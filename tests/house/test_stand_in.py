"""The made-up device keeps its word: a queue, a cache and a clock, to the last digit."""

import pytest

from course.stand_in import StandIn


def one_call(device, inputs):
    """Seconds for a call and the wait for it."""
    start = device.clock()
    device.launch(inputs)
    device.synchronize()
    return device.clock() - start


def cold(device):
    """Inputs that have been pushed out of the cache."""
    inputs = device.inputs()
    for _ in range(device.cache_bytes // device.set_bytes):
        device.inputs()
    return inputs


def test_a_launch_returns_before_the_call_is_done():
    device = StandIn(call_s=1.0, launch_s=0.25, warm=1.0)
    data = device.inputs()
    device.launch(data)
    device.launch(data)
    assert device.clock() == 0.5
    device.synchronize()
    assert device.clock() == 2.25  # the second call waited in the queue, not for its launch
    device.synchronize()
    assert device.clock() == 2.25


def test_what_was_made_or_used_last_is_in_the_cache():
    device = StandIn(call_s=1.0, launch_s=0.0, warm=0.5, set_bytes=10, cache_bytes=30)
    a, b, c, d = (device.inputs() for _ in range(4))  # d pushes a out
    assert [one_call(device, x) for x in (b, c, d)] == [0.5] * 3
    assert one_call(device, a) == 1.0  # pushes b out, the least recently used
    assert [one_call(device, x) for x in (c, d, b)] == [0.5, 0.5, 1.0]


def test_rotating_through_one_set_more_than_fits_is_always_cold():
    device = StandIn(call_s=1.0, launch_s=0.0, warm=0.5, set_bytes=10, cache_bytes=30)
    sets = [device.inputs() for _ in range(4)]
    assert {one_call(device, sets[i % 4]) for i in range(40)} == {1.0}


def test_without_a_cache_nothing_is_warm():
    device = StandIn(call_s=1.0, launch_s=0.0, cache_bytes=0)
    data = device.inputs()
    assert one_call(device, data) == one_call(device, data) == 1.0


def test_zeros_are_easier():
    device = StandIn(call_s=1.0, launch_s=0.0, zeros=0.7, cache_bytes=0)
    assert one_call(device, device.inputs("zeros")) == 0.7


def test_the_first_launch_compiles_and_the_clock_rises_with_work():
    device = StandIn(call_s=1.0, launch_s=0.0, cache_bytes=0, compile_s=5.0, rise_s=4.0, slow=3.0)
    data = device.inputs()
    assert [one_call(device, data) for _ in range(4)] == [8.0, 3.0, 1.0, 1.0]


def test_spread_is_even_and_outliers_come_in_their_turn():
    device = StandIn(call_s=1.0, launch_s=0.0, cache_bytes=0, spread=0.1, outlier_every=10)
    data = device.inputs()
    times = [one_call(device, data) for _ in range(1000)]
    assert [i for i, t in enumerate(times) if t > 1.2] == list(range(9, 1000, 10))
    usual = sorted(t for t in times if t < 1.2)
    assert 0.9 <= usual[0] < 0.91 and 1.09 < usual[-1] <= 1.1
    for p in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert abs(usual[int(p * len(usual))] - (0.9 + 0.2 * p)) < 0.005


def test_the_log_tells_the_order():
    device = StandIn()
    data = device.inputs()
    one_call(device, data)
    assert device.log == ["inputs 0", "clock", "launch 0", "synchronize", "clock"]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="call_s must not be negative; got -1"):
        StandIn(call_s=-1)
    with pytest.raises(ValueError, match='"random" or "zeros"'):
        StandIn().inputs("ones")

"""course.hardware.speculation: a pass over several tokens, against sums written out by hand."""

import pytest

from course.hardware import model_named, pass_ratio, pass_us, pass_work, ridge_point

LLAMA = model_named("Llama-3 8B")


def test_a_pass_of_llama_by_hand():
    linear, attention = pass_work(LLAMA, context=4096, queries=5, batch=2)
    assert (linear.operations, linear.bytes) == pytest.approx((2 * 8.03e9 * 10, 2 * 8.03e9))
    keys = 4096 + 5
    assert attention.operations == 32 * 2 * 2 * 5 * 32 * keys * 256
    assert attention.bytes == 32 * 2 * 256 * (keys * 8 * 2 + 5 * 32 * 2)


def test_a_pass_is_free_below_the_ridge_and_not_above():
    for device in ("H100 SXM", "A100 80GB SXM"):
        most = int(ridge_point(device))
        assert pass_ratio(LLAMA, device, context=1024, queries=most // 8) < 1.01
        # Attention is above its own ridge by then, and takes more than twice as long.
        assert 1.9 < pass_ratio(LLAMA, device, context=1024, queries=2 * most) < 2.3
        crowded = pass_ratio(LLAMA, device, context=1024, queries=5, batch=2 * most)
        assert crowded > 2
    assert pass_ratio(LLAMA, "H100 SXM", context=1024, queries=1, batch=7) == 1


def test_time_is_that_of_both_parts():
    linear, attention = pass_work(LLAMA, context=4096)
    us = pass_us("Llama-3 8B", "H100 SXM", context=4096)
    assert us == pytest.approx((linear.bytes + attention.bytes) / 3.35e6)


@pytest.mark.parametrize("name", ["context", "queries", "batch"])
def test_counts_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1; got 0"):
        pass_work(LLAMA, **({"context": 9} | {name: 0}))

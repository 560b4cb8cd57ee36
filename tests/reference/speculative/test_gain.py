"""reference.speculative.gain: tokens per pass, and when a draft pays."""

import doctest
import math
import random

import pytest

from reference.speculative import break_even, expected_tokens, speed_up
from reference.speculative import gain as module


def test_examples():
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("K", [0, 1, 4, 16])
def test_the_sum_is_the_closed_form(alpha, K):
    assert expected_tokens(alpha, K) == pytest.approx((1 - alpha ** (K + 1)) / (1 - alpha))
    assert expected_tokens([alpha] * K) == expected_tokens(alpha, K)
    assert expected_tokens(1.0, K) == K + 1


def test_coins_agree():
    """Tossed 40,000 times: the mean of a number in 1…4 is off by more than 0.05 once in 10^12."""
    places, rng, n = [0.8, 0.5, 0.9], random.Random(0), 40_000
    total = 0
    for _ in range(n):
        total += 1
        for alpha in places:
            if rng.random() >= alpha:
                break
            total += 1
    assert 2 * math.exp(-2 * n * (0.05 / 3) ** 2) < 1e-9
    assert total / n == pytest.approx(expected_tokens(places), abs=0.05)


def test_break_even_is_where_the_speed_up_is_one():
    for K, verify, draft in ((1, 1.3, 0.0), (4, 1.5, 0.1), (8, 2.0, 0.5), (3, 3.9, 0.0)):
        alpha = break_even(K, verify, draft)
        assert speed_up(alpha, K, verify, draft) == pytest.approx(1)
        assert speed_up(min(1, alpha + 0.01), K, verify, draft) > 1
    assert break_even(4, 1.0) == 0.0 and break_even(4, 0.9) == 0.0
    assert math.isnan(break_even(4, 5.1)) and math.isnan(break_even(2, 1.0, 1.1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expected_tokens(0.5), "K must be at least 0 beside a single alpha; got None"),
        (lambda: expected_tokens(0.5, -1), "got -1"),
        (lambda: expected_tokens([0.5], 3), "give K or one alpha per place; got K = 3 and 1"),
        (lambda: expected_tokens(1.2, 2), "alpha must lie in 0…1"),
        (lambda: speed_up(0.5, 2, 0.0), "verify must be above 0, draft at least 0; got 0.0"),
        (lambda: speed_up(0.5, 2, 1.0, -0.1), "got 1.0 and -0.1"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""reference.perplexity: losses by hand, and intervals that hold what they should."""

import doctest
import math

import pytest
import torch
from small_models import TINY, small_model, some_tokens

from reference import perplexity as module
from reference.attention import attention_with_cache
from reference.perplexity import compare, cut, perplexity, token_losses
from reference.transformer import KVCache


def test_losses_are_the_log_probabilities_of_what_came():
    model, windows = small_model(), some_tokens(3, 12)
    made = []

    def make_cache():
        made.append(KVCache(TINY, dtype=torch.float64))
        return made[-1]

    found = torch.stack(list(token_losses(model, windows, make_cache, attention_with_cache)))
    assert found.shape == (3, 11) and found.dtype == torch.float64
    assert len(made) == 3 and all(int(cache.lengths[0]) == 11 for cache in made)
    p = model(windows).softmax(-1)
    wanted = [[-math.log(p[b, i, windows[b, i + 1]]) for i in range(11)] for b in range(3)]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))
    assert math.isclose(perplexity(found), math.exp(sum(map(sum, wanted)) / 33))


def test_nobody_sees_the_token_to_be_predicted():
    model, windows = small_model(), some_tokens(1, 12)
    changed = windows.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 256
    pair = [
        next(
            token_losses(model, x, lambda: KVCache(TINY, dtype=torch.float64), attention_with_cache)
        )
        for x in (windows, changed)
    ]
    assert torch.equal(pair[0][:-1], pair[1][:-1]) and pair[0][-1] != pair[1][-1]


def test_what_is_left_over_is_dropped():
    assert cut(torch.arange(10), 3).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    with pytest.raises(ValueError, match="windows of 11"):
        cut(torch.arange(10), 11)
    with pytest.raises(ValueError, match="windows of 1 "):
        cut(torch.arange(10), 1)


def test_the_interval_holds_the_truth_about_95_times_in_100():
    """400 experiments of 24 windows. The percentiles of so few windows are a little narrow: 93 %,
    by the t distribution's tail at 1.96 · sqrt(23/24). Four standard errors of that are 5 %."""
    rng = torch.Generator().manual_seed(0)
    truth, hits = 0.01, 0
    for _ in range(400):
        before = 2 + torch.rand(24, 8, generator=rng)
        shift = truth + 0.02 * torch.randn(24, 1, generator=rng, dtype=torch.float64)
        r = compare(before + shift, before, samples=500, seed=int(before[0, 0] * 1e6))
        hits += r.low <= math.exp(truth) <= r.high
    assert 0.88 <= hits / 400 <= 0.98


def test_windows_are_drawn_whole():
    """Tokens of one window that move together say no more than one of them does.

    Six windows: the mean is drawn within about 2 · 0.5 / √6 of 0.5. Six thousand tokens on their
    own would give 1.03 for the ratio of the ends.
    """
    before = torch.zeros(6, 1000, dtype=torch.float64)
    after = torch.tensor([0.0, 0, 0, 1, 1, 1], dtype=torch.float64)[:, None].expand(6, 1000)
    r = compare(after, before)
    assert math.isclose(r.ratio, math.exp(0.5)) and r.high / r.low > 1.8


def test_pairing_removes_how_hard_the_windows_are():
    before = torch.linspace(1, 9, 12)[:, None].expand(12, 5)
    r = compare(before + 0.001, before)
    assert r.low < r.high + 1e-12 and math.isclose(r.ratio, math.exp(0.001), rel_tol=1e-6)
    assert r.high - r.low < 1e-5


def test_what_cannot_be_compared_is_refused():
    x = torch.zeros(3, 4)
    for after, before in ((x, x[:2]), (x[0], x[0]), (x[:1], x[:1])):
        with pytest.raises(ValueError, match="at least 2 windows"):
            compare(after, before)


def test_examples():
    flags = doctest.ELLIPSIS
    result = doctest.testmod(module, optionflags=flags)
    assert result.attempted and not result.failed

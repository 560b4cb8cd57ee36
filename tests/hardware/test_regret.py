"""course.hardware.regret: rules scored on curves, and which one wins."""

import math

import pytest

from benchmarks import splits as splits_benchmark
from benchmarks.grid import HEADS
from course.hardware.regret import RULES, as_text, compare, fit_costs, regret, score
from course.hardware.split_curves import CALLS, Curve, interpolate, modelled, recorded, worlds
from kernels.explain import explain
from kernels.heuristics import choose_num_splits
from kernels.split_rules import ASSUMED, Costs, SplitShape, cost_model, fixed_count

DEVICES = ("A10", "A100 80GB SXM", "H100 SXM", "H200")
SHAPE = SplitShape(programs=8, blocks=64, num_sms=132)
CURVE = Curve("by hand", "made up", SHAPE, ((1, 40.0), (2, 20.0), (4, 10.0), (8, 12.0)))


@pytest.fixture(scope="module")
def all_worlds():
    return [x for name in DEVICES for curves in worlds(name).values() for x in curves]


def test_regret_by_hand():
    assert CURVE.best == (4, 10.0) and CURVE.time_us(3) == 15.0
    assert regret(fixed_count(1), CURVE) == 3.0
    assert regret(fixed_count(4), CURVE) == 0.0
    assert regret(fixed_count(6), CURVE) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="within those tried, 1 to 8; got 9"):
        regret(fixed_count(9), CURVE)
    with pytest.raises(ValueError, match="none; got 1"):
        interpolate([], 1)


def test_equal_times_are_won_by_fewer_splits():
    assert Curve("", "", SHAPE, ((1, 9.0), (2, 5.0), (3, 5.0))).best == (2, 5.0)


def test_a_score_by_hand():
    rows = [Curve("", "made up", SHAPE, ((1, 1.0 + i), (2, 1.0))) for i in range(10)]
    found = score("one", fixed_count(1), rows)
    assert (found.median, found.ninetieth, found.worst, found.mean) == (4.5, 8.0, 9.0, 4.5)
    assert (found.source, found.curves) == ("made up", 10)
    other = Curve("", "dreamt", SHAPE, CURVE.times_us)
    assert score("", fixed_count(1), [*rows, other]).source == "2 worlds or devices"
    with pytest.raises(ValueError, match="at least one curve; got none of 0"):
        score("", fixed_count(1), [])


def test_a_curve_that_did_not_try_it_says_nothing_of_a_rule():
    long = Curve("", "made up", SHAPE, ((1, 9.0), (64, 3.0)))
    assert score("", fixed_count(64), [CURVE, long]).curves == 1
    with pytest.raises(ValueError, match="got none of 1"):
        score("", fixed_count(64), [CURVE])
    text = as_text(compare([CURVE, long], {"few": fixed_count(2), "many": fixed_count(64)}))
    assert "regret on 2 curves" in text and text.endswith("on 1 of them")


def test_the_calls_are_those_that_are_measured():
    """A recorded run and the model then answer the same questions."""
    grid = {
        (B, h, n) for B in splits_benchmark.BATCHES for h in HEADS for n in splits_benchmark.LENGTHS
    }
    fits = {c for c in grid if 2 * c[0] * c[1][1] * c[2] * 128 * 2 <= 8 * 2**30}
    assert set(CALLS) == fits


def test_a_modelled_curve_is_what_explain_says():
    curve = modelled("H200", [(4, (32, 8), 16384)])[0]
    call = {"batch": 4, "heads": (32, 8), "head_dim": 128, "length": 16384, "device": "H200"}
    for splits, us in curve.times_us:
        assert us == explain(**call, num_splits=splits).time_us
    assert {*curve.shape.useful()} <= {s for s, _ in curve.times_us}
    assert curve.source == "a model of H200"


def test_every_curve_has_every_rule_within_what_was_tried(all_worlds):
    assert len(all_worlds) == len(DEVICES) * 16 * len(CALLS)
    for name, rule in RULES.items():
        for curve in all_worlds[:: len(CALLS) // 2]:
            assert regret(rule, curve) >= 0, (name, curve.call)


def test_the_winner_is_what_the_kernels_ask(all_worlds):
    """By mean, 90th percentile and worst case over all worlds, and by each GPU's own mean.

    Not by the median: half of all calls are easy, and every rule is within 1 % there.
    """
    scores = {each.rule: each for each in compare(all_worlds)}
    best = scores["cost model"]
    for name, other in scores.items():
        if name != "cost model":
            assert best.mean < other.mean and best.worst < other.worst, name
            assert best.ninetieth < other.ninetieth, name
    assert best.median < 0.01
    for device in DEVICES:
        there = [curve for curve in all_worlds if f" {device}, " in curve.source]
        means = {each.rule: each.mean for each in compare(there)}
        assert min(means, key=means.get) == "cost model", device
    call = {"batch": 1, "kv_heads": 8, "m_tiles": 1, "max_len": 4096, "block_n": 64}
    assert choose_num_splits(**call, num_sms=132) == cost_model(SHAPE)


def test_what_is_assumed_is_next_to_the_best(all_worlds):
    """The mean regret of the assumed costs is within half a percent of the best candidate's."""
    some = all_worlds[::7]
    best = fit_costs(some)

    def mean(costs):
        return score("", lambda shape: cost_model(shape, costs), some).mean

    assert mean(ASSUMED) <= mean(best) + 0.005
    assert mean(best) < mean(Costs(merge=10**9))


def test_a_record_is_read_as_it_was_written():
    row = {"B": 1, "Hq": 32, "Hkv": 8, "Lk": 4096, "num_splits": [1, 2, 16], "ms": [0.3, 0.2, 0.1]}
    record = {"gpu": "NVIDIA H200", "rows": [row, {"cell": "too large", "cannot": {}}]}
    (curve,) = recorded(record)
    assert curve.source == "recorded on H200" and curve.call == "B1 32/8 4,096"
    assert curve.shape.blocks == 64 and curve.best == (16, pytest.approx(100.0))
    assert math.isclose(curve.time_us(9), 150.0)
    assert recorded(None) == [] == recorded({"gpu": "none: interpreted", "rows": [row]})
    with pytest.raises(ValueError, match="no figures for Abacus"):
        recorded({"gpu": "Abacus", "rows": [row]})


def test_text_says_what_it_rests_on():
    text = as_text(compare(modelled("A10", CALLS[:4])))
    lines = text.splitlines()
    assert lines[0] == "regret on 4 curves, a model of A10" and len(lines) == 2 + len(RULES)
    assert len({len(line) for line in lines[1:]}) == 1 and lines[-1].startswith("cost model")

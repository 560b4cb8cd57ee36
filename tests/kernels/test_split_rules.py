"""kernels.split_rules: what each rule promises, checked by brute force."""

import doctest
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import split_rules
from kernels.split_rules import (
    GOOD_ENOUGH,
    MAX_SPLITS,
    NEARLY_LEAST,
    Costs,
    SplitShape,
    cost,
    cost_model,
    fixed_count,
    fixed_size,
    splits_like_fa2,
    splits_like_fa3,
    wave_efficiency,
    waves,
)

RULES = (splits_like_fa2, splits_like_fa3, cost_model, fixed_count(16), fixed_size(512))
H100 = SplitShape(programs=8, blocks=1024, num_sms=132)
shapes = st.builds(
    SplitShape,
    programs=st.integers(0, 2000),
    blocks=st.integers(0, 4096),
    num_sms=st.integers(1, 304),
    token_bytes=st.sampled_from([32, 256, 512, 1152]),
    partial_bytes=st.sampled_from([68, 516, 4128, 64 * 516]),
)


def with_(**change):
    return replace(H100, **change)


def test_docstrings_tell_the_truth():
    assert doctest.testmod(split_rules).failed == 0


def test_waves_by_hand():
    assert waves(6, 4) == 1.5 and wave_efficiency(6, 4) == 0.75  # 6 of 8 places
    assert wave_efficiency(8, 4) == 1.0
    assert wave_efficiency(0, 4) == 0.0


@given(shape=shapes)
def test_every_rule_answers_from_one_to_the_blocks(shape):
    for rule in RULES:
        assert 1 <= rule(shape) <= max(1, shape.blocks)
    for rule in RULES[:3]:
        assert rule(shape) <= MAX_SPLITS
        assert rule(replace(shape, max_splits=1)) == 1


@given(shape=shapes)
def test_useful_numbers_leave_no_split_empty(shape):
    useful = shape.useful()
    assert (1 in useful) == (shape.blocks > 0)
    for s in useful:
        assert (s - 1) * -(-shape.blocks // s) < shape.blocks
        assert s <= min(MAX_SPLITS, 2 * shape.num_sms, shape.blocks)


@pytest.mark.parametrize("rule", [splits_like_fa2, splits_like_fa3])
def test_a_full_gpu_is_not_split_by_the_rules_of_waves(rule):
    assert rule(with_(programs=512)) == 1
    assert rule(with_(programs=212)) == 1  # 80 % of 264 slots


def test_flash_attention_3_counts_one_program_an_sm_and_leaves_few_blocks_alone():
    assert splits_like_fa3(with_(programs=106)) == 1  # 80 % of 132 SMs
    assert splits_like_fa2(with_(programs=106)) > 1
    assert [splits_like_fa3(with_(blocks=n)) for n in (3, 4, 5)] == [1, 1, 5]


@pytest.mark.parametrize("programs", [1, 3, 8, 24, 100, 300])
@pytest.mark.parametrize("num_sms", [16, 72, 108, 132])
@pytest.mark.parametrize("blocks", [7, 64, 1000])
def test_flash_attention_2_the_slow_way(programs, num_sms, blocks):
    """The fewest splits that are nearly the best."""
    chosen = splits_like_fa2(SplitShape(programs, blocks, num_sms))
    slots = 2 * num_sms
    if programs >= 0.8 * slots:
        assert chosen == 1
        return
    # s splits of whole blocks are really s splits only if the last one still gets a block.
    can = [
        s for s in range(1, 129) if s <= min(blocks, slots) and (s - 1) * -(-blocks // s) < blocks
    ]
    efficiency = {s: programs * s / slots / math.ceil(programs * s / slots) for s in can}
    good = [s for s in can if efficiency[s] >= GOOD_ENOUGH * max(efficiency.values())]
    assert chosen == min(good)


@given(shape=shapes.filter(lambda shape: shape.programs and shape.blocks))
def test_the_cost_model_is_within_two_percent_of_the_cheapest_and_fewer_would_not_do(shape):
    chosen = cost_model(shape)
    least = min(cost(shape, s) for s in shape.useful())
    assert cost(shape, chosen) <= NEARLY_LEAST * least
    fewer = [s for s in shape.useful() if s < chosen]
    assert all(cost(shape, s) > NEARLY_LEAST * least for s in fewer)


def test_cost_by_hand():
    """Two programs of ten blocks of 100 bytes on four SMs; a partial result is 8 bytes."""
    shape = SplitShape(2, 10, 4, token_bytes=10, block_n=10, partial_bytes=8)
    costs = Costs(merge=50, fill=3, alone=0.5)
    assert cost(shape, 1, costs) == (1000 + 3) / 0.5
    assert cost(shape, 2, costs) == (500 + 8 + 3) / 0.5 + 50 + 2 * 2 * 8 / 4
    assert cost(shape, 4, costs) == 2 * (300 + 8 + 3) + 50 + 2 * 4 * 8 / 4  # two on each SM
    assert cost(shape, 5, costs) == (2 + 1 / 0.5) * (200 + 8 + 3) + 50 + 2 * 5 * 8 / 4


def test_tiles_that_read_the_same_keys_are_no_faster_on_an_sm_each():
    """Two programs on two SMs, but at one pace: two splits pair them up at no extra cost."""
    costs = Costs(merge=0, fill=0, alone=1.0)
    apart = SplitShape(4, 8, 4, m_tiles=2, token_bytes=1, block_n=1, partial_bytes=1)
    assert cost(apart, 1, costs) == 2 * 8 and cost(apart, 2, costs) == 2 * (4 + 1) + 2
    assert cost(replace(apart, m_tiles=1), 1, costs) == 8
    assert cost(replace(apart, m_tiles=4), 2, costs) == 4 * (4 + 1) + 2


def test_what_a_dear_merge_and_a_slow_lone_program_change():
    assert cost_model(H100, Costs(merge=10**9)) == 1
    lonely, social = (cost_model(H100, Costs(fill=0, alone=a)) for a in (0.5, 1.0))
    assert social == 16 < lonely  # 128 programs on 132 SMs, against two on each


def test_short_contexts_are_left_whole_and_long_ones_fill_the_gpu():
    assert [cost_model(with_(blocks=n)) for n in (0, 1, 2, 4)] == [1, 1, 1, 1]
    for programs in (1, 2, 8, 32, 100):
        shape = with_(programs=programs, blocks=2048)
        assert wave_efficiency(min(programs * cost_model(shape), 264), 264) > 0.48


def test_fixed_rules():
    assert [fixed_count(16)(with_(blocks=n)) for n in (0, 5, 16, 1000)] == [1, 5, 16, 16]
    assert [fixed_size(256)(with_(blocks=n)) for n in (0, 1, 4, 5, 1000)] == [1, 1, 1, 2, 250]
    for make in (fixed_count, fixed_size):
        with pytest.raises(ValueError, match="must be at least 1; got 0"):
            make(0)


@pytest.mark.parametrize("name", ["num_sms", "m_tiles", "block_n", "max_splits"])
def test_nothing_below_one(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1; got 0"):
        with_(**{name: 0})


@pytest.mark.parametrize("name", ["programs", "blocks", "token_bytes", "partial_bytes"])
def test_nothing_negative(name):
    with pytest.raises(ValueError, match=f"{name} must not be negative; got -1"):
        with_(**{name: -1})

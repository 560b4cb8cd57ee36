"""kernels.heuristics: plain numbers in, plain numbers out."""

import doctest
import math

import pytest

from kernels import heuristics
from kernels.heuristics import (
    GOOD_ENOUGH,
    choose_decode_launch,
    choose_num_splits,
    next_power_of_2,
    wave_efficiency,
    waves,
)

CALL = {"batch": 1, "kv_heads": 8, "m_tiles": 1, "max_len": 65536, "block_n": 64, "num_sms": 132}


def split(**change):
    return choose_num_splits(**(CALL | change))


def test_docstrings_tell_the_truth():
    assert doctest.testmod(heuristics).failed == 0


def test_waves_by_hand():
    assert waves(6, 4) == 1.5 and wave_efficiency(6, 4) == 0.75  # 6 of 8 places
    assert wave_efficiency(8, 4) == 1.0
    assert wave_efficiency(0, 4) == 0.0


def test_a_full_gpu_is_not_split():
    assert split(batch=64) == 1  # 512 programs for 264 slots
    assert split(batch=27) == 1  # 216: more than 80 % of the slots


def test_an_empty_cache_and_an_empty_batch():
    assert split(max_len=0) == 1
    assert split(batch=0) == 1


@pytest.mark.parametrize("blocks", [1, 2, 3, 5, 8])
def test_never_more_splits_than_blocks(blocks):
    assert split(max_len=64 * blocks, kv_heads=1) == blocks
    assert split(max_len=64 * blocks - 63, kv_heads=1) == blocks


def test_max_splits_is_kept():
    assert split(max_splits=4) == 4
    assert split(max_splits=1) == 1


def test_longer_caches_and_larger_gpus_get_more_splits():
    by_length = [split(max_len=n, kv_heads=2) for n in (64, 512, 4096, 32768)]
    assert by_length == [1, 8, 64, 128]
    by_size = [split(num_sms=n) for n in (10, 40, 80, 108, 132)]  # … A100 has 108, H100 132
    assert by_size == sorted(by_size) and by_size[0] < by_size[-1]


@pytest.mark.parametrize("programs", [1, 3, 8, 24, 100])
@pytest.mark.parametrize("num_sms", [16, 72, 108, 132])
@pytest.mark.parametrize("blocks", [7, 64, 1000])
def test_the_rule_itself(programs, num_sms, blocks):
    """The fewest splits that are nearly the best, found the slow way."""
    chosen = split(kv_heads=programs, num_sms=num_sms, max_len=64 * blocks)
    slots = 2 * num_sms
    if programs >= 0.8 * slots:
        assert chosen == 1
        return
    # s splits of whole blocks are s splits only if the last one still gets a block.
    can = [
        s for s in range(1, 129) if s <= min(blocks, slots) and (s - 1) * -(-blocks // s) < blocks
    ]
    efficiency = {s: programs * s / slots / math.ceil(programs * s / slots) for s in can}
    good = [s for s in can if efficiency[s] >= GOOD_ENOUGH * max(efficiency.values())]
    assert chosen == min(good)


@pytest.mark.parametrize("name", ["kv_heads", "m_tiles", "block_n", "num_sms", "max_splits"])
def test_nothing_below_one(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1; got 0"):
        split(**{name: 0})


@pytest.mark.parametrize("name", ["batch", "max_len"])
def test_nothing_negative(name):
    with pytest.raises(ValueError, match="must not be negative"):
        split(**{name: -1})


@pytest.mark.parametrize(("n", "power"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128)])
def test_next_power_of_2(n, power):
    assert next_power_of_2(n) == power


@pytest.mark.parametrize("tensor_cores", [False, True])
@pytest.mark.parametrize("interpreted", [False, True], ids=["compiled", "interpreted"])
@pytest.mark.parametrize("element_size", [2, 4])
@pytest.mark.parametrize("rows", [1, 2, 8, 16, 17, 35, 64, 72, 1000])
def test_tiles_are_what_a_kernel_takes(rows, element_size, interpreted, tensor_cores):
    for head_dim in range(1, 257):
        launch = choose_decode_launch(
            rows=rows,
            head_dim=head_dim,
            element_size=element_size,
            tensor_cores=tensor_cores,
            interpreted=interpreted,
        )
        assert head_dim <= launch.block_d < max(17, 2 * head_dim)
        for size in (launch.block_m, launch.block_n, launch.block_d):
            assert size == next_power_of_2(size)
        assert launch.block_n >= 16 and launch.block_d >= 16  # the least a dot takes
        assert launch.block_m == 1 if rows == 1 else 16 <= launch.block_m <= 64
        stage = 2 * launch.block_n * launch.block_d * element_size  # bytes of K and V
        assert interpreted or launch.num_stages * stage <= 96 * 1024

"""kernels.heuristics: plain numbers in, plain numbers out."""

import doctest
from dataclasses import replace

import pytest

from kernels import heuristics
from kernels.heuristics import choose_decode_launch, choose_num_splits, next_power_of_2
from kernels.split_rules import SplitShape, cost_model

CALL = {"batch": 1, "kv_heads": 8, "m_tiles": 1, "max_len": 65536, "block_n": 64, "num_sms": 132}


def split(**change):
    return choose_num_splits(**(CALL | change))


def test_docstrings_tell_the_truth():
    assert doctest.testmod(heuristics).failed == 0


def test_the_cost_model_is_asked():
    """With the call's own numbers: bytes per token and per partial result make a difference."""
    shape = SplitShape(programs=8, blocks=1024, num_sms=132)
    assert split() == cost_model(shape)
    few = replace(shape, blocks=16)
    for change in ({"token_bytes": 32}, {"partial_bytes": 10**5}, {"max_splits": 5}):
        chosen = split(max_len=1024, **change)
        assert chosen == cost_model(replace(few, **change)) != cost_model(few), change
    assert split(block_n=16) == cost_model(replace(shape, block_n=16, blocks=4096))
    assert split(batch=2, m_tiles=3) == cost_model(replace(shape, programs=48))
    assert split(max_len=65537) == cost_model(replace(shape, blocks=1025))


def test_an_empty_cache_and_an_empty_batch():
    assert split(max_len=0) == 1
    assert split(batch=0) == 1


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
        assert launch.block_n >= 16 and launch.block_d >= 16  # the minimum for tl.dot
        assert launch.block_m == 1 if rows == 1 and not tensor_cores else 16 <= launch.block_m <= 64
        stage = 2 * launch.block_n * launch.block_d * element_size  # bytes of K and V
        assert interpreted or launch.num_stages * stage <= 96 * 1024

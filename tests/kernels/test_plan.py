"""kernels.plan: the device makes the same plan as the twin, and decoding follows it."""

import random

import pytest
import torch
from shapes import DecodeShape, decode_inputs

from course.check.guards import empty_is_nan
from course.hardware import makespan, schedule
from kernels import plan
from kernels.flash_decoding import flash_decode
from kernels.flash_decoding.features import Features
from kernels.flash_decoding.split import split_call
from kernels.heuristics import choose_decode_launch
from kernels.plan import Plan, decode_plan
from kernels.plan.plan_kernel import plan_call
from kernels.runtime import INTERPRETED, device
from reference.attention import attention_with_cache, oracle_with_cache
from reference.closeness import assert_close_to_oracle
from reference.plan import decode_plan as reference_plan

DEVICE = device()
CALL = {"kv_heads": 8, "block_n": 64, "max_len": 1000}


def seqlens(lengths, dtype=torch.int32):
    return torch.tensor(lengths, dtype=dtype, device=DEVICE)


def assert_is_the_twins(made, lengths, programs, **keywords):
    items, first = reference_plan(lengths, programs=programs, **keywords)
    nothing = [[-1, 0, 0, 0]] * (programs + len(lengths) - len(items))
    assert made.items.tolist() == [list(item) for item in items] + nothing
    assert made.first_slot.tolist() == first


# 256 rows are one tile of the kernel; 0 programs are refused; 17 keys are one block and one key.
@pytest.mark.parametrize("B", [0, 1, 2, 15, 16, 17, 64, 255, 256, 257, 300, 600])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=["int32", "int64"])
def test_random_ragged_batches(B, dtype):
    draw = random.Random(B)
    for programs in (1, 7, 33, 264):
        max_len = draw.choice([1, 17, 1000, 100_000])
        lengths = [draw.choice([0, 1, max_len, draw.randint(0, max_len)]) for _ in range(B)]
        pads = [draw.choice([0, draw.randint(0, max_len)]) for _ in range(B)]
        pads = draw.choice([None, pads])
        keywords = {"Lq": draw.choice([1, 5]), "block_n": draw.choice([16, 64, 128])}
        keywords["window"] = draw.choice([None, 0, 63, 2000])
        with empty_is_nan():
            made = decode_plan(
                seqlens(lengths, dtype),
                kv_heads=8,
                max_len=max_len,
                programs=programs,
                cache_leftpad=None if pads is None else seqlens(pads, dtype),
                **keywords,
            )
        assert_is_the_twins(made, lengths, programs, cache_leftpad=pads, **keywords)


def test_numbers_that_need_their_bits():
    """Thousands of rows of a million keys: their sum exceeds 2^31, but no position does."""
    lengths = [2**20 - 1 - b for b in range(2100)]
    made = decode_plan(seqlens(lengths), kv_heads=1, block_n=16, max_len=2**20, programs=1)
    assert_is_the_twins(made, lengths, 1, block_n=16)
    longest = 2**30 - 1
    made = decode_plan(seqlens([longest]), kv_heads=1, block_n=16, max_len=longest, programs=5)
    assert_is_the_twins(made, [longest], 5, block_n=16)
    window = decode_plan(
        seqlens([9, 0]), kv_heads=1, block_n=16, max_len=9, Lq=8, window=2**31 - 1, programs=2
    )
    assert_is_the_twins(window, [9, 0], 2, block_n=16)


def test_the_wished_number_fills_the_sms_once():
    lengths = seqlens([1000, 10])
    assert len(decode_plan(lengths, **CALL, num_sms=132).items) == 2 * 132 // 8 + 2
    two_tiles = decode_plan(lengths, **CALL, num_sms=132, rows_per_head=72)
    assert len(two_tiles.items) == 2 * 132 // 16 + 2
    assert len(decode_plan(lengths, **CALL, num_sms=1).items) == 1 + 2
    assert len(decode_plan(lengths, **CALL, programs=5).items) == 5 + 2


def test_both_ways_to_say_a_window():
    one = decode_plan(seqlens([1000]), **CALL, window=100)
    other = decode_plan(seqlens([1000]), **CALL, window=(100, 0))
    assert one.made_for() == other.made_for() and torch.equal(one.items, other.items)
    assert decode_plan(seqlens([1000]), **CALL, window=(None, 5)).left is None


def test_runs_repeat_and_inputs_are_left_alone():
    lengths, pads = seqlens([1000, 0, 63, 500]), seqlens([0, 0, 5, 499])
    before = lengths.clone(), pads.clone()
    one, two = (decode_plan(lengths, **CALL, cache_leftpad=pads) for _ in range(2))
    assert torch.equal(one.items, two.items) and torch.equal(one.first_slot, two.first_slot)
    assert torch.equal(lengths, before[0]) and torch.equal(pads, before[1])


def test_a_plan_is_written_over():
    made = decode_plan(seqlens([1000, 10]), **CALL)
    again = decode_plan(seqlens([70, 999]), **CALL, out=made)
    assert again is made
    assert_is_the_twins(made, [70, 999], len(made.items) - 2, block_n=64)
    for change in ({"block_n": 32}, {"programs": 3}, {"window": 3}, {"max_len": 1001}, {"Lq": 2}):
        with pytest.raises(ValueError, match="out must be made for"):
            decode_plan(seqlens([1, 2]), **CALL | change, out=made)
    with pytest.raises(TypeError, match="out must be a Plan; got int"):
        decode_plan(seqlens([1, 2]), **CALL, out=3)


def test_nothing_is_written_outside():
    """Here items and first lie in larger buffers, filled with a number that no plan contains."""
    W, lengths = 4 + 3, seqlens([100, 0, 17])
    buffer = torch.full((1 + W + 1, 4), -77, dtype=torch.int32, device=DEVICE)
    first = torch.full((1 + 4 + 1,), -77, dtype=torch.int32, device=DEVICE)
    options = {"programs": 4, "max_len": 100, "reach": None, "block_n": 16}
    plan_call(buffer[1:-1], first[1:-1], lengths, None, **options).launch(lengths.device)
    for x in (buffer, first):
        assert (x[0] == -77).all() and (x[-1] == -77).all() and (x[1:-1] != -77).all()


def test_lengths_and_padding_are_clamped():
    """What a GPU does with values that the host cannot check."""
    wild, pads = seqlens([101, -5, 2**31 - 1]), seqlens([-3, 200, 2**30])
    made = Plan(
        *(torch.empty(n, dtype=torch.int32, device=DEVICE) for n in ((7, 4), 4)), 16, 3, 1, 9
    )
    options = {"programs": 4, "max_len": 100, "reach": None, "block_n": 16}
    plan_call(made.items, made.first_slot, wild, pads, **options).launch(wild.device)
    assert_is_the_twins(made, [100, 0, 100], 4, cache_leftpad=[0, 100, 100], block_n=16)


@pytest.mark.parametrize(
    "features", [(), ("window",), ("leftpad",), ("window", "leftpad")], ids=str
)
def test_decoding_follows_the_plan(features):
    lengths = (300, 0, 40, 64, 129)
    # D = 64: among few entries, the largest error of the baseline is a matter of luck
    shape = DecodeShape("planned", "", B=5, Lq=2, Lk=300, D=64, lengths=lengths)
    inputs = decode_inputs(shape, torch.float32, DEVICE)
    options = {"window": 90} if "window" in features else {}
    if "leftpad" in features:
        options["cache_leftpad"] = seqlens([5, 0, 40, 3, 70])
    made = decode_plan(
        inputs[3],
        kv_heads=2,
        rows_per_head=4,
        block_n=64 if INTERPRETED else 16,
        max_len=300,
        Lq=2,
        programs=6,
        **options,
    )
    with empty_is_nan():
        o, lse = flash_decode(*inputs, plan=made, return_lse=True, **options)
    baseline = attention_with_cache(*inputs, return_lse=True, **options)
    truth = oracle_with_cache(*inputs, **options)
    assert_close_to_oracle(o, baseline[0], truth[0])
    assert_close_to_oracle(lse, baseline[1], truth[1], name="lse")


def test_torch_knows_the_operator():
    lengths = seqlens([100, 0, 17])
    items = torch.zeros(7, 4, dtype=torch.int32, device=DEVICE)
    first = torch.zeros(4, dtype=torch.int32, device=DEVICE)
    torch.library.opcheck(plan._fill_op, (items, first, lengths, None, 4, 100, None, 16))

    def step(lengths):
        made = decode_plan(lengths, kv_heads=1, block_n=16, max_len=100, programs=4)
        return made.items, made.first_slot

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for got, wanted in zip(compiled(lengths), step(lengths), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize(
    ("lengths", "wrong", "error", "says"),
    [
        ([3], {}, TypeError, "cache_seqlens must be a tensor; got list"),
        (torch.ones(2), {}, TypeError, "cache_seqlens must be int32 or int64; got torch.float32"),
        (seqlens([[1], [2]]), {}, ValueError, r"cache_seqlens must be \(B,\) = \(2,\)"),
        (seqlens([1]), {"cache_leftpad": seqlens([1, 2])}, ValueError, "cache_leftpad must be"),
        (seqlens([1]), {"block_n": 48}, ValueError, "a power of two, at least 16; got 48"),
        (seqlens([1]), {"block_n": 8}, ValueError, "a power of two, at least 16; got 8"),
        (seqlens([1]), {"block_n": None}, TypeError, "block_n must be an int; got None"),
        (seqlens([1]), {"programs": 0}, ValueError, "programs must be at least 1"),
        (seqlens([1]), {"num_sms": 1.5}, TypeError, "num_sms must be an int; got 1.5"),
        (seqlens([1]), {"max_len": -1}, ValueError, "max_len must be at least 0"),
        (seqlens([1]), {"max_len": 2**31}, ValueError, "below 2\\^30; got"),
        (seqlens([1]), {"window": True}, TypeError, "window must be an int"),
        (seqlens([1]), {"window": (1, 2, 3)}, TypeError, "or a pair of these"),
        (seqlens([1]), {"window": -1}, ValueError, "window must not be negative"),
    ],
)
def test_misuse_is_told(lengths, wrong, error, says):
    with pytest.raises(error, match=says):
        decode_plan(lengths, **CALL | wrong)


@pytest.mark.skipif(not INTERPRETED, reason="values on a GPU are clamped, not checked")
@pytest.mark.parametrize("wrong", [-1, 1001])
def test_lengths_out_of_range_are_told(wrong):
    with pytest.raises(ValueError, match=f"from 0 to 1000; got values from .*{wrong}"):
        decode_plan(seqlens([5 if wrong > 0 else wrong, max(5, wrong)]), **CALL)


# ---- The order in which programs start -------------------------------------------------------


@pytest.mark.parametrize(
    "lengths",
    [[65_536] + [2048] * 15, [65_536] + [1024] * 63, [131_072] * 4 + [4096] * 28, [16_384] * 16],
    ids=["one among 15", "one among 63", "four among 28", "equal"],
)
def test_all_heads_of_long_pieces_start_before_any_short_piece(lengths):
    """A GPU starts programs in the order of their ids: simulated here on 264 slots.

    Eight heads are eight lists in one queue. If the lists were started one after another, the
    first of these batches would take 1.5 times the ideal.
    """
    heads, q = 8, torch.empty(len(lengths), 1, 32, 128, dtype=torch.bfloat16, device="meta")
    cache = torch.empty(len(lengths), max(lengths), heads, 128, dtype=q.dtype, device="meta")
    made, _ = reference_plan(lengths, programs=264 // heads, block_n=64)
    items = torch.empty(len(made), 4, dtype=torch.int32, device="meta")
    o = torch.empty(len(made), 1, 32, 128, device="meta")
    launch = choose_decode_launch(rows=4, head_dim=128, element_size=2, tensor_cores=True)
    call = split_call(q, cache, cache.clone(), Features(), o, o[..., 0], num_splits=len(made),
                      causal=True, scale=1.0, launch=launch, items=items)  # fmt: skip
    assert call.grid == (len(made) * heads,)
    started = [made[p // heads] for p in range(call.grid[0])]
    blocks = [-(-(item.stop - item.start) // 64) for item in started]
    assert makespan(schedule(blocks, sms=264)) <= 1.1 * sum(blocks) / 264

"""kernels.flash_decoding: each way of cutting the keys, and what a row's bits depend on."""

import dataclasses
import math

import pytest
import torch
from decode_calls import DEVICE, judge, plain_call
from shapes import DecodeShape, decode_inputs

from course.check.guards import empty_is_nan
from kernels.flash_decoding import flash_decode, flash_decode_plan, workspace_bytes
from kernels.flash_decoding.features import Features, Splits
from kernels.flash_decoding.launch import choose_splits
from kernels.runtime import INTERPRETED

SIZE = 128  # keys per split: a multiple of every kernel's block
LENGTHS = (300, 0, 100, 257)


def decode(call, rows=slice(None), room=None, **splits):
    """o and lse of some rows of a call on their own, in a cache of another capacity."""
    q, k, v, lengths = (x[rows] for x in call.arguments)
    k, v = (k[:, :room], v[:, :room]) if room else (k, v)
    features = {name: x[rows] if name == "cache_leftpad" else x
                for name, x in call.features.items()}  # fmt: skip
    return flash_decode(q, k, v, lengths, **features, **splits, return_lse=True)


def same(got, wanted):
    return all(torch.equal(x, y) for x, y in zip(got, wanted, strict=True))


# ---- A fixed size: batch invariance ----------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("feature", ["plain", "window", "cache_leftpad", "sinks", "MHA"])
def test_a_row_has_its_bits_whatever_is_around_it(feature, dtype):
    """Its place in the batch, the other rows and the capacity of the cache are all changed.

    A capacity of 100 is a single split, which writes the answer itself.
    """
    value = {"window": 200, "sinks": torch.ones(3), "cache_leftpad": torch.tensor([3, 0, 5, 140])}
    features = {feature: value[feature]} if feature in value else {}
    call = plain_call(LENGTHS, Hq=3, Hkv=3 if feature == "MHA" else 1, dtype=dtype, **features)
    o, lse = judge(call, split_size=SIZE)
    assert choose_splits(*call.arguments[:3], Features(), Splits(split_size=SIZE)).parts == 3
    for rows, room in (([0], 300), ([3], 257), ([2], 100), ([2, 0, 2], None), ([3, 1], 301)):
        got = decode(call, rows, room, split_size=SIZE)
        assert same(got, (o[rows], lse[rows])), (rows, room)


def test_the_splits_did_occur():
    """With a single split the bits differ: an invariance test needs rows that are long enough."""
    call = plain_call(LENGTHS)
    once, cut = (judge(call, split_size=size)[0] for size in (384, SIZE))
    assert not torch.equal(once[0], cut[0]) and not torch.equal(once[3], cut[3])


def test_a_fixed_number_is_cut_from_the_length():
    """So a row's bits do not depend on other rows either, but they do depend on the number,
    which the batch decides if none is given."""
    call = plain_call(LENGTHS, dtype=torch.float16)
    o, lse = judge(call, num_splits=3)
    got = decode(call, [3, 0], num_splits=3)
    assert same(got, (o[[3, 0]], lse[[3, 0]]))
    assert not torch.equal(decode(call, num_splits=2)[0][0], o[0])


@pytest.mark.parametrize(
    "cut", [{"num_splits": 3}, {"split_size": SIZE}, {"planned": True}], ids=str
)
def test_runs_repeat_to_the_bit(cut):
    call = plain_call(LENGTHS, Lq=2, dtype=torch.bfloat16, sinks=torch.ones(3))
    assert same(judge(call, **cut), judge(call, **cut))


def test_more_splits_than_blocks_are_not_launched():
    """2^31 - 1 splits of five blocks equal five, bit for bit, and take no more memory."""
    call = plain_call(LENGTHS)
    blocks = -(
        -305 // choose_splits(*call.arguments[:3], Features(), Splits(num_splits=1)).launch.block_n
    )
    wanted = judge(call, num_splits=blocks)
    for number in (blocks + 1, 1000, 2**31 - 1):
        assert same(decode(call, num_splits=number), wanted)
        needed = [workspace_bytes(*call.arguments[:3], num_splits=n) for n in (number, blocks)]
        assert needed[0] == needed[1]


def test_num_sms_changes_the_splits_and_not_the_answer():
    call = plain_call((4000,), Hq=2)  # long enough for a merge to pay
    needed = [workspace_bytes(*call.arguments[:3], num_sms=n) for n in (1, 3, 100)]
    assert needed[0] < needed[1] < needed[2]
    for number in (1, 3, 100):
        judge(call, num_sms=number)


# ---- Plans -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "features",
    [
        {},
        {"window": 90},
        {"cache_leftpad": torch.tensor([5, 0, 129, 130])},
        {"sinks": torch.ones(3)},
    ],
    ids=lambda features: "".join(features) or "plain",
)
@pytest.mark.parametrize("num_sms", [1, 40])
def test_a_plan_gives_the_answer(num_sms, features):
    call = plain_call(LENGTHS, Lq=2, **features)
    q, k, v, lengths = call.arguments
    plan = flash_decode_plan(q, k, v, lengths, num_sms=num_sms, **call.features)
    again = flash_decode_plan(q, k, v, lengths, num_sms=num_sms, **call.features)
    assert same(judge(call, plan=plan), judge(call, plan=again))


def test_a_plan_for_another_call_is_refused():
    call = plain_call(LENGTHS)
    q, k, v, lengths = call.arguments
    plan = flash_decode_plan(q, k, v, lengths)
    others = [
        ((q[:3], k[:3], v[:3], lengths[:3]), {}),
        ((q.repeat(1, 2, 1, 1), k, v, lengths), {}),
        ((q, k[:, :301], v[:, :301], lengths), {}),
        ((q, k, v, lengths), {"window": 9}),
        ((q, k, v, lengths), {"cache_leftpad": torch.zeros_like(lengths)}),
    ]
    for arguments, features in others:
        with pytest.raises(ValueError, match=r"plan must be made for|plan\.first_slot is not what"):
            flash_decode(*arguments, plan=plan, **features)
    for change in ({"items": plan.items[:, :3]}, {"items": plan.items.long()}, {"first_slot": 3}):
        with pytest.raises(ValueError, match=f"plan.{next(iter(change))} is not what"):
            flash_decode(q, k, v, lengths, plan=dataclasses.replace(plan, **change))


@pytest.mark.skipif(not INTERPRETED, reason="values are not checked on a GPU")
def test_a_stale_plan_is_told():
    """Where checking is free. A plan for longer rows would read past the end of these."""
    call = plain_call(LENGTHS)
    q, k, v, lengths = call.arguments
    plan = flash_decode_plan(q, k, v, lengths)
    wild = plan.items.clone()
    wild[0, 0] = 10**6
    stale = [(lengths - (lengths > 200).int(), plan), (lengths + 1, plan)]
    stale += [(lengths.flip(0), plan), (lengths, dataclasses.replace(plan, items=wild))]
    stale += [(lengths, dataclasses.replace(plan, first_slot=plan.first_slot + 1))]
    for now, given in stale:
        with pytest.raises(
            ValueError, match="plan must cover exactly the keys that the rows have now"
        ):
            flash_decode(q, k, v, now.int(), plan=given)


# ---- The caller's workspace ------------------------------------------------------------------


@pytest.mark.parametrize(
    "cut", [{"num_splits": 3}, {"split_size": SIZE}, {"plan": True}, {"num_sms": 9}], ids=str
)
def test_the_workspace_is_as_large_as_said(cut):
    """One number less is too small; nothing past it is touched; NaN in it does no harm."""
    call = plain_call(LENGTHS, sinks=torch.ones(3))
    q, k, v, lengths = call.arguments
    if "plan" in cut:
        cut = {"plan": flash_decode_plan(q, k, v, lengths)}
    numbers, rest = divmod(workspace_bytes(q, k, v, cache_seqlens=lengths, **cut), 4)
    assert rest == 0
    room = torch.full((numbers + 9,), math.nan, device=DEVICE)
    room[numbers:] = 7.0
    assert same(judge(call, **cut, workspace=room), judge(call, **cut))
    assert (room[numbers:] == 7).all() and room[:numbers].isnan().sum() < numbers
    judge(call, **cut, workspace=room[:numbers])
    with pytest.raises(
        ValueError, match=f"workspace must hold {numbers} fp32 .* got {numbers - 1}"
    ):
        flash_decode(q, k, v, lengths, **call.features, **cut, workspace=room[: numbers - 1])


def test_a_single_split_takes_no_workspace():
    """Stage 1 writes the answer itself; the workspace is checked all the same."""
    inputs = decode_inputs(DecodeShape("one", "", Lk=70), torch.float16, DEVICE)
    nothing = torch.empty(0, device=DEVICE)
    with empty_is_nan():
        got = flash_decode(*inputs, num_splits=1, workspace=nothing)
    assert torch.equal(got, flash_decode(*inputs, num_splits=1))
    for wrong in (torch.empty(9, device=DEVICE).half(), 3, [0.0]):
        with pytest.raises(TypeError, match="workspace must be a float32 tensor"):
            flash_decode(*inputs, num_splits=1, workspace=wrong)


def test_workspace_bytes_of_tensors_without_memory():
    """Shapes suffice: 4 splits × 2 rows × 8 heads, 64 + 1 numbers each, 4 bytes per number."""
    q = torch.empty(2, 1, 8, 64, dtype=torch.float16, device="meta")
    k = torch.empty(2, 4096, 2, 64, dtype=torch.float16, device="meta")
    assert workspace_bytes(q, k, k, num_splits=4) == 4 * 2 * 8 * 65 * 4
    assert workspace_bytes(q, k, k, split_size=1024) == 4 * 2 * 8 * 65 * 4

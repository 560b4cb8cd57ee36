"""kernels.explain.model: the model by hand, its assumptions, and figures measured by others."""

import dataclasses

import pytest

from kernels.devices import DEVICES, Device
from kernels.explain import explain
from kernels.explain.counted import COUNTED
from kernels.explain.model import REACHABLE, occupancy
from kernels.explain.spent import Spent, spent_by
from kernels.split_rules import splits_like_fa2

H100 = Device.named("H100 SXM")
CALL = {"batch": 1, "heads": (32, 8), "head_dim": 128, "length": 65536, "device": H100}


def say(**changes):
    return explain(**CALL | changes)


def test_programs_per_sm_make_waves_and_leave_the_choice_of_splits():
    two = say(batch=30)
    one = dataclasses.replace(two, programs_per_sm=1)
    assert (one.splits, one.slots, two.slots) == (two.splits, 132, 264)
    assert one.waves == 2 * two.waves and one.stage_1_us == pytest.approx(two.stage_1_us)
    with pytest.raises(ValueError, match="programs_per_sm must be at least 1; got 0"):
        dataclasses.replace(two, programs_per_sm=0)


def test_what_is_reachable_is_a_figure_of_the_device():
    half = dataclasses.replace(H100, reachable=REACHABLE / 2)
    assert say(device=half).memory_us == pytest.approx(2 * say().memory_us)


def test_a_split_that_is_longer_than_the_mean_is_waited_for():
    """Ten blocks in four splits: three of three blocks, and one of one; the mean is 2.5."""
    said = say(heads=(8, 1), length=640, num_splits=4)
    assert said.split_keys == 192 and said.busy == 4 and said.uneven == pytest.approx(3 / 2.5)
    even = say(heads=(8, 1), length=640, num_splits=5)
    assert even.uneven == 1.0
    assert said.stage_1_us / said.memory_us == pytest.approx(1.2 * H100.sms / 4)
    assert say(length=0).uneven == 1.0


def test_assumptions_that_a_device_may_have():
    plain = say(num_splits=1)  # 8 programs on 132 SMs
    slow = say(num_splits=1, device=dataclasses.replace(H100, fill_us=3.0))
    assert slow.time_us == pytest.approx(plain.time_us + 3.0)  # one wave
    many = {"batch": 128, "num_splits": 1}  # 1,024 programs: four waves of 264
    waits = say(**many, device=dataclasses.replace(H100, fill_us=3.0))
    assert waits.time_us == pytest.approx(say(**many).time_us + 12.0)
    lonely = say(num_splits=1, device=dataclasses.replace(H100, alone=0.5))
    assert lonely.stage_1_us == pytest.approx(2 * plain.stage_1_us)
    pairs = {"num_splits": 33, "length": 33 * 64 * 8}  # 264 programs: two on each SM
    assert say(**pairs, device=dataclasses.replace(H100, alone=0.5)).idle_us == pytest.approx(0.0)
    brisk = say(num_splits=1, device=dataclasses.replace(H100, pace=2.0))
    assert brisk.stage_1_us == pytest.approx(plain.stage_1_us / 2)
    free = say(num_splits=1, device=dataclasses.replace(H100, pace=1000.0))
    assert free.stage_1_us > free.memory_us  # an SM has no more clocks for that
    free = dataclasses.replace(free, spent=None)
    assert free.stage_1_us == free.memory_us  # the memory as a whole has a limit, too


def test_occupancy_by_hand():
    assert occupancy(0, 4, 8) == 1.0
    assert occupancy(2, 4, 8) == 0.5  # two of four SMs
    assert occupancy(4, 4, 8) == occupancy(8, 4, 8) == occupancy(24, 4, 8) == 1.0
    assert occupancy(6, 4, 8) == 0.75  # two SMs have two programs, and the others wait for them
    assert occupancy(8, 4, 8, readers=2) == 1.0 and occupancy(8, 4, 8, readers=4) == 0.5
    assert occupancy(4, 4, 8, readers=4) == occupancy(1, 4, 8)  # four run at the pace of one
    assert occupancy(17, 4, 8) == 17 / 20  # the last of 17 leaves three SMs idle
    assert all(0 < occupancy(n, 132, 264) <= 1 for n in range(1, 1000))


@pytest.mark.parametrize(
    ("batch", "heads", "length", "published_us"),
    [
        (1, (16, 2), 65536, 64.4),
        (1, (16, 2), 131072, 106.6),
        (8, (16, 2), 8192, 56.4),
        (1, (16, 16), 65536, 2300),  # FlashAttention-2: unsplit, one program per query head
        (1, (16, 16), 131072, 4592),
        (8, (16, 16), 8192, 530),  # 128 programs on 108 SMs: 20 SMs have two
    ],
)
def test_near_published_figures(batch, heads, length, published_us):
    """Those in the Flash-Decoding post: A100, fp16, D = 128; 56 … 4,592 µs, within 15 %."""
    call = {"batch": batch, "heads": heads, "head_dim": 128, "length": length, "dtype": "fp16"}
    said = explain(**call, num_splits=1, device="A100 80GB SXM")
    if heads != (16, 16):  # splits as its code chose them
        splits = splits_like_fa2(said.shape)
        said = explain(**call, num_splits=splits, device="A100 80GB SXM")
    said = dataclasses.replace(said, spent=None)  # what we count is our kernel's
    assert abs(said.time_us / published_us - 1) <= 0.15


FULL = {"batch": 264, "heads": (64, 8), "length": 4096}  # 2,112 programs: eight waves of 264
TILE = Spent(instructions=2000, warps=4, pipe="shared", clocks=1000)


def test_a_call_that_is_not_bound_by_memory_says_so():
    """A tile of 32,768 bytes takes 2,845 clocks of an H100's SM at 90 % of its bandwidth."""
    said = dataclasses.replace(say(**FULL), spent=TILE)
    tiles = 264 * 8 * 4096 // 64
    assert said.tiles == tiles and said.bound == "memory bandwidth" and "counted" not in str(said)
    assert said.issue_us == pytest.approx(tiles * 2000 / (132 * H100.clock_ghz * 1e3))
    assert said.issue_us == pytest.approx(said.memory_us * 2000 / 2845, rel=1e-2)
    assert said.pipe_us == pytest.approx(said.issue_us / 2)

    slow = dataclasses.replace(said, spent=TILE._replace(instructions=4000))
    assert slow.bound == "issue slots" and slow.work_us == slow.issue_us > slow.memory_us
    assert slow.stage_1_us == pytest.approx(slow.issue_us) and " issue slots + " in str(slow)
    says = "4,000 instructions a tile; of memory's time: issue slots 140 %, shared memory 35 %"
    assert says in str(slow)
    busy = dataclasses.replace(said, spent=TILE._replace(clocks=3000))
    assert busy.bound == "shared memory" and busy.stage_1_us == pytest.approx(busy.pipe_us)


def test_more_warps_take_more_of_an_sm():
    said = dataclasses.replace(say(**FULL), spent=TILE)
    eight = dataclasses.replace(said, spent=TILE._replace(warps=8))
    assert eight.issue_us == pytest.approx(2 * said.issue_us)


def test_an_idle_gpu_does_not_issue_faster():
    """One program on one SM: its instructions take as long as if all SMs had as much to do."""
    alone = say(batch=1, heads=(8, 1), num_splits=1)
    slow = dataclasses.replace(alone, spent=TILE._replace(instructions=4000))
    assert slow.stage_1_us == pytest.approx(132 * slow.issue_us)
    assert slow.stage_1_us > alone.stage_1_us


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "fp32"},
        {"head_dim": 80},
        {"value_dim": 64},
        {"latent": True},
        {"device": "T4"},
        {"device": "MI300X"},
        {"kv_dtype": "int8", "page_size": 16},
    ],
    ids=str,
)
def test_what_nobody_has_counted_is_not_guessed(change):
    said = say(**change)
    assert said.spent is None and said.issue_us == said.pipe_us == 0.0


def test_what_has_been_counted_is_looked_up():
    plain = say()
    assert plain.spent == say(dtype="fp16").spent == say(heads=(64, 8)).spent
    paged = [say(page_size=n).spent for n in (16, 48, 64, 576)]
    assert paged[0] == paged[1] and paged[2] == paged[3]
    assert paged[0].instructions > paged[2].instructions > plain.spent.instructions
    assert say(device="A100 80GB SXM").spent != plain.spent


def test_every_row_of_the_table_can_be_asked_for():
    kinds = {"16 bit": "bf16", "float8_e4m3fn": "e4m3", "float8_e5m2": "e5m2", "int8": "int8"}
    pages = {"": None, "block": 64, "key": 16}
    archs = {device.arch for device in DEVICES}
    for arch, cache, D, rows, lookup in COUNTED:
        assert arch in archs
        found = spent_by(arch, kinds[cache], D, rows, 64, pages[lookup])
        assert found == COUNTED[arch, cache, D, rows, lookup] and found.limit

"""Guard zones: reads and writes out of bounds are detected."""

import math

import pytest
import torch

from course.check import Exercise, Mistake, Property, Seen, judge
from course.check.guards import Guarded, empty_is_nan, guarded, poisoned
from course.check.report import Status

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.int64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (5,), (3, 5), (2, 3, 5), (2, 0)], ids=str)
def test_copy_equals_and_is_intact(dtype, shape):
    x = torch.arange(30)[: torch.Size(shape).numel()].reshape(shape).to(dtype)
    for gap in (0, 3):
        guard = guarded(x, row_gap=gap)
        assert torch.equal(guard.tensor, x) and guard.tensor.dtype == dtype
        guard.tensor.fill_(7)
        assert guard.intact(), "writing inside is what the tensor is for"


@pytest.mark.parametrize("offset", [-1, 5, 8 + 5, 2 * 8 + 5], ids=str)
@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_writing_outside_is_seen(offset, value):
    guard = guarded(torch.ones(3, 5), row_gap=3)
    assert guard.tensor.stride() == (8, 1)
    whole = guard.tensor.as_strided((100,), (1,), guard.tensor.storage_offset() - 50)
    assert whole[50 + offset].isnan()
    whole[50 + offset] = -value  # even a NaN, if it is a different one
    assert not guard.intact()


FLOATS = [dtype for dtype in DTYPES if dtype.is_floating_point]
PROCESSORS = (math.nan, -math.nan)  # what x86 and ARM make of 0 / 0, up to the sign


def _beside(guard: Guarded) -> torch.Tensor:
    """The first eight entries, of which the last four are poison."""
    return guard.tensor.as_strided((8,), (1,), guard.tensor.storage_offset())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_poison_of_an_input_in_an_output_is_seen(dtype):
    x, out = guarded(torch.ones(4, dtype=dtype)), poisoned((4,), dtype)
    _beside(out).copy_(_beside(x))
    assert torch.equal(out.tensor, x.tensor) and not out.intact()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_arithmetic_on_poison_is_seen(dtype):
    for compute in (
        lambda a, b: a + b,
        lambda a, b: (a.double() * b.double()).to(dtype),  # including casts to more and fewer bits
        lambda a, b: (a.float() - b.float()).to(dtype).exp(),
        lambda a, b: torch.from_numpy(a.double().numpy() + b.double().numpy()).to(dtype),
    ):
        x, y = guarded(torch.ones(4, dtype=dtype)), guarded(torch.ones(4, dtype=dtype))
        out = poisoned((4,), dtype)
        _beside(out).copy_(compute(_beside(x), _beside(y)))
        assert _beside(out)[4:].isnan().all() and not out.intact()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("make", [guarded, lambda x: poisoned((4,), x.dtype)])
def test_a_plain_nan_over_poison_is_seen(dtype, make):
    for nan in PROCESSORS:
        guard = make(torch.ones(4, dtype=dtype))
        _beside(guard)[6] = nan
        assert not guard.intact()


def test_what_guards_do_not_see():
    x, out = guarded(torch.ones(4)), poisoned((4,))
    _beside(x).mul_(2)  # in place: NaN times 2 is the same NaN
    _beside(out)[:4] = _beside(x)[:8].clone()[:4]  # read out of bounds, then dropped
    assert x.intact() and out.intact()


def test_eight_bits_have_no_room_for_a_payload():
    guard = guarded(torch.ones(4).to(torch.float8_e4m3fn))
    assert _beside(guard).float().isnan().tolist() == [False] * 4 + [True] * 4 and guard.intact()


def test_reading_outside_gives_nan():
    guard = guarded(torch.ones(4))
    beyond = guard.tensor.as_strided((6,), (1,), guard.tensor.storage_offset() - 1)
    assert beyond.isnan().tolist() == [True, False, False, False, False, True]


def test_poisoned_output_is_nan_until_written():
    out = poisoned((2, 3), torch.float16)
    assert out.tensor.isnan().all() and out.intact()
    out.tensor.copy_(torch.zeros(2, 3))
    assert out.intact() and not out.tensor.isnan().any()


def _copy_probe(answer, rng) -> Seen:
    x = guarded(torch.randn(4, generator=rng), "x")
    y = poisoned((4,), name="y")
    answer(_pointer(x), _pointer(y), 4)
    return Seen(y.tensor.clone(), x.tensor.clone(), "n = 4", guards=(x, y))


def _pointer(guard: Guarded) -> torch.Tensor:
    """The way a kernel sees a buffer: from the first entry on, with no end."""
    return guard.tensor.as_strided((64,), (1,), guard.tensor.storage_offset())


def _good(x, y, n):
    y[:n] = x[:n]


def _unmasked_load(x, y, n):
    y[:n] = x[:8].sum() * 0 + x[:n]


def _unmasked_store(x, y, n):
    y[:8] = 0 * y[:8].nan_to_num()
    y[:n] = x[:n]


def _one_short(x, y, n):
    y[: n - 1] = x[: n - 1]


COPY = Exercise(
    id="9.2",
    name="copy",
    title="Copy",
    section="1",
    right=_good,
    also_right=(),
    properties=(Property("copies", "four entries", _copy_probe),),
    mistakes=(
        Mistake("load", "The load has no mask.", _unmasked_load),
        Mistake("store", "The store has no mask.", _unmasked_store),
        Mistake("short", "The last one is missing.", _one_short),
    ),
    changes_inputs=True,
    returns_none=True,
)


def test_guards_in_a_check():
    assert judge(COPY, _good).status is Status.PASS
    for mistake in COPY.mistakes:
        assert judge(COPY, mistake.implementation).mistake is mistake
    assert "It wrote outside the buffer `y`" in str(judge(COPY, _unmasked_store))
    text = " ".join(str(judge(COPY, _unmasked_load)).split())
    assert "NaN (not a number)" in text and "read outside an input" in text


def test_empty_is_nan_only_as_long_as_asked():
    before = torch.are_deterministic_algorithms_enabled()
    with empty_is_nan():
        assert torch.empty(3).isnan().all()
    assert torch.are_deterministic_algorithms_enabled() == before

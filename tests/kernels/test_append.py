"""kernels.append: does what reference.kv_cache does, in one launch, and touches nothing else."""

import math

import pytest
import torch
from appends import APPENDS, Append, arguments, expected, one_rounding, untouched_but_for
from eight_bits import EIGHT_BITS

from kernels import append as module
from kernels.append import append_kv
from kernels.append.append_kernel import Tokens
from kernels.runtime import INTERPRETED, device
from reference import kv_cache as reference
from reference.quantization import LARGEST

DEVICE = device()
# Every case in fp32 and in bf16, which rounds most coarsely; the first in fp16.
EACH = [(case, dtype) for case in APPENDS for dtype in (torch.float32, torch.bfloat16)]
EACH.append((APPENDS[0], torch.float16))


@pytest.mark.parametrize(("case", "dtype"), EACH, ids=str)
def test_every_token_at_its_place(case, dtype):
    given, buffers = arguments(case, dtype, DEVICE)
    q = append_kv(**given)
    k_true, v_true, written, q_true = expected(case, given)
    for buffer, cache, true in zip(buffers, ("k_cache", "v_cache"), (k_true, v_true), strict=True):
        assert untouched_but_for(buffer, written), cache
        error = (given[cache].cpu()[written] - true[written]).abs()
        assert (error <= one_rounding(true[written], dtype)).all(), cache
    assert torch.equal(given["v_cache"].cpu()[written].double(), v_true[written])
    if case.R:
        assert q.dtype == dtype
        assert ((q.cpu() - q_true).abs() <= one_rounding(q_true, dtype)).all()
    else:
        assert q is None


@pytest.mark.parametrize("per", ["tensor", "head", "row", "token", "nothing"])
@pytest.mark.parametrize("dtype", EIGHT_BITS, ids=str)
def test_a_cache_of_eight_bits_is_that_of_the_reference(dtype, per):
    if per == "nothing" and dtype == torch.int8:
        return
    case = Append("eight", "", starts=(5, 0), Ln=6, Lq=2, D=40, R=24, page=4, capacity=12)
    given, buffers = arguments(case, torch.bfloat16, DEVICE, cache_dtype=dtype)
    given["k"][0, 0], given["k"][0, 1] = 0.0, 300.0  # all zeros; too large for a fixed scale
    shape = {"tensor": (), "head": (2,), "row": (2, 2), "token": given["k_cache"].shape[:3]}.get(
        per
    )
    scales: dict = {}
    if shape is not None:
        rng = torch.Generator().manual_seed(1)
        scales = {
            f"{x}_scale": (torch.rand(shape, generator=rng) / 50 + 0.002).to(DEVICE) for x in "kv"
        }
    twin = {name: x.clone() if torch.is_tensor(x) else x for name, x in (given | scales).items()}
    append_kv(**given, **scales)
    reference.append_kv(**twin)
    *_, written, _ = expected(case, given)
    assert all(untouched_but_for(buffer, written) for buffer in buffers)
    # k is rotated first, in fp32: a compiler may skip one rounding, and a number halfway between
    # two eight-bit values then goes the other way. v is copied, so its bits are the same.
    for name in ("k_cache", "v_cache"):
        got, wanted = given[name].cpu()[written].float(), twin[name].cpu()[written].float()
        least = 1.0 if name == "v_cache" or INTERPRETED else 0.99
        assert (got == wanted).float().mean().item() >= least, name
    for name, scale in scales.items():
        assert torch.allclose(scale, twin[name], rtol=1e-6, atol=0), name


@pytest.mark.parametrize("dtype", EIGHT_BITS, ids=str)
def test_every_number_rounds_to_nearest_even(dtype):
    """All midpoints between neighbours of the dtype, a hair either side of them, and the ends."""
    if dtype == torch.int8:
        grid = torch.arange(-127.0, 128.0)
    else:
        grid = torch.arange(256, dtype=torch.uint8).view(dtype).float()
        grid = grid[grid.isfinite()].unique()
    middle = (grid[1:] + grid[:-1]) / 2
    numbers = torch.cat((grid, middle, middle * (1 + 2**-20), middle * (1 - 2**-20)))
    numbers = torch.cat((numbers, torch.tensor([1e6, -1e6, 2.0**-30])))
    numbers = torch.cat((numbers, torch.zeros(-len(numbers) % 64))).reshape(1, -1, 1, 64)
    caches = torch.zeros(2, *numbers.shape).to(DEVICE, dtype)
    one, x = torch.ones((), device=DEVICE), numbers.to(DEVICE)
    append_kv(*caches, x, x, k_scale=one, v_scale=one)
    most = LARGEST[dtype]
    clamped = numbers.clamp(-most, most)
    wanted = (clamped.round() if dtype == torch.int8 else clamped).to(dtype).float()
    for cache in caches:
        assert torch.equal(cache.cpu().float(), wanted)


def test_strided_and_int64():
    """Heads before tokens in memory, wider rows, and 64-bit lengths."""
    case = Append("strides", "", Ln=3, Lq=3, capacity=12)
    given, _ = arguments(case, torch.float16, DEVICE)
    wanted = {name: x.clone() if torch.is_tensor(x) else x for name, x in given.items()}
    q_wanted = append_kv(**wanted)
    for name in ("k", "v", "q", "k_cache", "v_cache"):
        given[name] = given[name].transpose(1, 2).contiguous().transpose(1, 2)
    for name in ("rotary_cos", "rotary_sin"):
        given[name] = torch.cat((given[name], given[name] * math.nan), 1)[:, :8]
    given["cache_seqlens"] = given["cache_seqlens"].long()
    assert torch.equal(append_kv(**given), q_wanted)
    assert torch.equal(given["k_cache"].nan_to_num(9), wanted["k_cache"].nan_to_num(9))
    assert torch.equal(given["v_cache"].nan_to_num(9), wanted["v_cache"].nan_to_num(9))


def test_offsets_beyond_32_bits():
    """The second row of the cache starts 2^31 elements after the first."""
    buffer = torch.empty(2**31 + 2**20, dtype=torch.float16, device=DEVICE)
    cache = buffer.as_strided((2, 4, 1, 16), (2**31, 16, 16, 1))
    k = torch.randn(2, 2, 1, 16).to(DEVICE, torch.float16)
    append_kv(cache, cache, k, k, torch.tensor([1, 2], device=DEVICE))
    assert torch.equal(cache[0, 1:3], k[0]) and torch.equal(cache[1, 2:4], k[1])


def test_q_is_not_changed_and_comes_back_where_nothing_turns():
    given, _ = arguments(Append("q", ""), torch.float32, DEVICE)
    before = given["q"].clone()
    assert append_kv(**given) is not given["q"] and torch.equal(given["q"], before)
    given |= {"rotary_cos": None, "rotary_sin": None}
    assert append_kv(**given) is given["q"]


@pytest.fixture
def unlooked(monkeypatch):
    """As on a GPU: nobody checks the values; only the kernel keeps out what does not fit."""
    monkeypatch.setattr(module, "check_values", lambda *_: None)


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({"starts": (11, 4)}, [(0, 11, 0), (1, 4, 0), (1, 5, 1), (1, 6, 2)]),
        ({"starts": (-2, 12)}, [(0, 0, 2)]),
        ({"rows": (4, -1)}, []),
        ({"rows": (3, 4), "starts": (0, 0)}, [(3, 0, 0), (3, 1, 1), (3, 2, 2)]),
    ],
    ids=["full", "negative", "no-row", "one-row"],
)
def test_what_does_not_fit_is_not_written(change, fits, unlooked):
    """fits: (row, slot, token) of everything that has a place."""
    given, buffers = arguments(
        Append("out", "", **{"Ln": 3, "R": 0} | change), torch.float32, DEVICE
    )
    append_kv(**given)
    written = torch.zeros(given["k_cache"].shape[:3], dtype=torch.bool)
    for row, slot, i in fits:
        written[row, slot] = True
        b = 0 if "rows" in change else row
        assert torch.equal(given["k_cache"][row, slot], given["k"][b, i])
        assert torch.equal(given["v_cache"][row, slot], given["v"][b, i])
    assert all(untouched_but_for(buffer, written) for buffer in buffers)


@pytest.mark.parametrize("page", [-1, 7, 2**31 - 1])
def test_a_page_that_does_not_exist_is_not_written(page, unlooked):
    case = Append("page", "", starts=(5, 0), Ln=2, R=0, page=4)
    given, buffers = arguments(case, torch.float32, DEVICE)
    given["block_table"][0, 1] = page  # of 7
    append_kv(**given)
    row = int(given["block_table"][1, 0])
    written = torch.zeros(given["k_cache"].shape[:3], dtype=torch.bool)
    written[row, :2] = True
    assert all(untouched_but_for(buffer, written) for buffer in buffers)
    assert torch.equal(given["k_cache"][row, :2], given["k"][1])


def test_a_position_without_an_angle_gives_nan(unlooked):
    given, _ = arguments(Append("nan", "", Ln=2, R=8), torch.float32, DEVICE)
    given |= {name: given[name][:6] for name in ("rotary_cos", "rotary_sin")}
    append_kv(**given)
    k = given["k_cache"]
    assert k[0, 5].isfinite().all() and k[1, :2].isfinite().all()
    assert k[0, 6, :, :8].isnan().all() and torch.equal(k[0, 6, :, 8:], given["k"][0, 1, :, 8:])


def inputs_of_the_op(page=0, per_token=False):
    case = Append("op", "", Ln=2, Lq=2, page=page)
    dtype = torch.int8 if per_token else None
    given, _ = arguments(case, torch.float32, DEVICE, cache_dtype=dtype)
    for name in ("k_cache", "v_cache"):
        given[name] = torch.zeros_like(given[name], memory_format=torch.contiguous_format)
        if per_token:
            given[name[0] + "_scale"] = torch.zeros(given[name].shape[:3], device=DEVICE)
    return given


@pytest.mark.parametrize("change", [{}, {"page": 4}, {"per_token": True}], ids=str)
def test_the_op_is_what_torch_expects_of_one(change):
    given = inputs_of_the_op(**change)
    op = torch.ops.flash_decoding_course.append_kv.default
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(op, (*map(given.get, Tokens._fields), False, True), test_utils=tests)


def test_compiled_by_torch():
    def step(given):
        return append_kv(**given).sum()

    eager, traced = inputs_of_the_op(), inputs_of_the_op()
    wanted = step(eager)
    got = torch.compile(step, fullgraph=True, backend="aot_eager")(traced)
    assert torch.equal(got, wanted) and torch.equal(traced["k_cache"], eager["k_cache"])
    assert eager["k_cache"].count_nonzero() == 2 * 2 * 2 * 16

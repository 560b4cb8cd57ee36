"""The combine kernel: every tile, rows wider than a program, in guard zones and beside fp64."""

import math
from functools import partial

import pytest
import torch

from course.check.guards import guarded, poisoned
from kernels.flash_decoding import combine
from kernels.flash_decoding.combine import MAX_BLOCK_D, choose_tile, combine_call
from kernels.merge import merge_states
from kernels.runtime import device
from reference.closeness import assert_close_to_oracle
from reference.online_softmax import merge_states as reference_merge

DEVICE = device()
SPLITS = {
    "one": 1,
    "less than the small tile": 5,
    "the small tile": 8,
    "one more": 9,
    "a warp": 32,
    "two tiles": 33,
    "all of them": 64,
    "four warps": 65,
    "their tile": 128,
    "one more than that": 129,
    "several": 300,
}


def merged(o, lse, dtype=torch.float32, **given):
    """Merge o (S, ..., D), lse (S, ...) with nothing but NaN around and in the results."""
    ins = [guarded(x.to(DEVICE), name) for x, name in ((o, "o_partial"), (lse, "lse_partial"))]
    outs = [
        poisoned(shape, name=name, dtype=kind, device=DEVICE)
        for shape, name, kind in ((o.shape[1:], "o", dtype), (lse.shape[1:], "lse", torch.float32))
    ]
    combine_call(*(x.tensor for x in (*ins, *outs)), **given).launch(torch.device(DEVICE))
    for x in (*ins, *outs):
        assert x.intact(), x.name
    return tuple(x.tensor.cpu() for x in outs)


def judge(got, o, lse):
    truth, baseline = reference_merge(o.double(), lse.double()), reference_merge(o, lse)
    for name, *three in zip(("o", "lse"), got, baseline, truth, strict=True):
        assert_close_to_oracle(*three, name=name)


def partials(seed, *shape, D, spread=1.0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, D, generator=rng), spread * torch.randn(*shape, generator=rng)


@pytest.mark.parametrize("spread", [1.0, 80.0])
@pytest.mark.parametrize("S", SPLITS.values(), ids=SPLITS)
def test_any_number_of_splits(S, spread):
    o, lse = partials(S, S, 3, D=24, spread=spread)
    judge(merged(o, lse), o, lse)


@pytest.mark.parametrize("S", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("marks", [False, True])
def test_the_tiles_of_a_gpu(S, marks, monkeypatch):
    """Interpreted, they add up to 128 numbers one by one: each may cost a rounding."""
    monkeypatch.setattr(combine, "choose_tile", partial(choose_tile, interpreted=False))
    o, lse = partials(S, S, 3, D=136)
    o[::3, 1], lse[::3, 1] = 0.0, -math.inf
    truth = reference_merge(o.double(), lse.double())
    bound = (S + 4) * torch.finfo(torch.float32).eps
    for got, true in zip(merged(o, lse, marks=marks), truth, strict=True):
        torch.testing.assert_close(
            got.double(), true, rtol=bound, atol=bound * o.abs().max().item()
        )


@pytest.mark.parametrize("D", [1, 16, 128, 129, 200, 256, 512])
def test_any_width(D):
    """Above 128 columns several programs share a row, and the last may be narrower."""
    o, lse = partials(D, 11, 2, D=D)
    judge(merged(o, lse), o, lse)
    judge(merged(o, lse, marks=True), o, lse)


@pytest.mark.parametrize("slope", [1.0, -1.0], ids=["rising", "falling"])
def test_the_ruler_moves_from_tile_to_tile(slope):
    """lse from -1000 to 1000: an exponential on any other ruler is 0 or inf."""
    o, _ = partials(1, 300, 2, D=16)
    lse = slope * torch.linspace(-1000.0, 1000.0, 300)[:, None].expand(-1, 2).contiguous()
    judge(merged(o, lse), o, lse)


@pytest.mark.parametrize("S", [5, 40, 200])
@pytest.mark.parametrize("there", ["none", "the first", "the last"])
def test_empty_splits(S, there):
    o, lse = partials(S, S, 2, D=16)
    kept = {"none": [], "the first": [0], "the last": [S - 1]}[there]
    for s in set(range(S)) - set(kept):
        o[s, 0], lse[s, 0] = 0.0, -math.inf
    got = merged(o, lse)
    judge(got, o, lse)
    if kept:
        assert torch.equal(got[0][0], o[kept[0], 0]) and got[1][0] == lse[kept[0], 0]
    else:
        assert (got[0][0] == 0).all() and got[1][0] == -math.inf


@pytest.mark.parametrize("S", [1, 8, 40, 129])
def test_a_sink_is_one_more_split_without_a_value(S):
    o, lse = partials(S, S, 2, 1, 3, D=16)
    o[:, 1], lse[:, 1] = 0.0, -math.inf  # a row without keys: the sink is all there is
    sinks = torch.tensor([0.5, -math.inf, 30.0])
    got = merged(o, lse, sinks=sinks.to(DEVICE))
    more = sinks.expand(1, 2, 1, 3)
    judge(got, torch.cat((o, torch.zeros_like(o[:1]))), torch.cat((lse, more)))


@pytest.mark.parametrize("parts", [(3, 0, 70, 1), (33, 32, 0, 5)])
def test_a_plan_gives_each_row_its_own_number_of_parts(parts):
    o, lse = partials(2, sum(parts) + 4, 2, 3, D=16)  # four slots are nobody's
    first = torch.tensor([0, *parts], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    o[first[-1] :], lse[first[-1] :] = math.nan, math.nan
    outs = [torch.full((4, 2, 3, 16), math.nan), torch.full((4, 2, 3), math.nan)]
    outs = [x.to(DEVICE) for x in outs]
    call = combine_call(o.to(DEVICE), lse.to(DEVICE), *outs, first_slot=first.to(DEVICE))
    call.launch(torch.device(DEVICE))
    for b, count in enumerate(parts):
        got = tuple(x[b].cpu() for x in outs)
        own = slice(first[b], first[b] + count)
        if count:
            judge(got, o[own], lse[own])
        else:
            assert (got[0] == 0).all() and (got[1] == -math.inf).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_same_inputs_give_the_same_bits(dtype):
    o, lse = partials(3, 70, 4, D=200)
    once, again = merged(o, lse, dtype), merged(o, lse, dtype)
    assert all(torch.equal(x, y) for x, y in zip(once, again, strict=True))
    order = torch.tensor([2, 0, 3, 1])
    permuted = merged(o[:, order].contiguous(), lse[:, order].contiguous(), dtype)
    assert all(torch.equal(x[order], y) for x, y in zip(once, permuted, strict=True))


@pytest.mark.parametrize("D", [40, 200, 512])
@pytest.mark.parametrize("S", [3, 40, 130])
def test_one_number_decides_what_a_mark_is(S, D):
    """lse = +inf with o = 0 is no key; with any other o, be it in the last column, it is NaN."""
    o, lse = partials(S, S, 2, D=D)
    o[S - 1], lse[S - 1] = 0.0, math.inf
    o[S - 1, 1, D - 1] = 1.0
    got, got_lse = (x.cpu() for x in merge_states(o.to(DEVICE), lse.to(DEVICE)))
    judge((got[:1], got_lse[:1]), o[: S - 1, :1], lse[: S - 1, :1])
    assert got[1].isnan().all() and got_lse[1].isnan()


@pytest.mark.parametrize("D", [1, 16, 80, 128, 192, 256, 512])
@pytest.mark.parametrize("parts", [None, 1, 8, 9, 64, 65, 5000])
def test_a_tile_fits_into_the_registers(parts, D):
    """128 numbers of o per lane, and a lse for each lane unless there are few."""
    for marks in (False, True):
        tile = choose_tile(parts, D, marks, interpreted=False)
        assert tile.block_s * tile.block_d <= MAX_BLOCK_D * 32 * tile.num_warps
        assert tile.block_d >= D or (not marks and tile.block_d == MAX_BLOCK_D)
        if D <= MAX_BLOCK_D and (parts is None or parts > 8):
            assert tile.block_s == 32 * tile.num_warps

"""The exercises of lesson 09 ask for what the finished kernels do."""

import pytest
import torch

from course.check.kernel_inputs import EPS, randn
from course.check.lesson_08.combine import merged
from course.check.lesson_09.combine_kernel import partials
from course.check.lesson_09.issue_share import issue_share
from course.check.lesson_09.key_range import key_range
from course.check.lesson_09.mended import fresh, seen, whole_blocks_each
from course.check.lesson_09.pack import packed
from kernels.call import Cells
from kernels.compile_report import Report
from kernels.compile_report.counts import Counts
from kernels.compile_report.targets import target
from kernels.flash_decoding import flash_decode
from kernels.flash_decoding.rows import load_queries
from kernels.flash_decoding.split import cut
from kernels.merge import merge_states
from kernels.runtime import device

# isort: split
import triton
import triton.language as tl


@triton.jit
def cut_kernel(bounds_ptr, length, BLOCK_N: tl.constexpr):
    start, stop = cut(0, length, None, BLOCK_N)
    tl.store(bounds_ptr + 2 * tl.program_id(0), start)
    tl.store(bounds_ptr + 2 * tl.program_id(0) + 1, stop)


@pytest.mark.parametrize("length", [0, 1, 16, 130, 160])
@pytest.mark.parametrize("splits", [1, 4, 11])
def test_key_range(length, splits):
    bounds = torch.full((splits, 2), -1, dtype=torch.int32, device=device())
    cut_kernel[(splits,)](bounds, length, BLOCK_N=16)
    wanted = [list(key_range(length, s, splits, 16)) for s in range(splits)]
    assert bounds.tolist() == wanted


@triton.jit
def pack_kernel(q, tile_ptr, Lq, G: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr):
    kv_head, b, offs_m = tl.program_id(0), tl.program_id(1), tl.arange(0, BLOCK_M)
    query, head = offs_m // G, kv_head * G + offs_m % G
    tile, _ = load_queries(q, b, query, head, query < Lq, D, D, D)
    row = (b * tl.num_programs(0) + kv_head) * BLOCK_M + offs_m
    tl.store(tile_ptr + row[:, None] * D + tl.arange(0, D)[None, :], tile)


def test_pack():
    rng = torch.Generator().manual_seed(0)
    q = randn(rng, 2, 6, 3, 16).transpose(1, 2)  # (B, Lq, Hq, D), not contiguous
    wanted = packed(q, Hkv=2, block_m=16)
    tile = torch.full_like(wanted, torch.nan)
    pack_kernel[(2, 2)](Cells(q, *q.stride()[:3]), tile, 3, G=3, D=16, BLOCK_M=16)
    assert torch.equal(tile, wanted)


@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("warps", [4, 8])
def test_issue_share(arch, warps):
    on, size = target(arch), 2 * 64 * 128 * 2
    row = Report("split", arch, warps, **Counts(364, {}, size, 2).fields(warps, 3, on))
    gpu = on.device.bandwidth, on.device.sms, on.device.clock_ghz
    per_line, slots, share = issue_share(364, warps, 64, 128, 2, *gpu)
    assert per_line == pytest.approx(row.instructions_per_line)
    assert slots == pytest.approx(4 * 128 / on.device.bytes_per_clock)
    assert share == pytest.approx(row.issue_share, abs=1e-4)


@pytest.mark.parametrize("splits", [1, 3, 20])
def test_combine(splits):
    o, lse = partials(torch.Generator().manual_seed(splits), splits, 5, 6)
    o[0, 2], lse[0, 2] = 0.0, -torch.inf
    size = max(1.0, lse[lse.isfinite()].abs().max().item()) * max(1.0, o.abs().max().item())
    wanted = merged(o, lse)
    atol = EPS * (splits + 4) * size  # one rounding per term, for an lse of this size
    torch.testing.assert_close(merge_states(o, lse), wanted, atol=atol, rtol=0)


@pytest.mark.parametrize("splits", [1, 4])
def test_mended(splits):
    q, k, v = fresh(torch.Generator().manual_seed(splits), 70)
    saw = seen(whole_blocks_each, q, k, v, splits)
    cache = (x[None, :, None] for x in (k, v))
    o, lse = flash_decode(q[None, None, None], *cache, num_splits=splits, return_lse=True)
    tolerance = {"atol": saw.atol, "rtol": saw.rtol}
    torch.testing.assert_close((o.flatten(), lse[0, 0, 0]), saw.wanted, **tolerance)
    torch.testing.assert_close(saw.got, saw.wanted, **tolerance)

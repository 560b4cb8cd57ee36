"""kernels.flash_decoding on a GPU: what is too large for the interpreter.

The other files of this family run there too; the calls in `decode_calls` then have more keys.
"""

import math

import pytest
import torch
from decode_calls import DEVICE
from torch import Tensor

from kernels.flash_decoding import flash_decode, flash_decode_plan
from kernels.runtime import INTERPRETED
from reference.attention import attention_with_cache
from reference.closeness import assert_close_to_oracle

pytestmark = pytest.mark.skipif(INTERPRETED, reason="millions of keys: needs a GPU")
MILLION = 2**20


def needs(gigabytes: float) -> None:
    """Skip the test if the GPU has less free memory than that."""
    free = torch.cuda.mem_get_info()[0] / 1e9
    if free < gigabytes:
        pytest.skip(f"needs {gigabytes} GB of GPU memory; {free:.1f} GB are free")


def oracle_in_chunks(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """fp64 attention, one query per row, 64 Ki keys at a time: o (B, 1, Hq, D), lse (B, 1, Hq)."""
    (B, _, Hq, D), Hkv, chunk = q.shape, k.shape[2], 2**16
    o = torch.zeros(B, 1, Hq, v.shape[3], dtype=torch.float64, device=q.device)
    lse = torch.full((B, 1, Hq), -math.inf, dtype=torch.float64, device=q.device)
    for b, length in enumerate(lengths):
        grouped = q[b, 0].double().view(Hkv, Hq // Hkv, D) * D**-0.5
        for start in range(0, length, chunk):
            stop = min(start + chunk, length)
            keys, values = (x[b, start:stop].double().transpose(0, 1) for x in (k, v))
            scores = (grouped @ keys.transpose(1, 2)).flatten(0, 1)  # (Hq, n)
            part_lse = scores.logsumexp(1)
            p = (scores - part_lse[:, None]).exp().view(Hkv, Hq // Hkv, -1)
            both = torch.logaddexp(lse[b, 0], part_lse)
            part = (p @ values).flatten(0, 1)
            weights = [(x - both).exp()[:, None] for x in (lse[b, 0], part_lse)]
            o[b, 0] = weights[0] * o[b, 0] + weights[1] * part
            lse[b, 0] = both
    return o, lse


def judge_long(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], **splits: object) -> Tensor:
    """Decode, and compare o and lse with the chunked oracle; return o."""
    seqlens = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)
    if splits.pop("planned", False):
        splits["plan"] = flash_decode_plan(q, k, v, seqlens)
    got = flash_decode(q, k, v, seqlens, **splits, return_lse=True)
    base = attention_with_cache(q, k, v, seqlens, return_lse=True)
    truth = oracle_in_chunks(q, k, v, lengths)
    for name, *three in zip(("o", "lse"), got, base, truth, strict=True):
        assert_close_to_oracle(*three, name=name)
    return got[0]


CUTS = [{}, {"num_splits": 1}, {"num_splits": 97}, {"split_size": 8192}, {"planned": True}]


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("Hq", [1, 8], ids=["sum", "dot"])
def test_a_million_keys_in_one_row(Hq, cut):
    """Three of them are searched for: the first, the one just past a boundary, the last."""
    needs(12)
    rng = torch.Generator(DEVICE).manual_seed(0)
    length = MILLION - 1
    q = torch.randn(1, 1, Hq, 128, generator=rng, device=DEVICE, dtype=torch.bfloat16)
    k, v = torch.randn(2, 1, MILLION, 1, 128, generator=rng, device=DEVICE, dtype=torch.bfloat16)
    k[:, length:] = v[:, length:] = math.nan
    for needle, place in enumerate((0, 8192, length - 1)):
        k[0, place, 0] = 4 * q[0, 0, needle % Hq]  # score about 45; the others sum to e^14
        v[0, place, 0] = needle + 1
    o = judge_long(q, k, v, [length], **cut)
    if Hq > 1:
        found = o[0, 0, :3].float().mean(1)
        assert (found - torch.tensor([1.0, 2.0, 3.0], device=DEVICE)).abs().max() < 0.1


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_a_cache_of_more_than_two_to_the_31_elements(cut):
    """Not a view with wide strides: all of it exists, 4.3 GB each of keys and values."""
    needs(30)
    shape = (2, MILLION + 64, 8, 128)
    assert math.prod(shape) > 2**31
    k, v = (torch.randn(shape, device=DEVICE, dtype=torch.bfloat16) for _ in "kv")
    q = 3 * torch.randn(2, 1, 32, 128, device=DEVICE, dtype=torch.bfloat16)
    judge_long(q, k, v, [1000, MILLION + 64], **cut)


def test_pages_of_more_than_two_to_the_31_elements():
    """One pool for all rows; these read its last pages."""
    needs(20)
    pages = 2**31 // (64 * 8 * 128) + 20
    k, v = (torch.randn(pages, 64, 8, 128, device=DEVICE, dtype=torch.bfloat16) for _ in "kv")
    table = torch.randperm(20, device=DEVICE).view(2, 10).int() + pages - 20
    q = 3 * torch.randn(2, 1, 32, 128, device=DEVICE, dtype=torch.bfloat16)
    lengths = torch.tensor([640, 333], dtype=torch.int32, device=DEVICE)
    got = flash_decode(q, k, v, lengths, block_table=table, num_splits=3, return_lse=True)
    rows = [x[table.long()].flatten(1, 2) for x in (k, v)]
    wanted = flash_decode(q, *rows, lengths, num_splits=3, return_lse=True)
    assert all(torch.equal(x, y) for x, y in zip(got, wanted, strict=True))


@pytest.mark.parametrize("window", [1000, (1000, 0)], ids=str)
def test_a_window_does_not_read_the_rest_of_a_million_keys(window):
    """The keys before it are NaN: reading any of them would show."""
    needs(4)
    q = torch.randn(1, 1, 8, 128, device=DEVICE, dtype=torch.float16)
    k, v = torch.randn(2, 1, MILLION, 1, 128, device=DEVICE, dtype=torch.float16)
    k[:, : MILLION - 1001] = v[:, : MILLION - 1001] = math.nan
    got = flash_decode(q, k, v, window=window)
    wanted = flash_decode(q, k[:, -1001:], v[:, -1001:])
    assert_close_to_oracle(
        got, wanted, *oracle_in_chunks(q, k[:, -1001:], v[:, -1001:], [1001])[:1]
    )


def test_bits_repeat_when_the_gpu_is_busy():
    """Fifty runs beside another stream's work: no program waits for another or races with it."""
    needs(2)
    q = torch.randn(4, 2, 32, 128, device=DEVICE, dtype=torch.float16)
    k, v = torch.randn(2, 4, 8192, 8, 128, device=DEVICE, dtype=torch.float16)
    lengths = torch.tensor([8192, 17, 0, 5000], dtype=torch.int32, device=DEVICE)
    plan = flash_decode_plan(q, k, v, lengths)
    other, noise = torch.cuda.Stream(), torch.randn(4096, 4096, device=DEVICE)
    for cut in ({"num_splits": 11}, {"split_size": 512}, {"plan": plan}):
        wanted = flash_decode(q, k, v, lengths, **cut)
        for _ in range(50):
            with torch.cuda.stream(other):
                noise @ noise
            assert torch.equal(flash_decode(q, k, v, lengths, **cut), wanted)

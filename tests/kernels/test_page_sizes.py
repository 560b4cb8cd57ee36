"""Pages of any size, through every function that takes a block_table: fp64 judges."""

import math

import pytest
import torch
from poison import paged, wild

from course.check.guards import empty_is_nan
from kernels.append import append_kv
from kernels.cascade import cascade_decode
from kernels.explain import explain
from kernels.flash_decoding import flash_decode, flash_decode_plan, workspace_bytes
from kernels.kvcache_api import flash_attn_with_kvcache
from kernels.runtime import INTERPRETED, device

DEVICE = device()
SIZES = (1, 3, 12, 48, 100, 192, 528)  # 192: whole blocks of 64, though no power of two
B, LQ, HQ, HKV, D = 3, 2, 4, 2, 16
LENGTHS = (211, 0, 100)  # over a border of some sizes, at that of others


def rows(seed=0):
    """q and keys and values (B, 211, Hkv, D) on the CPU, NaN past each row's length."""
    rng = torch.Generator().manual_seed(seed)
    q = torch.randn(B, LQ, HQ, D, generator=rng)
    k, v = torch.randn(2, B, max(LENGTHS), HKV, D, generator=rng)
    for b, length in enumerate(LENGTHS):
        k[b, length:] = v[b, length:] = math.nan
    return q, k, v


def pages_of(tensors, size, first=(0, 0, 0)):
    """The tensors in shuffled pages and their table; entries of dead pages name none."""
    place = torch.arange(max(LENGTHS))
    live = (place < torch.tensor(LENGTHS)[:, None]) & (place >= torch.tensor(first)[:, None])
    tensors, table = paged(list(tensors), live, size, torch.Generator().manual_seed(size))
    return [x.to(DEVICE) for x in tensors], table.to(DEVICE)


def truth(q, k, v, first=(0, 0, 0), left=None, lengths=LENGTHS):
    """fp64, a query at a time: keys first … position, at most `left` before it."""
    o, lse = torch.zeros(*q.shape).double(), torch.full(q.shape[:3], -math.inf).double()
    G = q.shape[2] // k.shape[2]
    for b, length in enumerate(lengths):
        for i in range(q.shape[1]):
            position = length - q.shape[1] + i
            start = first[b] if left is None else max(first[b], position - left)
            for h in range(q.shape[2]) if start <= position else ():
                keys, values = (x[b, start : position + 1, h // G].double() for x in (k, v))
                scores = keys @ q[b, i, h].double() / D**0.5
                lse[b, i, h], o[b, i, h] = scores.logsumexp(0), scores.softmax(0) @ values
    return o, lse


def assert_right(got, wanted):
    """fp32 throughout, and at most 211 keys."""
    for x, y in zip(got, wanted, strict=True):
        torch.testing.assert_close(x.cpu().double(), y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cut", ["one", "seven", "size", "plan", "workspace"])
@pytest.mark.parametrize("size", SIZES)
def test_decode(size, cut):
    q, k, v = rows()
    (k_pages, v_pages), table = pages_of((k, v), size)
    lengths = torch.tensor(LENGTHS, device=DEVICE)
    arguments, features = (q.to(DEVICE), k_pages, v_pages), {"block_table": table}
    splits = {"one": {"num_splits": 1}, "size": {"split_size": 64}}.get(cut, {"num_splits": 7})
    if cut == "plan":
        splits = {"plan": flash_decode_plan(*arguments, lengths, **features)}
    if cut == "workspace":
        numbers = workspace_bytes(*arguments, **features, **splits) // 4
        splits["workspace"] = torch.full((numbers,), math.nan, device=DEVICE)
    with empty_is_nan():
        got = flash_decode(*arguments, lengths, **features, **splits, return_lse=True)
    assert_right(got, truth(q, k, v))


@pytest.mark.parametrize("size", SIZES)
def test_window_and_padding(size):
    """Both leave the first pages unread: their entries of the table are wild, their keys NaN."""
    pads, left = (3, 0, 98), 70
    first = tuple(max(pad, length - LQ - left) for pad, length in zip(pads, LENGTHS, strict=True))
    q, k, v = rows()
    (k_pages, v_pages), table = pages_of((k, v), size, first)
    features = {"block_table": table, "window": left}
    features["cache_leftpad"] = torch.tensor(pads, device=DEVICE)
    lengths = torch.tensor(LENGTHS, device=DEVICE)
    for splits in ({"num_splits": 3}, {"plan": None}):
        if "plan" in splits:
            splits["plan"] = flash_decode_plan(q.to(DEVICE), k_pages, v_pages, lengths, **features)
        got = flash_decode(
            q.to(DEVICE), k_pages, v_pages, lengths, **features, **splits, return_lse=True
        )
        assert_right(got, truth(q, k, v, pads, left))


@pytest.mark.parametrize("G", [1, 4])
@pytest.mark.parametrize("size", SIZES)
def test_one_query(size, G):
    """A single row is multiplied without a dot; scales lie in pages as well."""
    q, k, v = rows()
    q = q[:, :1, : G * HKV] if G < 4 else q[:, :1].repeat(1, 1, 2, 1)
    k, v = (x.nan_to_num() * 20 for x in (k, v))
    stored = [x.round().clamp(-127, 127).to(torch.int8) for x in (k, v)]
    scales = torch.rand(2, B, max(LENGTHS), HKV, generator=torch.Generator().manual_seed(1)) / 9
    tensors, table = pages_of([*stored, *scales], size)
    features = {"block_table": table, "k_scale": tensors[2], "v_scale": tensors[3]}
    lengths = torch.tensor(LENGTHS, device=DEVICE)
    got = flash_decode(
        q.to(DEVICE), *tensors[:2], lengths, **features, num_splits=2, return_lse=True
    )
    wide = (x.float() * s[..., None] for x, s in zip(stored, scales, strict=True))
    assert_right(got, truth(q, *wide))


@pytest.mark.parametrize("size", SIZES)
def test_append_then_attend_across_borders(size):
    """A token at a time over two borders; no other cell changes, no dead entry is followed."""
    pages = -(-20 // size) + 1
    start, steps = max(0, size * (20 // size) - 3), 7
    room = -(-(start + steps) // size)
    caches = torch.full((2, pages + room, size, HKV, D), math.nan, device=DEVICE)
    rng = torch.Generator().manual_seed(size)
    order = torch.randperm(pages + room, generator=rng)[:room]
    table = wild(len(caches[0]))[torch.randint(5, (1, room + 2), generator=rng)].int()
    table[0, :room] = order
    k, v = torch.randn(2, 1, start + steps, HKV, D, generator=rng)
    given = {"block_table": table.to(DEVICE)}
    lengths = torch.tensor([0], device=DEVICE)
    if start:
        append_kv(*caches, k[:, :start].to(DEVICE), v[:, :start].to(DEVICE), lengths, **given)
    for n in range(start, start + steps):
        new = (x[:, n : n + 1].to(DEVICE) for x in (k, v))
        append_kv(*caches, *new, lengths + n, **given)
        q = torch.randn(1, 1, HQ, D, generator=rng)
        got = flash_decode(q.to(DEVICE), *caches, lengths + n + 1, **given, return_lse=True)
        assert_right(got, truth(q, k, v, lengths=(n + 1,)))
    for cache, x in zip(caches.cpu(), (k, v), strict=True):
        flat = cache[order].reshape(room * size, HKV, D)
        assert torch.equal(flat[: start + steps], x[0])
        written = torch.zeros(room * size, dtype=torch.bool)
        written[: start + steps] = True
        assert flat[~written].isnan().all()
        others = torch.ones(len(cache), dtype=torch.bool)
        others[order] = False
        assert cache[others].isnan().all()


@pytest.mark.parametrize("size", SIZES)
def test_the_call_of_flash_attn(size):
    """New tokens are appended over a border, then seen."""
    q, k, v = rows()
    before = [length - LQ if length else 0 for length in LENGTHS]
    now = [length + LQ for length in before]
    place = torch.arange(max(LENGTHS))
    live = place < torch.tensor(now)[:, None]
    k, v = (torch.where(live[..., None, None], x.nan_to_num(0.5), math.nan) for x in (k, v))
    new = [torch.stack([x[b, n : n + LQ] for b, n in enumerate(before)]) for x in (k, v)]
    old = [x.clone() for x in (k, v)]
    for x in old:
        x[place >= torch.tensor(before)[:, None]] = math.nan
    caches, table = paged(old, live, size, torch.Generator().manual_seed(size))
    o, lse = flash_attn_with_kvcache(
        q.to(DEVICE),
        *(x.to(DEVICE) for x in (*caches, *new)),
        cache_seqlens=torch.tensor(before, device=DEVICE),
        block_table=table.to(DEVICE),
        causal=True,
        return_softmax_lse=True,
    )
    assert_right((o, lse.transpose(1, 2)), truth(q, k, v, lengths=now))


@pytest.mark.parametrize("size", SIZES)
def test_own_keys_after_a_shared_prefix(size):
    q, k, v = rows()
    prefix = torch.randn(2, 30, HKV, D, generator=torch.Generator().manual_seed(1))
    pages, table = pages_of((k, v), size)
    lengths = torch.tensor(LENGTHS, device=DEVICE)
    got = cascade_decode(
        q.to(DEVICE), *prefix.to(DEVICE), *pages, lengths, block_table=table, return_lse=True
    )
    whole = (
        torch.cat([p.expand(B, -1, -1, -1), x], 1) for p, x in zip(prefix, (k, v), strict=True)
    )
    assert_right(got, truth(q, *whole, lengths=[30 + n for n in LENGTHS]))


@pytest.mark.parametrize("size", SIZES)
def test_explained(size):
    call = {"batch": 2, "heads": (8, 2), "head_dim": 64, "length": 1000, "device": "H100 SXM"}
    more = explain(**call, page_size=size).other_bytes - explain(**call).other_bytes
    assert more == 2 * 4 * math.ceil(1000 / size)  # int32 entries, of two rows


@pytest.mark.skipif(not INTERPRETED, reason="values are not checked on a GPU")
@pytest.mark.parametrize("size", SIZES)
def test_a_live_entry_that_is_no_page_is_told(size):
    """The last entry that a row has keys on; one further on may be anything."""
    q, k, v = rows()
    pages, table = pages_of((k, v), size)
    lengths = torch.tensor(LENGTHS, device=DEVICE)
    last = (LENGTHS[2] - 1) // size
    table[2, last] = len(pages[0])
    with pytest.raises(ValueError, match="block_table must name pages from 0 to"):
        flash_decode(q.to(DEVICE), *pages, lengths, block_table=table)


def test_a_page_of_nothing_is_told():
    q, nothing = torch.zeros(2, 1, 2, 8, device=DEVICE), torch.zeros(4, 0, 1, 8, device=DEVICE)
    table = torch.zeros(2, 3, dtype=torch.int32, device=DEVICE)
    lengths = torch.zeros(2, dtype=torch.int32, device=DEVICE)
    with pytest.raises(ValueError, match=r"size of a page at least 1; got \(4, 0, 1, 8\)"):
        flash_decode(q, nothing, nothing, lengths, block_table=table)

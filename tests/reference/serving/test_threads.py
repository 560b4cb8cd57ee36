"""reference.serving.threads: pages on CPU threads against the fp64 oracle; dead cells are NaN."""

import pytest
import torch
from poison import paged
from torch.nn.functional import scaled_dot_product_attention

from reference.attention import attention, attention_with_cache, oracle, oracle_with_cache
from reference.closeness import assert_close_to_oracle
from reference.serving.threads import decode_pieces, plan_pieces, prefill_threads

CASES = {  # lengths, page size, keys per piece
    "ragged, pieces of four pages": ([5, 37, 300, 1], 16, 64),
    "one long row": ([700], 16, 256),
    "all full, nothing to mask": ([32, 32, 32], 16, 32),
    "shorter than a piece: one each": ([3, 2, 9], 4, 256),
    "a piece of one page": ([100, 7], 16, 1),
    "pages larger than a piece": ([70, 64, 65], 64, 16),
    "a page size that divides nothing": ([29, 13, 1], 7, 20),
    "pages of one token": ([9, 4], 1, 4),
}


def draw(lengths, page_size, dtype, heads=(6, 2), D=16):
    """Rows in shuffled pages; dead cells are NaN and dead entries of the table wild."""
    rng = torch.Generator().manual_seed(sum(lengths))
    B, capacity = len(lengths), max(lengths)
    n = torch.tensor(lengths, dtype=torch.int32)
    live = torch.arange(capacity) < n[:, None]
    kv = [torch.randn(B, capacity, heads[1], D, generator=rng).to(dtype) for _ in "kv"]
    (k, v), table = paged(kv, live, page_size, rng)
    q = torch.randn(B, 1, heads[0], D, generator=rng).to(dtype)
    return q, k, v, n, table


@pytest.mark.parametrize("planned", [True, False], ids=["planned", "unplanned"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_decode_is_close_to_the_oracle(case, dtype, planned):
    lengths, page_size, chunk = case
    q, k, v, n, table = draw(lengths, page_size, dtype)
    plan = plan_pieces(q, k, v, n, block_table=table, chunk=chunk) if planned else None
    o = decode_pieces(q, k, v, n, block_table=table, plan=plan)
    base = attention_with_cache(q, k, v, n, block_table=table)
    o64, _ = oracle_with_cache(q, k, v, n, block_table=table)
    assert o.dtype == dtype
    if dtype == torch.float64:
        assert (o - o64).abs().max() < 1e-12 * o64.abs().max()
    else:
        assert_close_to_oracle(o, base, o64)


def test_one_plan_serves_other_layers_and_queries_with_a_gap_between_heads():
    q, k, v, n, table = draw([40, 3, 90], 16, torch.float32)
    plan = plan_pieces(q, k, v, n, block_table=table, chunk=32)
    other = torch.randn(3, 1, 9, 16)[:, :, 3:]  # not contiguous, as a view of q, k and v is
    o = decode_pieces(other, k.neg(), v, n, block_table=table, plan=plan)
    o64, _ = oracle_with_cache(other, k.neg(), v, n, block_table=table)
    assert_close_to_oracle(
        o, attention_with_cache(other, k.neg(), v, n, block_table=table), o64
    )  # fmt: skip


def test_pieces_are_equal_and_cover_each_row_once():
    q, k, v, n, table = draw([5, 37, 300, 1], 16, torch.float32)
    plan = plan_pieces(q, k, v, n, block_table=table, chunk=64)
    assert plan.chunk == 64 and plan.row.tolist() == [0, 1, 2, 2, 2, 2, 2, 3] and plan.most == 5
    assert len(plan.pages) == 8 * 4 and len(plan.dead) == 8 * 64 - 343
    assert plan.pages.min() >= 0 and plan.pages.max() < len(k)


@pytest.mark.parametrize("chunk, lengths", [(0, [3]), (16, [3, 0])])
def test_what_cannot_be_cut_is_refused(chunk, lengths):
    q, k, v, _, table = draw([3] * len(lengths), 4, torch.float32)
    with pytest.raises(ValueError, match="at least 1"):
        plan_pieces(q, k, v, torch.tensor(lengths), block_table=table, chunk=chunk)


def test_several_queries_per_row_are_refused():
    q, k, v, n, table = draw([3], 4, torch.float32)
    with pytest.raises(ValueError, match="one query per row"):
        decode_pieces(q.expand(-1, 2, -1, -1), k, v, n, block_table=table)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("Lq, Lk", [(1, 1), (5, 5), (5, 12), (2, 700), (70, 600)])
def test_prefill_is_close_to_the_oracle(Lq, Lk, dtype):
    rng = torch.Generator().manual_seed(Lq)
    B = 16 if Lq < Lk else 2  # few queries: enough rows that the baseline's largest error is one
    q = torch.randn(B, Lq, 6, 16, generator=rng).to(dtype)
    k, v = (torch.randn(B, Lk, 2, 16, generator=rng).to(dtype) for _ in "kv")
    o, (o64, _) = prefill_threads(q, k, v), oracle(q, k, v, causal=True)
    assert o.shape == q.shape and o.dtype == dtype
    if dtype == torch.float64:
        assert (o - o64).abs().max() < 1e-12 * o64.abs().max()
    elif dtype == torch.bfloat16:
        assert_close_to_oracle(o, attention(q, k, v, causal=True), o64)
    else:  # PyTorch's own fused attention, bottom-right: it sums as ours does
        seen = torch.ones(Lq, Lk, dtype=torch.bool).tril(Lk - Lq)
        heads_first = (x.transpose(1, 2) for x in (q, k, v))
        base = scaled_dot_product_attention(*heads_first, seen, enable_gqa=True).transpose(1, 2)
        assert_close_to_oracle(o, base, o64)


@pytest.mark.parametrize("Lq, Lk, causal", [(3, 2, True), (2, 3, False)])
def test_prefill_refuses_what_is_no_prompt(Lq, Lk, causal):
    q, k = torch.randn(1, Lq, 2, 8), torch.randn(1, Lk, 2, 8)
    with pytest.raises(ValueError, match="must be causal with Lk ≥ Lq"):
        prefill_threads(q, k, k, causal=causal)

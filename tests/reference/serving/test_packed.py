"""reference.serving.packed: many requests in one row compute what each computes alone."""

import doctest

import pytest
import torch
from serving_models import ATTENTION, NAIVE, prompt_of, tiny
from small_models import TINY, small_model

from course.check.guards import empty_is_nan
from kernels.runtime import device
from reference.closeness import assert_close_to_oracle
from reference.kv_cache import append_kv, rotary_table
from reference.paging import OutOfPages, PagedKVCache
from reference.serving import packed as module
from reference.serving.demo import attention as attention_named
from reference.serving.packed import Packed, Segment, append_each


def test_examples():
    assert doctest.testmod(module).failed == 0


def paged(num_pages=24, page_size=4, dtype=torch.float64, device="cpu"):
    return PagedKVCache(TINY, num_pages, page_size, dtype=dtype, device=device, poison=True)


def run(model, cache, steps, attention):
    """Carry out steps, each a list of (sequence, its next tokens); the logits by sequence."""
    logits = {}
    for step in steps:
        segments = [Segment(s, cache.tables.length(s), len(new)) for s, new in step]
        rows = Packed(cache, segments)
        tokens = torch.tensor([[token for _, new in step for token in new]])
        found = model.logits(model.hidden(tokens.to(cache.k.device), rows, attention))[0]
        for segment, span in zip(segments, rows.spans, strict=True):
            logits.setdefault(segment.seq, []).append(found[span])
        assert rows.room == 0 and rows.lengths.tolist() == [tokens.shape[1]]
    return {seq: torch.cat(parts) for seq, parts in logits.items()}


def mixed_steps(cache):
    """Prompts, a prompt beside decodes, chunks, a chunk of one token, and a row that pauses."""
    a, b, c = (cache.new() for _ in range(3))
    x, y, z = prompt_of(12, 1), prompt_of(20, 2), prompt_of(9, 3)
    steps = [
        [(a, x[:9]), (b, y[:1])],
        [(a, x[9:10]), (b, y[1:7]), (c, z[:5])],
        [(c, z[5:6]), (a, x[10:11]), (b, y[7:8])],
        [(b, y[8:]), (c, z[6:8])],
        [(a, x[11:]), (c, z[8:])],
    ]
    return steps, {a: x, b: y, c: z}


@pytest.mark.parametrize("attention", ATTENTION.values(), ids=ATTENTION.keys())
@pytest.mark.parametrize("page_size", [1, 4, 7])
def test_logits_of_every_token_are_those_without_a_cache(page_size, attention):
    cache = paged(-(-44 // page_size) + 3, page_size)
    steps, texts = mixed_steps(cache)
    with empty_is_nan():
        logits = run(tiny(), cache, steps, attention)
    for seq, tokens in texts.items():
        wanted = tiny()(torch.tensor([tokens]))[0]
        assert (logits[seq] - wanted).abs().max() < 1e-12 * wanted.abs().max()
        assert cache.tables.length(seq) == len(tokens)


def test_the_kernels_drive_it_with_a_plan_per_step():
    pytest.importorskip("triton", reason="triton has no wheels for this system")
    config = TINY
    model = small_model(config, dtype=torch.float32).to(device())
    cache = paged(24, 16, torch.float32, device())
    steps, texts = mixed_steps(cache)
    logits = run(model, cache, steps, attention_named("kernel"))
    for seq, tokens in texts.items():
        row = torch.tensor([tokens])
        base = small_model(config, dtype=torch.float32)(row)[0]
        assert_close_to_oracle(logits[seq].cpu(), base, small_model(config)(row)[0])


def test_append_each_writes_what_append_kv_writes():
    torch.manual_seed(0)
    pages = [torch.full((9, 4, 2, 8), torch.nan, dtype=torch.float64) for _ in "kv"]
    ours, theirs = ([x.clone() for x in pages] for _ in "ab")
    table = torch.tensor([[3, 8, -1], [0, -1, -1], [5, 6, 2]], dtype=torch.int32)
    places = torch.tensor([5, 3, 8], dtype=torch.int32)
    q, k, v = (torch.randn(3, 1, heads, 8, dtype=torch.float64) for heads in (4, 2, 2))
    cos, sin = rotary_table(20, 8)
    where = {"block_table": table, "rotary_cos": cos, "rotary_sin": sin, "q": q}
    got = append_each(*ours, k, v, places, **where)
    wanted = append_kv(*theirs, k, v, places, **where)
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=0, equal_nan=True)
        assert mine.isfinite().sum() == 3 * 2 * 8  # three cells and no other


def test_a_plan_is_made_once_per_step_and_handed_to_every_layer():
    made, used = [], []

    def plan(q, k, v, lengths, *, block_table):
        made.append((lengths.tolist(), block_table.tolist()))
        return len(made)

    def decode(*given, plan, **more):
        used.append(plan)
        return NAIVE.decode(*given, **more)

    cache = paged()
    a, b = cache.new(), cache.new()
    attention = NAIVE._replace(plan=plan, decode=decode)
    run(tiny(), cache, [[(a, [1, 2, 3])], [(a, [4]), (b, [5])], [(b, [6]), (a, [7, 8])]], attention)
    assert [lengths for lengths, _ in made] == [[4, 1], [2]]  # no plan for a prompt alone
    assert used == [1] * TINY.layers + [2] * TINY.layers


@pytest.mark.parametrize(
    "segments, said",
    [
        ([], "one or more"),
        ([Segment(0, 3, 1), Segment(0, 4, 1)], "each of another sequence"),
        ([Segment(0, 3, 0)], "not empty"),
        ([Segment(0, 2, 1)], "must start at 3, the length of sequence 0; got 2"),
    ],
)
def test_segments_that_make_no_sense_are_refused(segments, said):
    cache = paged()
    run(tiny(), cache, [[(cache.new(), [1, 2, 3])]], NAIVE)
    with pytest.raises(ValueError, match=said):
        Packed(cache, segments)


def test_too_few_pages_write_nothing():
    cache = paged(num_pages=2)
    seq = cache.new()
    with pytest.raises(OutOfPages):
        Packed(cache, [Segment(seq, 0, 9)])
    assert cache.tables.pool.available == 2

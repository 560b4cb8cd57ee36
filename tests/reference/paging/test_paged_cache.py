"""reference.paging.cache: a model on pages computes what it computes without a cache."""

import doctest
import math

import pytest
import torch
from small_models import TINY, Counting, small_model, some_tokens

from course.check.guards import empty_is_nan
from kernels.append import append_kv as kernel_append
from kernels.flash_decoding import flash_decode as kernel_decode
from kernels.runtime import device
from reference.attention import attention_with_cache
from reference.closeness import assert_close_to_oracle
from reference.flash_decoding import flash_decode
from reference.flash_decoding_cpu import flash_decode_threads
from reference.paging import OutOfPages, PagedKVCache, gather, over_pages
from reference.paging import cache as module


def paged(num_pages: int = 24, page_size: int = 4, dtype: torch.dtype = torch.float64, **more):
    return PagedKVCache(TINY, num_pages, page_size, dtype=dtype, poison=True, **more)


@pytest.mark.parametrize("file", [module, gather])
def test_examples(file):
    assert doctest.testmod(file).failed == 0


@pytest.mark.parametrize("page_size", [1, 3, 4, 16, 64], ids=lambda n: f"pages of {n}")
@pytest.mark.parametrize("chunks", [(33,), (7, 1, 1, 20, 4)], ids=str)
def test_logits_on_pages_and_without_a_cache_are_equal(page_size, chunks):
    model, tokens = small_model(), some_tokens(2, 33)
    cache = paged(2 * -(-33 // page_size), page_size)
    rows = cache.batch(cache.new(), cache.new())
    with empty_is_nan():
        got = [model(part, rows, attention_with_cache) for part in tokens.split(chunks, dim=1)]
    wanted = model(tokens)
    assert (torch.cat(got, dim=1) - wanted).abs().max() < 1e-12 * wanted.abs().max()
    assert rows.lengths.tolist() == [33, 33] and cache.tables.pool.available == 0


@pytest.mark.parametrize("attend", [flash_decode, over_pages(flash_decode_threads), kernel_decode])
def test_any_attention_that_knows_block_tables_drives_it(attend):
    model, tokens = small_model(dtype=torch.float32), some_tokens(2, 20)
    kernel = attend is kernel_decode
    cache = paged(dtype=torch.float32, device=device() if kernel else "cpu",
                  **({"append": kernel_append} if kernel else {}))  # fmt: skip
    rows = cache.batch(cache.new(), cache.new())
    on = model.to(device()) if kernel else model
    with empty_is_nan():
        got = [on(x.to(cache.k.device), rows, attend) for x in tokens.split((18, 1, 1), dim=1)]
    assert_close_to_oracle(
        torch.cat(got, 1).cpu(), small_model(dtype=torch.float32)(tokens), small_model()(tokens)
    )


def continued(model, cache, seq, tokens):
    return model(torch.tensor([tokens]), cache.batch(seq), flash_decode)[0, -1]


def test_forks_decode_together_and_each_sees_its_own_tokens():
    model, prompt = small_model(), some_tokens(1, 10)[0].tolist()
    cache = paged()
    a = cache.new()
    continued(model, cache, a, prompt)
    b, c = cache.fork(a), cache.fork(a)
    assert cache.tables.pool.available == 21  # three pages for all three
    for new in ([1, 2, 3], [4, 5, 6], [7, 8, 9]):
        logits = model(torch.tensor(new)[:, None], cache.batch(a, b, c), flash_decode)
    for i in range(3):
        own = [*prompt, 1 + i, 4 + i, 7 + i]
        wanted = model(torch.tensor([own]))[0, -1]
        assert (logits[i, -1] - wanted).abs().max() < 1e-12 * wanted.abs().max()
    assert cache.tables.pool.available == 24 - 2 - 6  # two shared, two more for each
    for seq in (b, a, c):
        cache.free(seq)
    assert cache.tables.pool.available == 24


def test_a_known_prefix_is_not_computed_again():
    model, counting = small_model(), Counting()
    system, questions = some_tokens(1, 13)[0].tolist(), ([5, 6], [7, 8, 9])
    cache = paged()
    for question, spared in zip(questions, (0, 12), strict=True):
        prompt = [*system, *question]
        seq = cache.new(prompt)
        assert cache.tables.length(seq) == spared
        rest = torch.tensor([prompt[spared:]])
        got = model(rest, cache.batch(seq), lambda *x, block_table, **y: _record(
            counting, flash_decode, *x, block_table=block_table, **y))  # fmt: skip
        assert counting.calls[-1] == (len(prompt) - spared, len(prompt))
        wanted = model(torch.tensor([prompt]))[0, -1]
        assert (got[0, -1] - wanted).abs().max() < 1e-12 * wanted.abs().max()
        cache.record(seq, prompt)
        cache.free(seq)


def _record(counting, attend, q, k, v, lengths, **more):
    counting.calls.append((q.shape[1], int(lengths.max())))
    return attend(q, k, v, lengths, **more)


def test_tokens_taken_back_leave_no_trace():
    model, tokens = small_model(), some_tokens(1, 18)
    cache = paged()
    rows = cache.batch(cache.new())
    model(tokens[:, :15], rows, flash_decode)
    rows.lengths = rows.lengths - 6
    assert cache.tables.pool.available == 21
    got = model(tokens[:, 15:], rows, flash_decode)
    wanted = model(torch.cat([tokens[:, :9], tokens[:, 15:]], 1))[:, -3:]
    assert (got - wanted).abs().max() < 1e-12 * wanted.abs().max()


def test_room_is_what_the_pages_and_the_context_allow():
    model, cache = small_model(), paged(6, page_size=4)
    a = cache.new()
    assert cache.batch(a).room == 24
    model(some_tokens(1, 6), cache.batch(a), flash_decode)
    b = cache.fork(a)
    # Four pages are left. Two rows of six: one copy of the shared page, then a page each.
    assert cache.batch(a, b).room == 6 and cache.batch(b).room == 2 + 12
    before = cache.batch(a, b).lengths.tolist(), cache.tables.pages(a), cache.tables.pages(b)
    with pytest.raises(ValueError, match="room for 6 more tokens; got 7"):
        model(some_tokens(2, 7), cache.batch(a, b), flash_decode)
    with pytest.raises(OutOfPages, match="5 more pages"):
        cache.reserve([a, b], 7)
    assert before == (
        cache.batch(a, b).lengths.tolist(), cache.tables.pages(a), cache.tables.pages(b)
    )  # fmt: skip
    model(some_tokens(2, 6), cache.batch(a, b), flash_decode)
    assert cache.batch(a, b).room == 0
    wide = paged(40, page_size=4)
    assert wide.batch(wide.new()).room == TINY.context


def test_an_error_on_the_way_leaves_lengths_and_pages_as_good_as_before():
    model, cache = small_model(), paged(5, page_size=4)
    seq = cache.new()
    tokens = some_tokens(1, 14)
    model(tokens[:, :6], cache.batch(seq), flash_decode)

    def fails(*_, **__):
        raise RuntimeError("in the second layer, say")

    with pytest.raises(RuntimeError, match="second layer"):
        model(tokens[:, 6:], cache.batch(seq), fails)
    assert cache.batch(seq).lengths.tolist() == [6]
    got = model(tokens[:, 6:], cache.batch(seq), flash_decode)[:, -1]
    assert (got - model(tokens)[:, -1]).abs().max() < 1e-12 * got.abs().max()
    cache.free(seq)
    assert cache.tables.pool.available == 5


def test_what_nobody_has_written_is_nan():
    cache = paged(3)
    seq = cache.new()
    cache.reserve([seq], 5)
    assert cache.k.isnan().all()
    cache.k.zero_(), cache.v.zero_(), cache.free(seq)
    cache.reserve([cache.new()], 9)
    assert math.isnan(cache.k.sum()) and cache.k[:, list(cache.tables.pages(1))].isnan().all()


def test_a_batch_is_of_sequences_that_are_there():
    cache = paged()
    seq = cache.new()
    for seqs in ((), (seq, seq)):
        with pytest.raises(ValueError, match="one sequence or more, each once"):
            cache.batch(*seqs)
    with pytest.raises(KeyError, match="sequence 7 is not there"):
        cache.batch(7)
    with pytest.raises(ValueError, match=r"lengths must be \(1,\); got \(2,\)"):
        cache.batch(seq).lengths = torch.tensor([0, 0])

"""reference.speculative.verify: one pass over a tree says what each branch would say by itself."""

import doctest
import math

import pytest
import torch
from small_models import TINY, small_model, some_tokens
from trees import random_tree

from course.check.guards import empty_is_nan
from kernels.append import append_kv as kernel_append
from kernels.flash_decoding import flash_decode as kernel_decode
from kernels.runtime import device
from reference.attention import attention_with_cache
from reference.closeness import assert_close_to_oracle
from reference.flash_decoding import flash_decode
from reference.flash_decoding_cpu import flash_decode_threads
from reference.paging import PagedKVCache
from reference.quantized_cache import Format, QuantizedKVCache
from reference.speculative import Tree, TreeView, keep, run_tree
from reference.speculative import verify as module
from reference.transformer import KVCache

TEXT = some_tokens(1, 9, seed=4)[0].tolist()  # the last one is the root
FORKED = Tree((10, 20, 30, 40, 50, 60), (-1, 0, 1, 0, -1, 4))
TREES = [FORKED, Tree.chain([10, 20, 30]), Tree(), *(random_tree(8, seed) for seed in range(3))]


def test_examples():
    assert doctest.testmod(module).failed == 0


def contiguous(dtype=torch.float64):
    with empty_is_nan():
        return KVCache(TINY, capacity=30, dtype=dtype)


def in_pages(dtype=torch.float64, page_size=4, **more):
    cache = PagedKVCache(TINY, 12, page_size, dtype=dtype, poison=True, **more)
    return cache.batch(cache.new())


def alone(model, text, tree: Tree) -> torch.Tensor:
    """The logits after the root and each node: every path in a pass of its own, without a cache."""
    paths = [[tree.tokens[i] for i in tree.path(node)] for node in range(-1, len(tree))]
    return torch.stack([model(torch.tensor([text + path]))[0, -1] for path in paths])


def differ(got, wanted) -> float:
    return float((got - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("cache", [contiguous, in_pages], ids=["rows", "pages"])
@pytest.mark.parametrize("tree", TREES, ids=["forked", "chain", "empty", *"012"])
@pytest.mark.parametrize("attend", [attention_with_cache, flash_decode])
def test_a_pass_says_what_each_path_would_say_alone(cache, tree, attend):
    model, cache = small_model(), cache()
    with empty_is_nan():
        model(torch.tensor([TEXT[:-1]]), cache, attend)
        got = run_tree(model, TEXT[-1], tree, cache, attend)
    assert differ(got, alone(model, TEXT, tree)) < 1e-12
    assert cache.lengths.tolist() == [len(TEXT) + len(tree)]


def test_the_comparison_notices_a_mask_and_angles_that_are_missing():
    """Were the slots positions, or every node visible, these logits would be others."""
    model, cache, tree = small_model(), contiguous(), FORKED
    wanted = alone(model, TEXT, tree)
    model(torch.tensor([TEXT[:-1]]), cache)
    as_slots = TreeView(cache, tree)
    as_slots._table = model.angles
    tokens = torch.tensor([[TEXT[-1], *tree.tokens]])
    assert differ(model(tokens, as_slots)[0], wanted) > 1e-3
    cache.lengths.fill_(len(TEXT) - 1)
    unmasked = TreeView(cache, tree)
    got = model(tokens, unmasked, lambda *q, mask, **more: attention_with_cache(*q, **more))[0]
    assert differ(got, wanted) > 1e-3


@pytest.mark.parametrize("pages", [False, True])
def test_the_kernel_attends_to_a_tree(pages):
    more = {"device": device(), "append": kernel_append}
    model = small_model(dtype=torch.float32).to(device())
    if pages:
        cache = in_pages(torch.float32, **more)
    else:
        with empty_is_nan():
            cache = KVCache(TINY, capacity=30, **more)
    model(torch.tensor([TEXT[:-1]], device=device()), cache, kernel_decode)
    got = run_tree(model, TEXT[-1], FORKED, cache, kernel_decode).cpu()
    naive = alone(small_model(dtype=torch.float32), TEXT, FORKED)
    assert_close_to_oracle(got, naive, alone(small_model(), TEXT, FORKED))


def test_threads_check_a_chain():
    model, cache = small_model(dtype=torch.float32), contiguous(torch.float32)
    tree = Tree.chain([10, 20, 30])
    model(torch.tensor([TEXT[:-1]]), cache, flash_decode_threads)
    got = run_tree(model, TEXT[-1], tree, cache, flash_decode_threads)
    assert_close_to_oracle(got, alone(model, TEXT, tree), alone(small_model(), TEXT, tree))


def spoil_the_tail(cache) -> None:
    """Fill every cell after the lengths with NaN: they may be read no more."""
    length = int(cache.lengths[0])
    if isinstance(cache, KVCache):
        cache.k[:, :, length:], cache.v[:, :, length:] = math.nan, math.nan
        return
    pages, size = cache.cache.tables.pages(cache.seqs[0]), cache.cache.tables.page_size
    if length % size:
        cache.cache.k[:, pages[-1], length % size :] = math.nan
        cache.cache.v[:, pages[-1], length % size :] = math.nan


@pytest.mark.parametrize("cache", [contiguous, in_pages], ids=["rows", "pages"])
@pytest.mark.parametrize("leaf", range(-1, 6))
def test_what_is_kept_is_as_if_it_had_come_alone(cache, leaf):
    model, cache, path = small_model(), cache(), FORKED.path(leaf)
    model(torch.tensor([TEXT[:-1]]), cache)
    run_tree(model, TEXT[-1], FORKED, cache, attention_with_cache)
    keep(cache, len(TEXT) - 1, [0, *(node + 1 for node in path)])
    spoil_the_tail(cache)
    text = TEXT + [FORKED.tokens[node] for node in path]
    assert cache.lengths.tolist() == [len(text)]
    got = model(torch.tensor([[77, 78]]), cache)[0]
    assert differ(got, model(torch.tensor([[*text, 77, 78]]))[0, -2:]) < 1e-12


def test_pages_of_a_fork_are_left_alone():
    """A prompt is forked in the middle of a page; the trees of both go through, and neither sees
    the other's."""
    model = small_model()
    pages = PagedKVCache(TINY, 16, 4, dtype=torch.float64, poison=True)
    first = pages.new()
    model(torch.tensor([TEXT[:6]]), pages.batch(first))
    second = pages.fork(first)
    held = pages.tables.pool.references
    texts = {first: [*TEXT[:6], 1], second: [*TEXT[:6], 2]}
    for seq, path in ((first, (0, 1, 2)), (second, (4, 5))):
        rows = pages.batch(seq)
        got = run_tree(model, texts[seq][-1], FORKED, rows, attention_with_cache)
        assert differ(got, alone(model, texts[seq], FORKED)) < 1e-12
        keep(rows, 6, [0, *(node + 1 for node in path)])
        texts[seq] += [FORKED.tokens[node] for node in path]
    assert pages.tables.pages(first)[0] == pages.tables.pages(second)[0]
    assert held[pages.tables.pages(first)[0]] == 2
    assert not set(pages.tables.pages(first)[1:]) & set(pages.tables.pages(second)[1:])
    for seq, text in texts.items():
        rows = pages.batch(seq)
        spoil_the_tail(rows)
        got = model(torch.tensor([[99]]), rows)[0]
        assert differ(got, model(torch.tensor([[*text, 99]]))[0, -1:]) < 1e-12
    pages.free(first), pages.free(second)
    assert pages.tables.pool.available == 16


def test_pages_left_empty_are_released():
    model, rows = small_model(), in_pages(page_size=2)
    model(torch.tensor([TEXT[:-1]]), rows)
    before = rows.cache.tables.pool.available
    run_tree(model, TEXT[-1], FORKED, rows, attention_with_cache)
    assert rows.cache.tables.pool.available == before - 4  # 8 + 7 slots in pages of 2
    keep(rows, len(TEXT) - 1, [0])
    assert rows.cache.tables.pool.available == before - 1


def test_a_quantised_cache_takes_back_but_moves_nothing():
    model = small_model(dtype=torch.float32)
    wide = Format(torch.float32)
    cache = QuantizedKVCache(TINY, wide, wide, capacity=30)
    model(torch.tensor([TEXT]), cache)
    keep(cache, 4, [0, 1])
    assert cache.lengths.tolist() == [6]
    with pytest.raises(TypeError, match="QuantizedKVCache can be taken back, but not moved"):
        keep(cache, 2, [0, 2])
    assert cache.lengths.tolist() == [6]


@pytest.mark.parametrize(
    ("start", "slots", "message"),
    [
        (4, [1, 0], r"slots must be ascending, within 0…4; got \[1, 0\]"),
        (4, [0, 0], "ascending"),
        (4, [0, 5], "within 0…4"),
        (4, [-1], "within 0…4"),
        (-1, [0], "start ≥ 0; got 1 and -1"),
    ],
)
def test_slots_that_are_not_there(start, slots, message):
    cache = contiguous()
    cache.lengths.fill_(9)
    with pytest.raises(ValueError, match=message):
        keep(cache, start, slots)
    assert cache.lengths.tolist() == [9]


def test_a_tree_belongs_to_one_sequence():
    with pytest.raises(ValueError, match="a tree belongs to one sequence; got 2"):
        TreeView(KVCache(TINY, 2), FORKED)
    with pytest.raises(ValueError, match="there must be one sequence, and start ≥ 0; got 2 and 0"):
        keep(KVCache(TINY, 2), 0, [])

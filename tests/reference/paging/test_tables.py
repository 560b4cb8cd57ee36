"""reference.paging.tables: pages for new tokens, forks, copies, tokens taken back."""

import doctest

import pytest
import torch

from reference.kv_cache import cells_of
from reference.paging import tables as module
from reference.paging.tables import UNUSED, Copy, OutOfPages, PageTables


def grown(tables: PageTables, seq: int, count: int) -> list[Copy]:
    copies = tables.reserve([seq], count)
    tables.set_length(seq, tables.length(seq) + count)
    return copies


def test_examples():
    assert doctest.testmod(module).failed == 0


def test_a_page_is_taken_only_when_a_token_needs_it():
    tables = PageTables(4, page_size=3)
    seq = tables.new()
    assert tables.pages(seq) == () and tables.block_table([seq]).tolist() == [[UNUSED]]
    for tokens, pages in ((1, 1), (2, 1), (3, 1), (4, 2), (5, 2)):
        grown(tables, seq, 1)
        assert (tables.length(seq), len(tables.pages(seq))) == (tokens, pages)


def test_a_fork_at_the_end_of_a_page_never_copies():
    tables = PageTables(4, page_size=2)
    a = tables.new()
    grown(tables, a, 2)
    b = tables.fork(a)
    assert grown(tables, b, 1) == [] and grown(tables, a, 1) == []
    assert tables.pages(a)[0] == tables.pages(b)[0] and tables.pages(a)[1] != tables.pages(b)[1]


def test_of_three_forks_two_copy_and_the_last_one_writes_in_place():
    tables = PageTables(6, page_size=4)
    a = tables.new()
    grown(tables, a, 5)
    forks = [a, tables.fork(a), tables.fork(a)]
    last = tables.pages(a)[1]
    assert tables.wanted(forks, 1) == 2
    copies = tables.reserve(forks, 1)
    assert [(c.source, c.filled) for c in copies] == [(last, 1)] * 2
    assert len({tables.pages(seq)[1] for seq in forks}) == 3
    assert [tables.pool.references[page] for page in tables.pages(forks[2])] == [3, 1]
    assert tables.reserve(forks, 1) == [] and tables.wanted(forks, 1) == 0  # once is enough


def test_a_failed_reserve_changes_nothing():
    tables = PageTables(3, page_size=2)
    a = tables.new()
    grown(tables, a, 3)
    b = tables.fork(a)
    before = tables.pages(a), tables.pages(b), tables.pool.references[:]
    with pytest.raises(OutOfPages, match=r"3 more pages of 2 tokens.* 1 of 3 are available"):
        tables.reserve([a, b], 3)  # a copy, and a new page each
    assert (tables.pages(a), tables.pages(b), tables.pool.references) == before


def test_pages_reserved_for_tokens_that_never_came_are_not_shared():
    tables = PageTables(5, page_size=2)
    a = tables.new()
    grown(tables, a, 1)
    tables.reserve([a], 5)  # room for six; then the model failed
    b = tables.fork(a)
    assert tables.pages(b) == tables.pages(a)[:1] and len(tables.pages(a)) == 3
    first = tables.pages(a)[0]
    assert tables.reserve([a], 1) == [Copy(first, tables.pages(a)[0], 1)]
    assert tables.pages(b) == (first,) and tables.pages(a)[0] != first
    tables.free(a), tables.free(b)
    assert tables.pool.available == 5


def test_taking_tokens_back_releases_pages_and_forgets_what_is_rewritten():
    tables = PageTables(4, page_size=2)
    a = tables.new()
    grown(tables, a, 4)
    tables.record(a, [1, 2, 3, 4])
    tables.set_length(a, 3)
    assert tables.pool.key_of(tables.pages(a)[1]) is not None  # the fourth token is still there
    assert grown(tables, a, 1) == []  # and now it is another one
    assert tables.pool.key_of(tables.pages(a)[1]) is None
    b = tables.new()
    assert tables.adopt(b, [1, 2, 3, 4, 5]) == 2
    tables.set_length(a, 0)
    assert tables.pages(a) == () and tables.pool.references[tables.pages(b)[0]] == 1


def test_a_prompt_finds_whole_pages_and_leaves_a_token_for_the_model():
    tables = PageTables(8, page_size=2)
    a = tables.new()
    grown(tables, a, 5)
    tables.record(a, [1, 2, 3, 4, 5])
    for prompt, found in (([1, 2, 3, 4], 2), ([1, 2, 3, 4, 9], 4), ([1, 9, 3, 4, 9], 0),
                          ([3, 4, 9], 0), ([1], 0), ([], 0)):  # fmt: skip
        b = tables.new()
        assert tables.adopt(b, prompt) == found, prompt
        assert tables.pages(b) == tables.pages(a)[: found // 2]
        tables.free(b)
    assert tables.adopt(tables.new(), [1, 2, 3, 4, 9], salt=b"another model") == 0
    tables.free(a)
    assert tables.adopt(tables.new(), [1, 2, 3, 4, 9]) == 4  # nobody holds them: idle, not gone


def test_a_prefix_is_evicted_from_its_end():
    tables = PageTables(3, page_size=1)
    a = tables.new()
    grown(tables, a, 3)
    tables.record(a, [1, 2, 3])
    tables.free(a)
    grown(tables, tables.new(), 1)
    b = tables.new()
    assert tables.adopt(b, [1, 2, 3, 4]) == 2 and tables.pool.evictions == 1


def test_the_block_table_is_what_reference_and_kernels_read():
    tables = PageTables(6, page_size=2)
    a, b = tables.new(), tables.new()
    for seq, count in ((a, 1), (b, 5)):
        grown(tables, seq, count)
    table = tables.block_table([b, a])
    assert table.dtype == torch.int32 and table.shape == (2, 3)
    assert table[1].tolist() == [tables.pages(a)[0], UNUSED, UNUSED]
    page, slot = cells_of(0, 0, 5, torch.empty(6, 2), block_table=table)
    assert page.tolist() == [p for p in tables.pages(b) for _ in range(2)][:5]
    assert slot.tolist() == [0, 1, 0, 1, 0]


def test_misuse_is_named():
    tables = PageTables(2, page_size=2)
    a = tables.new()
    grown(tables, a, 3)
    for length in (-1, 5):
        with pytest.raises(ValueError, match=f"0…4.*; got {length}"):
            tables.set_length(a, length)
    with pytest.raises(ValueError, match="no sequence twice"):
        tables.reserve([a, a], 1)
    with pytest.raises(ValueError, match="count must be at least 0"):
        tables.reserve([a], -1)
    with pytest.raises(ValueError, match="must be empty; it has 3 tokens"):
        tables.adopt(a, [1, 2, 3])
    with pytest.raises(ValueError, match="has 3 tokens; got 2"):
        tables.record(a, [1, 2])
    with pytest.raises(ValueError, match="page_size must be at least 1; got 0"):
        PageTables(2, 0)
    tables.free(a)
    assert a not in tables and tables.sequences == ()
    for use in (tables.free, tables.fork, tables.pages, tables.length):
        with pytest.raises(KeyError, match=f"sequence {a} is not there, or was freed"):
            use(a)

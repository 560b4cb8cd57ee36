"""reference.plan: each key once, the line of keys cut into equal chunks, long pieces first."""

import doctest
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import plan
from reference.plan import Item, decode_plan, keys_to_visit, makespan

quick = settings(max_examples=100, deadline=None)


def blocks_of(item: Item, block_n: int) -> int:
    return -(-(item.stop - item.start) // block_n)


@st.composite
def batches(draw):
    """Lengths and keywords of a plan; a row may be empty, all padding, or the only one."""
    lengths = draw(st.lists(st.integers(0, 300), max_size=12))
    pads = draw(st.none() | st.tuples(*[st.integers(0, 300) for _ in lengths]))
    keywords = {
        "programs": draw(st.integers(1, 40)),
        "block_n": draw(st.sampled_from((1, 4, 16, 64))),
        "Lq": draw(st.integers(1, 5)),
        "window": draw(st.none() | st.integers(0, 310)),
    }
    return lengths, pads, keywords


def test_docstrings_tell_the_truth():
    assert doctest.testmod(plan).failed == 0


@quick
@given(batches())
def test_every_key_in_sight_is_visited_once(batch):
    lengths, pads, keywords = batch
    items, _ = decode_plan(lengths, cache_leftpad=pads, **keywords)
    Lq, window, block_n = keywords["Lq"], keywords["window"], keywords["block_n"]
    for row, length in enumerate(lengths):
        mine = [item for item in items if item.row == row]
        visited = [j for item in mine for j in range(item.start, item.stop)]
        pad = 0 if pads is None else pads[row]
        seen = [
            j
            for j in range(pad, length)
            if window is None or any(j >= length - Lq + i - window for i in range(Lq))
        ]
        assert len(set(visited)) == len(visited) and set(seen) <= set(visited)
        # Anything else visited lies in the first block, which has a key in sight.
        assert all(seen and j // block_n == seen[0] // block_n for j in set(visited) - set(seen))


@quick
@given(batches())
def test_slots_are_counted_in_the_order_of_rows_and_keys(batch):
    lengths, pads, keywords = batch
    items, first = decode_plan(lengths, cache_leftpad=pads, **keywords)
    assert [item.slot for item in sorted(items)] == list(range(len(items)))
    assert first[0] == 0 and first[-1] == len(items) and len(first) == len(lengths) + 1
    for row, (begin, end) in enumerate(itertools.pairwise(first)):
        assert [item.row for item in sorted(items)][begin:end] == [row] * (end - begin)


@quick
@given(batches())
def test_the_line_is_cut_in_chunks_of_one_size_and_long_pieces_start_first(batch):
    lengths, pads, keywords = batch
    items, _ = decode_plan(lengths, cache_leftpad=pads, **keywords)
    block_n, programs = keywords["block_n"], keywords["programs"]
    sizes = [blocks_of(item, block_n) for item in items]
    assert len(items) <= programs + len(lengths)
    assert all(item.start % block_n == 0 and item.start < item.stop for item in items)
    if not items:
        return
    # Along the line of all rows, pieces end at multiples of the chunk and at the ends of rows.
    chunk, line = -(-sum(sizes) // programs), 0
    in_order = sorted(zip(items, sizes, strict=True))
    for (item, size), follower in itertools.zip_longest(in_order, in_order[1:]):
        assert line // chunk == (line + size - 1) // chunk  # within one chunk
        line += size
        ends_row = follower is None or follower[0].row != item.row
        assert ends_row or (line % chunk == 0 and follower[0].start == item.stop)
    rows = [sum(n for x, n in in_order if x.row == row) for row in range(len(lengths))]
    longest = min(chunk, max(rows))
    classes = [9 if size == chunk else -(-8 * size // longest) for size in sizes]
    assert classes == sorted(classes, reverse=True)


@pytest.mark.parametrize("long", [100_000, 131_072])
@pytest.mark.parametrize("programs", [264, 132, 66, 33, 16])  # H100: 1, 2, 4, 8, 16 KV heads
def test_one_long_row_beside_63_short_ones_is_done_in_near_the_ideal_time(long, programs):
    lengths = [long] + [1024] * 63
    items, _ = decode_plan(lengths, programs=programs, block_n=64)
    work = [blocks_of(item, 64) for item in items]
    ideal = sum(work) / programs
    assert makespan(work, programs) <= 1.08 * ideal
    # With the same number of splits for every row, all others wait for the long row's.
    splits = max(1, programs // len(lengths))
    fixed = [-(-length // 64 // splits) for length in lengths for _ in range(splits)]
    assert makespan(fixed, programs) > 3 * ideal


@quick
@given(st.lists(st.integers(0, 500), min_size=1, max_size=40), st.integers(1, 40))
def test_a_list_is_at_most_twice_the_ideal(lengths, programs):
    items, _ = decode_plan(lengths, programs=programs)
    work = [item.stop - item.start for item in items]
    ideal = max(1, -(-sum(work) // programs))  # rounded up: a chunk is a whole number of keys
    assert makespan(work, programs) <= 2 * ideal


def test_makespan_by_hand():
    assert makespan([], 3) == 0
    assert makespan([5, 1, 1, 1], 2) == 5
    assert makespan([1, 1, 1, 5], 2) == 6  # the long one came last
    with pytest.raises(ValueError, match="workers must be at least 1; got 0"):
        makespan([1], 0)


def test_keys_to_visit_by_hand():
    assert keys_to_visit(0) == (0, 0)
    assert keys_to_visit(100, leftpad=100) == (0, 0)  # all of it is padding
    assert keys_to_visit(100, leftpad=99, block_n=16) == (96, 100)
    assert keys_to_visit(100, Lq=4, window=0) == (96, 100)  # each query sees itself


@pytest.mark.parametrize(
    ("lengths", "wrong", "says"),
    [
        ([1], {"programs": 0}, "programs must be at least 1; got 0"),
        ([1], {"block_n": 0}, "block_n must be at least 1; got 0"),
        ([1], {"Lq": 0}, "Lq must be at least 1; got 0"),
        ([-1], {}, "must not be negative"),
        ([1], {"window": -1}, "must not be negative"),
        ([1], {"cache_leftpad": [-1]}, "must not be negative"),
        ([1], {"cache_leftpad": [1, 2]}, "one number per row; got 2 for 1 rows"),
    ],
)
def test_misuse_is_told(lengths, wrong, says):
    with pytest.raises(ValueError, match=says):
        decode_plan(lengths, **{"programs": 4} | wrong)

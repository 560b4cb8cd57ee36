"""reference.paging.pool: no page is handed out twice, none is lost, keys name contents."""

import doctest

import pytest

from reference.paging import pool as module
from reference.paging.pool import OutOfPages, PagePool, page_keys


def test_examples():
    assert doctest.testmod(module).failed == 0


def test_every_page_once_then_an_error_that_says_so():
    pool = PagePool(3)
    assert sorted(pool.allocate() for _ in range(3)) == [0, 1, 2]
    with pytest.raises(OutOfPages, match="all 3 pages are held"):
        pool.allocate()
    assert pool.references == [1, 1, 1] and pool.available == 0


def test_a_page_goes_when_its_last_holder_does():
    pool = PagePool(1)
    page = pool.allocate()
    pool.share(page)
    pool.release(page)
    assert pool.available == 0 and pool.references == [1]
    pool.release(page)
    assert pool.available == 1 and pool.free == (page,)


@pytest.mark.parametrize("what", ["share", "release", "forget"])
def test_nothing_can_be_done_with_a_page_that_nobody_holds(what):
    pool = PagePool(2)
    pool.release(pool.allocate())
    with pytest.raises(ValueError, match="page 0 must be held"):
        getattr(pool, what)(0)
    for page in (-1, 2):
        with pytest.raises(ValueError, match=f"0…1; got {page}"):
            getattr(pool, what)(page)
    with pytest.raises(ValueError, match="page 0 must be held"):
        pool.record(0, b"key")


def test_known_contents_outlive_their_holder_and_come_back():
    pool = PagePool(2)
    page = pool.allocate()
    pool.record(page, b"a")
    pool.release(page)
    assert pool.idle == (page,) and pool.available == 2 and pool.contains(b"a")
    assert pool.reuse(b"a") == page and pool.references[page] == 1 and pool.idle == ()
    assert pool.reuse(b"a") == page and pool.references[page] == 2
    assert pool.reuse(b"b") is None


def test_free_pages_are_taken_first_then_the_longest_idle():
    pool = PagePool(3)
    pages = [pool.allocate() for _ in range(3)]
    for page in pages:
        pool.record(page, bytes([page]))
    for page in (1, 0):
        pool.release(page)
    assert pool.reuse(bytes([1])) == 1  # used again: the youngest once it is released
    pool.release(1)
    assert pool.idle == (0, 1)
    assert pool.allocate() == 0 and pool.evictions == 1
    assert not pool.contains(bytes([0])) and pool.contains(bytes([1]))
    pool.release(0)  # without a key now: free
    assert pool.free == (0,) and pool.allocate() == 0 and pool.evictions == 1


def test_the_first_page_with_some_contents_keeps_the_key():
    pool = PagePool(2)
    a, b = pool.allocate(), pool.allocate()
    pool.record(a, b"same")
    pool.record(b, b"same")
    pool.record(a, b"same")  # again: nothing new
    assert pool.key_of(a) == b"same" and pool.key_of(b) is None
    with pytest.raises(ValueError, match="has a key already"):
        pool.record(a, b"other")
    pool.forget(a)
    pool.record(b, b"same")
    assert pool.key_of(a) is None and pool.reuse(b"same") == b


def test_a_key_names_all_tokens_up_to_the_end_of_the_page():
    text = [1, 2, 3, 4, 5, 6, 7]
    keys = page_keys(text, 2)
    assert len(keys) == 3 and len(set(keys)) == 3  # the seventh token fills no page
    for i in range(7):  # another token changes the key of its own page and of all that follow
        other = page_keys([*text[:i], 99, *text[i + 1 :]], 2)
        assert [a == b for a, b in zip(keys, other, strict=True)] == [i >= 2, i >= 4, i >= 6]
    assert page_keys(text[2:], 2, parent=keys[0]) == keys[1:]
    assert page_keys(text, 2, salt=b"model") != keys and page_keys(text[:1], 2) == []


def test_a_salt_can_not_be_taken_for_tokens():
    """Were they simply joined, a salt of eight bytes would look like one more token."""
    eight = (5).to_bytes(8, "little")
    assert page_keys([1], 1, salt=eight) != page_keys([5, 1], 2)
    assert page_keys([1, 2], 2, salt=b"") != page_keys([2], 1, salt=(1).to_bytes(8, "little"))


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="num_pages must be at least 1; got 0"):
        PagePool(0)
    with pytest.raises(ValueError, match="page_size must be at least 1; got 0"):
        page_keys([1], 0)
    with pytest.raises(ValueError, match="tokens must be at least 0; got -3"):
        page_keys([1, -3], 1)

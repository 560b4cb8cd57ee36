"""reference.serving.text: stop strings over any borders, and characters of several tokens."""

import doctest

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from llamas import write_folder

from reference.pretrained import load
from reference.serving import text as module
from reference.serving.text import Bytes, StopStrings, Writer

LETTERS = st.text("ab", max_size=12)


def test_examples():
    assert doctest.testmod(module).failed == 0


def cut_at_the_first_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    """By definition: the shortest front that ends with a stop string, less the longest of these."""
    for end in range(len(text) + 1):
        found = [s for s in stops if text[:end].endswith(s)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


@given(
    pieces=st.lists(LETTERS, max_size=6),
    stops=st.lists(st.text("ab", min_size=1, max_size=5), max_size=3),
)
@example(pieces=["aa", "ab"], stops=["aab"])  # the beginning of a match that fails hides another
@example(pieces=["abc"[:1], "b"], stops=["b", "ab"])  # two complete at once
def test_what_is_shown_does_not_depend_on_where_tokens_cut(pieces, stops):
    watch, shown = StopStrings(stops), ""
    for i, piece in enumerate(pieces):
        shown += watch.push(piece)
        so_far = "".join(pieces[: i + 1])
        wanted, stopped = cut_at_the_first_stop(so_far, stops)
        assert watch.stopped == stopped
        assert wanted.startswith(shown)  # nothing is shown that would have to be taken back
        held = wanted[len(shown) :]
        assert held == "" or (not stopped and any(s.startswith(held) for s in stops))
    assert shown + watch.rest() == cut_at_the_first_stop("".join(pieces), stops)[0]


@given(st.text(), st.binary(max_size=3))
def test_bytes_become_the_characters_they_encode(text, tail):
    data = text.encode() + tail
    decoder = Bytes()
    assert "".join(map(decoder.push, data)) + decoder.rest() == data.decode(errors="replace")


def test_a_stop_string_may_end_within_a_character_and_begin_in_one():
    writer = Writer(0, Bytes(), ["é√"])
    shown = [writer.push(token) for token in "né√x".encode()]
    assert "".join(shown) == "n" and writer.stops.stopped and writer.rest() == ""


def test_a_stop_string_over_the_borders_of_a_tokenizers_tokens(tmp_path):
    write_folder(tmp_path)
    tokenizer = load(tmp_path).tokenizer
    tokens = tokenizer.encode("the cache")  # t, he, a space, cache
    writer = Writer(0, tokenizer.decoder(), ["e c"])
    assert [writer.push(token) for token in tokens] == ["t", "h", "", ""] and writer.stops.stopped
    other = Writer(0, tokenizer.decoder(), ["e d"])
    assert "".join(map(other.push, tokens)) + other.rest() == "the cache"


def test_an_unfinished_end_is_shown_as_such():
    writer = Writer(0, Bytes(), ["\ufffdx"])
    assert writer.push("√".encode()[0]) == "" and writer.rest() == "\ufffd"


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ValueError, match="must not be empty"):
        StopStrings(["a", ""])

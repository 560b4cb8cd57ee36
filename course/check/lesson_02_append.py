"""Exercise 2.1: put new tokens into a cache, in place, each row behind its own length."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from course.check import lesson_02_append_answers as answers
from course.check.draw import integer
from course.check.guards import Guarded, guarded, poisoned
from course.check.spec import Exercise, Mistake, Property, Seen

Filled = tuple[Guarded, Tensor]  # a cache, and a copy of what is in it


def _cache(rng: Generator, name: str, shape: tuple[int, ...], lengths: list[int]) -> Filled:
    """A cache filled up to the lengths, NaN behind them and around it."""
    cache = poisoned(shape, name=name, row_gap=3)
    for b, length in enumerate(lengths):
        cache.tensor[b, :length] = torch.randn(length, *shape[2:], generator=rng)
    return cache, cache.tensor.clone()


def _append(
    answer: Callable, rng: Generator, lengths: list[int], Ln: int, capacity: int, Hkv: int = 1
) -> Seen:
    """Append Ln tokens to rows of these lengths; got and wanted are all that may have changed."""
    B, D = len(lengths), 2
    shape = (B, capacity, Hkv, D)
    (k_cache, k_wanted), (v_cache, v_wanted) = (
        _cache(rng, name, shape, lengths) for name in ("k_cache", "v_cache")
    )
    k, v = (
        guarded(torch.randn(B, Ln, Hkv, D, generator=rng), name, row_gap=3) for name in ("k", "v")
    )
    fits = max(lengths) + Ln <= capacity
    for b, length in enumerate(lengths if fits else []):
        k_wanted[b, length : length + Ln] = k.tensor[b]
        v_wanted[b, length : length + Ln] = v.tensor[b]
    before = torch.tensor(lengths)
    given = f"lengths {lengths}, {Ln} new, capacity {capacity}, Hkv = {Hkv}, D = {D}"
    try:
        result = answer(k_cache.tensor, v_cache.tensor, k.tensor, v.tensor, before)
    except ValueError:
        result = "ValueError"
    except Exception as error:
        error.add_note(given)
        raise
    wanted = torch.tensor(lengths) + Ln if fits else "ValueError"
    return Seen(
        (result, k_cache.tensor, v_cache.tensor, before),
        (wanted, k_wanted, v_wanted, torch.tensor(lengths)),
        given,
        atol=0.0,  # copied, not computed
        rtol=0.0,
        names=("the new lengths", "k_cache", "v_cache", "lengths"),
        guards=(k_cache, v_cache, k, v),
        any_dtype=True,
    )


def _one_token(answer: Callable, rng: Generator) -> Seen:
    return _append(answer, rng, [integer(rng, 1, 4)], 1, 6)


def _empty_row(answer: Callable, rng: Generator) -> Seen:
    return _append(answer, rng, [0], 3, 5)


def _ragged(answer: Callable, rng: Generator) -> Seen:
    first = integer(rng, 2, 4)
    return _append(answer, rng, [first, first - 2, first + 1], 1, 8)


def _several(answer: Callable, rng: Generator) -> Seen:
    return _append(answer, rng, [3, integer(rng, 4, 6), 1], integer(rng, 2, 3), 10, Hkv=2)


def _just_fits(answer: Callable, rng: Generator) -> Seen:
    capacity = integer(rng, 5, 8)
    return _append(answer, rng, [capacity - 2, 1], 2, capacity)


def _a_full_row(answer: Callable, rng: Generator) -> Seen:
    capacity = integer(rng, 4, 6)
    return _append(answer, rng, [1, capacity, 2], 1, capacity)


def _no_room(answer: Callable, rng: Generator) -> Seen:
    """Row 0 has room, a later one has not: nothing at all may have been written."""
    return _append(answer, rng, [1, 2, integer(rng, 4, 5)], 3, 6)


SHARED = "lengths changed"
MISTAKES = (
    (
        "from place 0 on",
        "The new tokens are written **at the beginning** of each row, over the oldest ones. Row "
        "b's next free place is lengths[b].",
    ),
    (
        "one place too far",
        "The new tokens begin **one place too far**: they leave a gap that nobody wrote. Places "
        "count from 0, so lengths[b] itself is the first free one.",
    ),
    (
        "the last token overwritten",
        "The new tokens begin at lengths[b] − 1 and **overwrite the last token** that was in. "
        "Places count from 0, so the last token stands at lengths[b] − 1.",
    ),
    (
        "one length for all",
        "All rows are written at the place of **row 0's length**. Each row of a batch has a "
        "length of its own.",
    ),
    (
        "behind the longest",
        "All rows are written behind the **longest** row. In the shorter ones that leaves a gap, "
        "and the attention reads it.",
    ),
    (
        "a new tensor",
        "The caches that were given are **unchanged**: torch.cat and the like make a new tensor. "
        "Write into the cells of the old one.",
    ),
    (
        "only the first token",
        "Only the **first** of the new tokens is in the cache. There may be several: Ln of them, "
        "behind each other.",
    ),
    (
        "values forgotten",
        "k_cache is right, and **v_cache unchanged**: the values have to be kept, too.",
    ),
    (
        "keys in both caches",
        "k_cache is right, but v_cache has got **the keys** as well.",
    ),
    (
        "lengths changed",
        "The cells are right, but the tensor `lengths` that was given is **changed** as well. In "
        "a model the next layer appends the same tokens at the same places, and would go astray. "
        "Return a new tensor.",
    ),
    (
        "old lengths returned",
        "The cells are right, but the **old lengths** are returned: Ln tokens have come to each "
        "row.",
    ),
    (
        "a full row is not noticed",
        "Nobody asked **whether there is room**. A token for a full row is then lost without a "
        "word (a slice that begins behind the end is empty, and assigning to it is no error); "
        "several that fit only in part end in PyTorch's own error, when other rows are written "
        "already.",
    ),
    (
        "half is written",
        "Here is a ValueError, but only **after other rows were written**: whoever catches it has"
        " a cache that is half new. Ask for all rows first, then write.",
    ),
    (
        "the last cell refused",
        "Tokens that **just fit** are refused: lengths[b] + Ln may be as large as the capacity.",
    ),
)

APPEND = Exercise(
    id="2.1",
    name="append",
    title="Append to the cache",
    section="3 · Keep the keys and values",
    solution_name="append",
    properties=(
        Property("one token", "one row, one new token", _one_token),
        Property("an empty row", "length 0: the cache begins", _empty_row),
        Property("ragged lengths", "three rows, each with a length of its own", _ragged),
        Property("several tokens", "a chunk of new tokens, two KV heads", _several),
        Property("just fits", "the last cell is used, and none behind it", _just_fits),
        Property(
            "a full row", "one more token is a ValueError, and nothing is written", _a_full_row
        ),
        Property(
            "no room", "some of the tokens would fit: a ValueError, nothing written", _no_room
        ),
    ),
    mistakes=tuple(
        Mistake(name, says, answers.wrong(name), "In the model" if name == SHARED else "")
        for name, says in MISTAKES
    ),
    alternative=answers.by_index,
    changes_inputs=True,
)

"""Exercise 2.1: put new tokens into a cache, in place, each row after its own length."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from course.check import lesson_02_append_answers as answers
from course.check.draw import integer
from course.check.guards import Guarded, guarded, poisoned
from course.check.spec import Exercise, Mistake, Property, Seen

Filled = tuple[Guarded, Tensor]  # a cache, and a copy of what is in it
ACCEPTED, REFUSED = "no error: all tokens fit", "a ValueError"


def _cache(rng: Generator, name: str, shape: tuple[int, ...], lengths: list[int]) -> Filled:
    """A cache filled up to the lengths, NaN after them and around it."""
    cache = poisoned(shape, name=name, row_gap=3)
    for b, length in enumerate(lengths):
        cache.tensor[b, :length] = torch.randn(length, *shape[2:], generator=rng)
    return cache, cache.tensor.clone()


def _append(
    answer: Callable, rng: Generator, lengths: list[int], Ln: int, capacity: int, Hkv: int = 1
) -> list[Seen]:
    """Append Ln tokens to rows of these lengths: was it refused, the cells, the lengths.

    Each is a separate observation, so that a message shows the one that differs; for a cache,
    the first difference in words, and then the whole cache, which tells mistakes apart.
    """
    B, D = len(lengths), 2
    names, shape = ("k", "v"), (B, capacity, Hkv, D)
    caches = [_cache(rng, f"{name}_cache", shape, lengths) for name in names]
    new = [guarded(torch.randn(B, Ln, Hkv, D, generator=rng), name, row_gap=3) for name in names]
    fits = max(lengths) + Ln <= capacity
    given = f"lengths {lengths}, {Ln} new, capacity {capacity}, Hkv = {Hkv}, D = {D}"
    before = torch.tensor(lengths)
    (k_cache, _), (v_cache, _), (k, v) = *caches, new
    args = (k_cache.tensor, v_cache.tensor, k.tensor, v.tensor, before)
    end, result, how = _call(answer, args, fits, given)
    seen = [Seen(end, ACCEPTED if fits else REFUSED, given + how)]
    for i, (cache, old) in enumerate(caches):
        wanted = old.clone()
        for b, length in enumerate(lengths if fits else []):
            wanted[b, length : length + Ln] = new[i].tensor[b]
        got_words, wanted_words = _first_difference(cache, old, wanted, [x.tensor for x in new])
        seen.append(Seen(got_words, wanted_words, given))
        guards = (cache, new[i])
        seen.append(Seen(cache.tensor, wanted, given, atol=0.0, rtol=0.0, guards=guards))
    seen.append(Seen({"lengths": before}, {"lengths": torch.tensor(lengths)}, given))
    if result is not None and fits:
        wanted = {"new lengths": torch.tensor(lengths) + Ln}
        seen.append(Seen({"new lengths": result}, wanted, given, any_dtype=True))
    return seen


def _call(answer: Callable, args: tuple, fits: bool, given: str) -> tuple[str, object, str]:
    """Call the answer: how it ended, in words, what it returned, and any other error it raised."""
    try:
        result = answer(*args)
    except ValueError:
        return "a ValueError, though all tokens fit" if fits else REFUSED, None, ""
    except Exception as error:
        known = (AssertionError, IndexError, RuntimeError)
        if fits or isinstance(error, NotImplementedError) or not isinstance(error, known):
            error.add_note(given)
            raise
        return "another kind of error", None, f"; it raised {type(error).__name__}"
    return ACCEPTED if fits else "no error, though there is no room", result, ""


def _first_difference(
    cache: Guarded, old: Tensor, wanted: Tensor, new: list[Tensor]
) -> tuple[str, str]:
    """The first wrong cell (row, place) of a cache: what is in it, and what should be.

    old: the cache as it was; new: k and v.
    """
    got = cache.tensor
    astray = ~((got == wanted) | (got.isnan() & wanted.isnan())).flatten(2).all(-1)
    if not bool(astray.any()):
        return cache.name, cache.name
    b, p = astray.nonzero()[0].tolist()
    if torch.equal(old[b, p].nan_to_num(99.0), wanted[b, p].nan_to_num(99.0)):
        should = "what was there before" if not old[b, p].isnan().any() else "left untouched"
    else:
        should = _content(wanted[b, p], new)
    where = f"{cache.name}, row {b}, place {p}: "
    return where + _content(got[b, p], new), where + should


def _content(cell: Tensor, new: list[Tensor]) -> str:
    """Say which of the new tokens lies in a cell (Hkv, D)."""
    if bool(cell.isnan().all()):
        return "never written"
    for name, tokens in zip(("k", "v"), new, strict=True):
        for b, i in (tokens == cell).flatten(2).all(-1).nonzero().tolist():
            return f"{name}[{b}, {i}]"
    return "none of the new tokens"


def _one_token(answer: Callable, rng: Generator) -> list[Seen]:
    return _append(answer, rng, [integer(rng, 1, 4)], 1, 6)


def _empty_row(answer: Callable, rng: Generator) -> list[Seen]:
    return _append(answer, rng, [0], 3, 5)


def _ragged(answer: Callable, rng: Generator) -> list[Seen]:
    first = integer(rng, 2, 4)
    return _append(answer, rng, [first, first - 2, first + 1], 1, 8)


def _several(answer: Callable, rng: Generator) -> list[Seen]:
    return _append(answer, rng, [3, integer(rng, 4, 6), 1], integer(rng, 2, 3), 10, Hkv=2)


def _just_fits(answer: Callable, rng: Generator) -> list[Seen]:
    capacity = integer(rng, 5, 8)
    return _append(answer, rng, [capacity - 2, 1], 2, capacity)


def _a_full_row(answer: Callable, rng: Generator) -> list[Seen]:
    capacity = integer(rng, 4, 6)
    return _append(answer, rng, [1, capacity, 2], 1, capacity)


def _no_room(answer: Callable, rng: Generator) -> list[Seen]:
    """Row 0 has room, a later one does not: nothing at all may be written."""
    return _append(answer, rng, [1, 2, integer(rng, 4, 5)], 3, 6)


SHARED = "lengths changed"
MISTAKES = (
    (
        "one place too far",
        "The new tokens begin **one place too far**: they leave an unwritten gap. Places "
        "count from 0, so lengths[b] itself is the first free one.",
    ),
    (
        "one length for all",
        "All rows are written at the place given by **row 0's length**. Each row of a batch has "
        "its own length.",
    ),
    (
        "new tensors, no question of room",
        "The caches you were given are **unchanged**: torch.cat and the like make a new tensor. "
        "Write into the cells of the old one. And check first that there is room: torch.cat never "
        "runs out of it.",
    ),
    (
        "new tensors",
        "The caches you were given are **unchanged**: torch.cat, clone and the like make a new "
        "tensor, and the caller never sees it. Write into the cells of the old one.",
    ),
    (
        "only the first token",
        "Only the **first** of the new tokens is in the cache. There may be several: Ln of them, "
        "one after another.",
    ),
    (
        "lengths changed",
        "The cells are right, but the tensor `lengths` you were given is **changed** as well. In "
        "a model the next layer appends the same tokens, and now would put them too far along. "
        "Return a new tensor.",
    ),
    (
        "a full row is not noticed",
        "The code never checks **whether there is room**. A token for a full row is then silently "
        "lost (a slice that begins past the end is empty, and assigning to it is no error); "
        "several that fit only in part end in PyTorch's own error, after other rows have already "
        "been written.",
    ),
    (
        "room for one",
        "The check for room is right for **one** new token. There may be several: all Ln of "
        "them need a place.",
    ),
    (
        "half is written",
        "There is a ValueError, but only **after other rows were written**: code that catches it"
        " is left with a cache that is half new. Check all rows first, then write.",
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
        Property("ragged lengths", "three rows, each with its own length", _ragged),
        Property("several tokens", "a chunk of new tokens, two KV heads", _several),
        Property("just fits", "the last cell is used, and none after it", _just_fits),
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

"""Exercise 2.1: put new tokens into a cache, in place, each row after its own length."""

import torch

from course.check.draw import integer
from course.check.guards import guarded, poisoned
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, mistake, right, slip

ACCEPTED, REFUSED = "no error: all tokens fit", "a ValueError"


@right
def append(k_cache, v_cache, k, v, lengths):
    Ln, capacity = k.shape[1], k_cache.shape[1]
    fullest = int(lengths.max())
    if fullest + Ln > capacity:
        raise ValueError(f"{Ln} tokens don't fit behind {fullest} in {capacity} places")
    for b, start in enumerate(lengths.tolist()):
        k_cache[b, start : start + Ln] = k[b]
        v_cache[b, start : start + Ln] = v[b]
    return lengths + Ln


@also_right
def by_index(k_cache, v_cache, k, v, lengths):
    """All cells at once, each by its index."""
    B, Ln = k.shape[:2]
    places = lengths[:, None] + torch.arange(Ln)  # (B, Ln)
    if places.numel() and int(places.max()) >= k_cache.shape[1]:
        raise ValueError("no room")
    rows = torch.arange(B)[:, None].expand(B, Ln)
    k_cache[rows, places] = k
    v_cache[rows, places] = v
    return lengths + Ln


def filled(rng, name, shape, lengths):
    """A cache filled up to the lengths, NaN after them and around it; a copy of what is in it."""
    cache = poisoned(shape, name=name, row_gap=3)
    for b, length in enumerate(lengths):
        cache.tensor[b, :length] = torch.randn(length, *shape[2:], generator=rng)
    return cache, cache.tensor.clone()


def seen(answer, rng, lengths, Ln, capacity, Hkv=1):
    """Append Ln tokens to rows of these lengths: was it refused, the cells, the lengths.

    Each is a separate observation, so that a message shows the one that differs; for a cache,
    the first difference in words, and then the whole cache, which tells mistakes apart.
    """
    B, D = len(lengths), 2
    names, shape = ("k", "v"), (B, capacity, Hkv, D)
    caches = [filled(rng, f"{name}_cache", shape, lengths) for name in names]
    new = [guarded(torch.randn(B, Ln, Hkv, D, generator=rng), name, row_gap=3) for name in names]
    fits = max(lengths) + Ln <= capacity
    given = f"lengths {lengths}, {Ln} new, capacity {capacity}, Hkv = {Hkv}, D = {D}"
    before = torch.tensor(lengths)
    (k_cache, _), (v_cache, _), (k, v) = *caches, new
    args = (k_cache.tensor, v_cache.tensor, k.tensor, v.tensor, before)
    end, result, how = call(answer, args, fits, given)
    found = [Seen(end, ACCEPTED if fits else REFUSED, given + how)]
    for i, (cache, old) in enumerate(caches):
        wanted = old.clone()
        for b, length in enumerate(lengths if fits else []):
            wanted[b, length : length + Ln] = new[i].tensor[b]
        got_words, wanted_words = first_difference(cache, old, wanted, [x.tensor for x in new])
        found.append(Seen(got_words, wanted_words, given))
        guards = (cache, new[i])
        found.append(Seen(cache.tensor, wanted, given, atol=0.0, rtol=0.0, guards=guards))
    found.append(Seen({"lengths": before}, {"lengths": torch.tensor(lengths)}, given))
    if result is not None and fits:
        wanted = {"new lengths": torch.tensor(lengths) + Ln}
        found.append(Seen({"new lengths": result}, wanted, given, any_dtype=True))
    return found


def call(answer, args, fits, given):
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


def first_difference(cache, old, wanted, new):
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
        should = content(wanted[b, p], new)
    where = f"{cache.name}, row {b}, place {p}: "
    return where + content(got[b, p], new), where + should


def content(cell, new):
    """Say which of the new tokens lies in a cell (Hkv, D)."""
    if bool(cell.isnan().all()):
        return "never written"
    for name, tokens in zip(("k", "v"), new, strict=True):
        for b, i in (tokens == cell).flatten(2).all(-1).nonzero().tolist():
            return f"{name}[{b}, {i}]"
    return "none of the new tokens"


@holds("one row, one new token")
def one_token(answer, rng):
    return seen(answer, rng, [integer(rng, 1, 4)], 1, 6)


@holds("length 0: the cache begins")
def an_empty_row(answer, rng):
    return seen(answer, rng, [0], 3, 5)


@holds("three rows, each with its own length")
def ragged_lengths(answer, rng):
    first = integer(rng, 2, 4)
    return seen(answer, rng, [first, first - 2, first + 1], 1, 8)


@holds("a chunk of new tokens, two KV heads")
def several_tokens(answer, rng):
    return seen(answer, rng, [3, integer(rng, 4, 6), 1], integer(rng, 2, 3), 10, Hkv=2)


@holds("the last cell is used, and none after it")
def just_fits(answer, rng):
    capacity = integer(rng, 5, 8)
    return seen(answer, rng, [capacity - 2, 1], 2, capacity)


@holds("one more token is a ValueError, and nothing is written")
def a_full_row(answer, rng):
    capacity = integer(rng, 4, 6)
    return seen(answer, rng, [1, capacity, 2], 1, capacity)


@holds("some of the tokens would fit: a ValueError, nothing written")
def no_room(answer, rng):
    """Row 0 has room, a later one does not: nothing at all may be written."""
    return seen(answer, rng, [1, 2, integer(rng, 4, 5)], 3, 6)


slip(
    "one place too far",
    "The new tokens begin **one place too far**: they leave an unwritten gap. Places "
    "count from 0, so lengths[b] itself is the first free one.",
    ("lengths.tolist()", "(lengths + 1).tolist()"),
)
slip(
    "one length for all",
    "All rows are written at the place given by **row 0's length**. Each row of a batch has "
    "its own length.",
    ("lengths.tolist()", "lengths[:1].tolist() * len(k)"),
)


@mistake(
    "The caches you were given are **unchanged**: torch.cat and the like make a new tensor. "
    "Write into the cells of the old one. And check first that there is room: torch.cat never "
    "runs out of it.",
    name="new tensors, no question of room",
)
def joined(k_cache, v_cache, k, v, lengths):
    k_cache, v_cache = torch.cat([k_cache, k], 1), torch.cat([v_cache, v], 1)
    return lengths + k.shape[1]


slip(
    "new tensors",
    "The caches you were given are **unchanged**: torch.cat, clone and the like make a new "
    "tensor, and the caller never sees it. Write into the cells of the old one.",
    ("    for b", "    k_cache, v_cache = k_cache.clone(), v_cache.clone()\n    for b"),
)
slip(
    "only the first token",
    "Only the **first** of the new tokens is in the cache. There may be several: Ln of them, "
    "one after another.",
    ("start : start + Ln", "start"),
    ("k[b]", "k[b, 0]"),
    ("v[b]", "v[b, 0]"),
)
slip(
    "lengths changed",
    "The cells are right, but the tensor `lengths` you were given is **changed** as well. In "
    "a model the next layer appends the same tokens, and now would put them too far along. "
    "Return a new tensor.",
    ("return lengths + Ln", "lengths += Ln\n    return lengths"),
    see="In the model",
)
slip(
    "a full row is not noticed",
    "The code never checks **whether there is room**. A token for a full row is then silently lost "
    "(a slice that begins past the end is empty, and assigning to it is no error); several that "
    "fit only in part end in PyTorch's own error, after other rows have already been written.",
    ("fullest + Ln > capacity", "False"),
)
slip(
    "room for one",
    "The check for room is right for **one** new token. There may be several: all Ln of "
    "them need a place.",
    ("fullest + Ln >", "fullest + 1 >"),
)
slip(
    "half is written",
    "There is a ValueError, but only **after other rows were written**: code that catches it"
    " is left with a cache that is half new. Check all rows first, then write.",
    ("fullest + Ln > capacity", "False"),
    ("        k_", "        if start + Ln > capacity:\n            raise ValueError\n        k_"),
)
slip(
    "the last cell refused",
    "Tokens that **just fit** are refused: lengths[b] + Ln may be as large as the capacity.",
    ("> capacity", ">= capacity"),
)

APPEND = Exercise.of(
    __name__,
    "2.1 append",
    title="Append to the cache",
    section="3 · Keep the keys and values",
    changes_inputs=True,
)

"""Exercise 2.1: put new tokens into a cache, in place, each row after its own length."""

import torch

from course.check.draw import integer
from course.check.lesson_02.append_seen import seen
from course.check.spec import Exercise, also_right, holds, mistake, right, slip


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


@holds("one row, one new token")
def one_token(answer, rng):
    return seen(answer, rng, [integer(rng, 1, 4)], 1, 6)


@holds("length 0: the cache begins")
def an_empty_row(answer, rng):
    return seen(answer, rng, [0], 3, 5)


@holds("three rows, each with its own length")
def ragged_lengths(answer, rng):
    first = integer(rng, 2, 4)
    return seen(answer, rng, [first, first - 2, first + 1], 1, 8, D=3)


@holds("a chunk of new tokens, two KV heads")
def several_tokens(answer, rng):
    lengths, Ln = [3, integer(rng, 4, 6), 1], integer(rng, 2, 3)
    return seen(answer, rng, lengths, Ln, 10, Hkv=2)


@holds("five rows, three KV heads, lengths of 32 bits")
def other_sizes(answer, rng):
    lengths, Ln = [2, 0, 7, 4, integer(rng, 1, 6)], integer(rng, 4, 6)
    return seen(answer, rng, lengths, Ln, 14, Hkv=3, D=5, dtype=torch.int32)


@holds("the last cell is used, and none after it")
def just_fits(answer, rng):
    capacity = integer(rng, 5, 8)
    return [
        *seen(answer, rng, [capacity - 2, 1], 2, capacity),
        *seen(answer, rng, [0], capacity, capacity),
    ]


@holds("one more token is a ValueError, and nothing is written")
def a_full_row(answer, rng):
    capacity = integer(rng, 4, 6)
    return seen(answer, rng, [1, capacity, 2], 1, capacity)


@holds("some of the tokens would fit: a ValueError, nothing written")
def no_room(answer, rng):
    """Row 0 has room, a later one does not: nothing at all may be written."""
    return [
        *seen(answer, rng, [1, 2, integer(rng, 4, 5)], 3, 6),
        *seen(answer, rng, [0, integer(rng, 4, 5), 1], 3, 6),
        *seen(answer, rng, [integer(rng, 4, 5), 0, 1], 3, 6),
        *seen(answer, rng, [0], 3, 2),
    ]


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
slip(
    "one place too early",
    "The new tokens begin **one place too early**: they overwrite the newest old one.",
    ("lengths.tolist()", "(lengths - 1).clamp(0).tolist()"),
)
slip(
    "from the beginning",
    "The new tokens are written **from place 0**, over the old ones. They belong behind what "
    "is in the row.",
    ("lengths.tolist()", "[0] * len(k)"),
)
slip(
    "at the end",
    "The new tokens are in the **last places of the cache**. They belong right behind what is"
    " in the row.",
    ("lengths.tolist()", "[capacity - Ln] * len(k)"),
)
slip(
    "the longest length for all",
    "All rows are written behind **the longest one**. Each row of a batch has its own length.",
    ("lengths.tolist()", "[fullest] * len(k)"),
)
slip(
    "keys alone",
    "**v_cache is unchanged**: a token leaves a key and a value.",
    ("        v_cache[b, start : start + Ln] = v[b]\n", ""),
)
slip(
    "keys in both",
    "The **keys are in both caches**: v belongs into v_cache.",
    ("= v[b]", "= k[b]"),
)
slip(
    "keys and values swapped",
    "**k and v are swapped**: the keys are in v_cache.",
    ("= v[b]", "= w[b]"),
    ("= k[b]", "= v[b]"),
    ("= w[b]", "= k[b]"),
)
slip(
    "one row's tokens for all",
    "Every row gets the new tokens **of row 0**. Row b gets k[b] and v[b].",
    ("k[b]", "k[0]"),
    ("v[b]", "v[0]"),
)
slip(
    "row 0 only",
    "Only **row 0** is written. All rows of the batch get their tokens.",
    ("enumerate(lengths.tolist())", "enumerate(lengths.tolist()[:1])"),
)
slip(
    "the first token repeated",
    "The **first new token** is in all Ln places. Each place has a token of its own.",
    ("k[b]", "k[b, :1]"),
    ("v[b]", "v[b, :1]"),
)
slip(
    "only the last token",
    "Only the **last** of the new tokens is in the cache. There may be several: Ln of them, "
    "one after another.",
    ("start : start + Ln", "start"),
    ("k[b]", "k[b, -1]"),
    ("v[b]", "v[b, -1]"),
)
slip(
    "in reverse",
    "The new tokens are in **reverse order**. Token i goes to place lengths[b] + i.",
    ("k[b]", "k[b].flip(0)"),
    ("v[b]", "v[b].flip(0)"),
)
slip(
    "KV head 0 only",
    "Only **KV head 0** is written. All Hkv of them have keys and values.",
    ("+ Ln]", "+ Ln, 0]"),
    ("k[b]", "k[b, :, 0]"),
    ("v[b]", "v[b, :, 0]"),
)
slip(
    "the rest cleared",
    "The places **behind the new tokens** are changed as well. Nothing else in the caches may"
    " change.",
    ("        k_", "        k_cache[b, start:] = v_cache[b, start:] = 0\n        k_"),
)
slip(
    "another kind of error",
    "That there is no room is noticed, but it must be a **ValueError**: the caller asks for "
    "just that.",
    ("raise ValueError(", "raise AssertionError("),
)
slip(
    "rows without room skipped",
    "A row without room is **left out in silence**. The task asks for a ValueError, and that "
    "nothing is written, in no row.",
    ("fullest + Ln > capacity", "False"),
    ("        k_", "        if start + Ln > capacity:\n            continue\n        k_"),
)
slip(
    "what fits is written",
    "Of tokens that don't fit, **those that do are written**, and the others are lost in "
    "silence. The task asks for a ValueError, and that nothing is written.",
    ("fullest + Ln > capacity", "False"),
    ("start + Ln]", "start + min(Ln, capacity - start)]"),
    ("k[b]", "k[b, : capacity - start]"),
    ("v[b]", "v[b, : capacity - start]"),
)
slip(
    "room in the emptiest row",
    "The check for room looks at the **emptiest** row. One that is too full is enough for a "
    "ValueError.",
    ("lengths.max()", "lengths.min()"),
)
slip(
    "room in row 0",
    "The check for room looks at **row 0** alone. Any row may be too full.",
    ("lengths.max()", "lengths[0]"),
)
slip(
    "room in the last row",
    "The check for room looks at the **last row** alone. Any row may be too full.",
    ("lengths.max()", "lengths[-1]"),
)
slip(
    "one token too many",
    "The check for room lets **one token too many** in: lengths[b] + Ln may be as large as "
    "the capacity, and no larger.",
    ("> capacity", "> capacity + 1"),
)
slip(
    "rows added up",
    "The check for room **adds the lengths** of all rows. Each row has `capacity` places of "
    "its own.",
    ("lengths.max()", "lengths.sum()"),
)
slip(
    "the old lengths",
    "The caches are right, but the **old lengths** are returned: each row is Ln tokens longer now.",
    ("return lengths + Ln", "return lengths.clone()"),
)
slip(
    "one longer",
    "The caches are right, but the lengths returned are **one** more. They grow by Ln.",
    ("return lengths + Ln", "return lengths + 1"),
)
slip(
    "lengths of new tokens",
    "The caches are right, but **only the new tokens** are counted: the lengths are those of all.",
    ("return lengths + Ln", "return 0 * lengths + Ln"),
)
slip(
    "lengths as a list",
    "The lengths are right, but they come as a **list**: a tensor is asked, like the one that"
    " was given.",
    ("return lengths + Ln", "return (lengths + Ln).tolist()"),
)
slip(
    "lengths in floats",
    "The lengths are right, but they are **floats**: with those no one can count places.",
    ("return lengths + Ln", "return (lengths + Ln).float()"),
)
slip(
    "one length",
    "The caches are right, but **one length** is returned: each row has its own.",
    ("return lengths + Ln", "return lengths.max() + Ln"),
)
slip(
    "new tokens changed",
    "The caches are right, but **k is changed** as well: what is only read must stay as it was.",
    ("    return lengths", "    k.zero_()\n    return lengths"),
)

APPEND = Exercise.of(
    __name__,
    "2.1 append",
    title="Append to the cache",
    section="3 · Keep the keys and values",
    changes_inputs=True,
)

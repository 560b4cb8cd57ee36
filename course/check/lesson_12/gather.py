"""Exercise 12.1: the keys of every row, fetched from their pages."""

import math

import torch

from course.check.draw import integer
from course.check.guards import guarded
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, mistake, right, slip

TABLE = "2 · A table instead of an address"


@right
def gather(pages, block_table, lengths):
    page_size = pages.shape[1]
    rows = pages.new_zeros(len(lengths), int(lengths.max()), *pages.shape[2:])
    for b, length in enumerate(lengths.tolist()):
        place = torch.arange(length)
        page = block_table[b, place // page_size]
        rows[b, :length] = pages[page, place % page_size]
    return rows


@also_right
def at_once(pages, block_table, lengths):
    """All rows at once; entries of places that don't exist are not followed."""
    page_size, place = pages.shape[1], torch.arange(int(lengths.max()))
    exists = place < lengths[:, None]  # (B, longest)
    page = block_table[:, place // page_size].long().masked_fill(~exists, 0)
    found = pages[page, place % page_size]
    return torch.where(exists[..., None, None], found, torch.zeros_like(found))


@also_right
def page_by_page(pages, block_table, lengths):
    """Whole pages, joined and cut."""
    page_size, longest, rows = pages.shape[1], int(lengths.max()), []
    for table, length in zip(block_table, lengths.tolist(), strict=True):
        used = [pages[int(page)] for page in table[: math.ceil(length / page_size)]]
        row = torch.cat(used)[:length] if used else pages[0, :0]
        rest = pages.new_zeros(longest - length, *pages.shape[2:])
        rows.append(torch.cat([row, rest]))
    return torch.stack(rows)


def seen(answer, rng, lengths, page_size, Hkv=1, D=2, **more):
    """Ask for rows of these lengths, from shuffled pages in which everything unused is NaN.

    more: stale (old keys in place of the NaN), dtype (of the pages), index (dtype of the table),
    room (unused columns of the table), shared (the rows begin with this many common pages), wild
    (what the table's dead entries hold).
    """
    counts = [math.ceil(length / page_size) for length in lengths]
    shared, wild = more.get("shared", 0), more.get("wild", -1)
    total = sum(counts) - shared * (len(lengths) - 1) + 3
    numbers = torch.randperm(total, generator=rng).tolist()
    table = torch.full((len(lengths), max([1, *counts]) + more.get("room", 0)), wild)
    dtype, index = more.get("dtype", torch.float32), more.get("index", torch.int32)
    pages = torch.full((total, page_size, Hkv, D), math.nan, dtype=torch.float64)
    wanted = torch.zeros(len(lengths), max(lengths), Hkv, D, dtype=torch.float64)
    common = [numbers.pop() for _ in range(shared)]
    for b, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        own = common + [numbers.pop() for _ in range(count - shared)]
        table[b, :count] = torch.tensor(own, dtype=torch.int64)
        for place in range(length):
            cell = pages[own[place // page_size], place % page_size]
            if cell.isnan().any():
                cell.copy_(torch.randn(Hkv, D, generator=rng, dtype=torch.float64))
            wanted[b, place] = cell
    if more.get("stale"):
        pages = torch.where(pages.isnan(), torch.randn(pages.shape, generator=rng), pages)
    given = guarded(pages.to(dtype), "pages")
    args = given.tensor, table.to(index), torch.tensor(lengths, dtype=index)
    told = f"lengths {lengths}, pages of {page_size}, block_table {table.tolist()}"
    return Seen.of(
        answer, args, wanted=wanted.to(dtype), given=told, atol=0.0, rtol=0.0, guards=(given,)
    )


@holds("pages of two: row 0 is in pages 2 and 0, row 1 in page 1")
def by_hand(answer, rng):
    pages = torch.arange(6.0).view(3, 2, 1, 1)
    table, lengths = torch.tensor([[2, 0], [1, -1]]), torch.tensor([3, 1])
    wanted = torch.tensor([[4.0, 5.0, 0.0], [2.0, 0.0, 0.0]])[..., None, None]
    told = "pages [[0, 1], [2, 3], [4, 5]], block_table [[2, 0], [1, -1]], lengths [3, 1]"
    return Seen.of(answer, (pages, table, lengths), wanted=wanted, given=told)


@holds("one row, its pages in any order")
def shuffled(answer, rng):
    return seen(answer, rng, [integer(rng, 17, 19)], 4)


@holds("every page is full to the last slot")
def full_pages(answer, rng):
    return seen(answer, rng, [12, 12, 12], 4)


@holds("rows of different lengths, and an empty one")
def ragged(answer, rng):
    return [
        seen(answer, rng, [integer(rng, 5, 7), 0, integer(rng, 9, 14), 1], 4, stale=True),
        seen(answer, rng, [0, 0], 4),
    ]


@holds("entries after a row's last page lead nowhere")
def dead_entries(answer, rng):
    return [
        seen(answer, rng, [6, 11, 3], 4, wild=10**6, room=2),
        seen(answer, rng, [11, 6, 3], 4, wild=-(2**31), room=1),
    ]


@holds("two rows begin with the same pages")
def shared(answer, rng):
    return seen(answer, rng, [integer(rng, 9, 10), integer(rng, 13, 15)], 4, shared=2)


@holds("several page sizes, heads, D and dtypes")
def other_sizes(answer, rng):
    return [
        seen(answer, rng, [7, 10], 5, Hkv=3, D=5),
        seen(answer, rng, [4, 6], 1, Hkv=2, D=3, dtype=torch.float16),
        seen(answer, rng, [20, 13], 16, Hkv=2, D=8, dtype=torch.float64, index=torch.int64),
        seen(answer, rng, [3, 2], 7, D=4),
    ]


slip(
    "pages in order",
    "The pages are read **in the order of their numbers**, as if the table were not there. Which "
    "page comes next is what the table says.",
    ("block_table[b, place // page_size]", "place // page_size"),
)
slip(
    "row 0's table for all",
    "All rows are looked up in **row 0** of the table. Each row of the batch has its own.",
    ("block_table[b,", "block_table[0,"),
)
slip(
    "page and slot swapped",
    "Quotient and remainder are **swapped**: `place // page_size` says which entry of the table, "
    "`place % page_size` which slot of that page.",
    ("place // page_size", "place @ page_size"),
    ("place % page_size", "place // page_size"),
    ("place @ page_size", "place % page_size"),
)
slip(
    "slot not reduced",
    "The slot is **the place itself**. Slots are counted anew in every page: take the remainder.",
    ("place % page_size", "place"),
)
slip(
    "the first slot",
    "Of every page the **first slot** is read, over and over. The slot is the remainder of the "
    "division by the page size.",
    ("place % page_size", "place * 0"),
)
slip(
    "the first page",
    "Every place is looked up in the row's **first page**: only the slot changes. Divide the place "
    "by the page size to get the entry of the table.",
    ("block_table[b, place // page_size]", "block_table[b, place * 0]"),
)
slip(
    "slots before pages",
    "The pages are indexed **[slot, page]**. Their first dimension is the page.",
    ("pages[page, place % page_size]", "pages[place % page_size, page]"),
)
slip(
    "table transposed",
    "The table is indexed **[entry, row]**. Its first dimension is the row of the batch.",
    ("block_table[b, place // page_size]", "block_table[place // page_size, b]"),
)
slip(
    "pages from 1",
    "The page numbers are taken as counted **from 1**; they count from 0.",
    ("block_table[b, place // page_size]", "block_table[b, place // page_size] - 1"),
)
slip(
    "page sizes of 4",
    "The division is by **4**, whatever the page size. It is the pages' second dimension.",
    ("page_size = pages.shape[1]", "page_size = 4"),
)
slip(
    "size from the table",
    "The page size is taken from **the table's width**. That is how many pages a row can have; how "
    "many tokens a page has is the pages' second dimension.",
    ("page_size = pages.shape[1]", "page_size = block_table.shape[1]"),
)
slip(
    "NaN at the end",
    "After the end of a shorter row there is **NaN**, or whatever was in memory. It must be 0.",
    ("new_zeros(len(lengths), int(lengths.max()), *pages.shape[2:])",
     "new_full((len(lengths), int(lengths.max()), *pages.shape[2:]), math.nan)"),
)  # fmt: skip
slip(
    "as long as the table",
    "The result is as long as **the table has room**. It must be as long as the longest row.",
    ("int(lengths.max())", "block_table.shape[1] * page_size"),
)
slip(
    "whole pages only",
    "The last page of a row is **left out unless it is full**: the division is rounded down.",
    ("        place =", "        length = length // page_size * page_size\n        place ="),
)
slip(
    "one key short",
    "The **last key** of each row is missing.",
    ("        place =", "        length = max(0, length - 1)\n        place ="),
)
slip(
    "the length of row 0",
    "All rows are given the length of **row 0**: shorter ones go on into entries that lead "
    "nowhere, longer ones are cut off.",
    ("        place =", "        length = int(lengths[0])\n        place ="),
)
slip(
    "the longest length for all",
    "Every row is read up to the **longest length**: the table's entries after a row's last page "
    "lead nowhere, and must not be followed.",
    ("        place =", "        length = rows.shape[1]\n        place ="),
)
slip(
    "cut to the shortest",
    "The result is as long as the **shortest** row. The longest must fit in.",
    ("int(lengths.max())", "int(lengths.min())"),
    ("        place =", "        length = min(length, rows.shape[1])\n        place ="),
)
slip(
    "KV head 0",
    "All KV heads get the keys of **head 0**. A cell holds the keys of all heads; copy it whole.",
    ("= pages[page, place % page_size]", "= pages[page, place % page_size][:, :1]"),
)
slip(
    "in fp32",
    "The numbers are right, but they come in **fp32**. Fetching does not change the dtype.",
    ("    return rows", "    return rows.float()"),
)
slip(
    "through fp32",
    "The numbers pass through **fp32** on their way: those of a wider dtype are rounded. Copy them "
    "as they are.",
    ("= pages[page, place % page_size]", "= pages[page, place % page_size].float()"),
)
slip(
    "pages of two",
    "The division is by **2**, whatever the page size. It is the pages' second dimension.",
    ("page_size = pages.shape[1]", "page_size = 2"),
)
slip(
    "page plus slot",
    "The place in memory is taken as **page + slot**. A page is page_size tokens long: multiply "
    "first, or index with both.",
    ("pages[page, place % page_size]", "pages.flatten(0, 1)[page + place % page_size]"),
)
slip(
    "reversed",
    "Each row comes out **backwards**. Place 0 is in the first page of the table.",
    ("place = torch.arange(length)", "place = torch.arange(length).flip(0)"),
)
slip(
    "at the end",
    "Shorter rows are put at the **end** of the result. They begin at place 0, and the zeros "
    "follow.",
    ("rows[b, :length]", "rows[b, rows.shape[1] - length :]"),
)


@mistake(
    "All rows come out **joined end to end**. Each row of the batch has its own row in the result, "
    "(B, longest, Hkv, D).",
    name="one long row",
)
def joined(pages, block_table, lengths):
    found = gather(pages, block_table, lengths)
    return torch.cat([row[:length] for row, length in zip(found, lengths.tolist(), strict=True)])


@mistake(
    "The result is a **list** of rows. Asked for is one tensor, (B, longest, Hkv, D), with zeros "
    "after the end of the shorter ones.",
    name="a list of rows",
)
def listed(pages, block_table, lengths):
    found = gather(pages, block_table, lengths)
    return [row[:length] for row, length in zip(found, lengths.tolist(), strict=True)]


@mistake(
    "Whole pages are copied, **up to their last slot**: after the end of a row come cells that "
    "nobody has written. They must be 0.",
    name="the last page in full",
)
def last_page_in_full(pages, block_table, lengths):
    page_size, found = pages.shape[1], gather(pages, block_table, lengths)
    for b, length in enumerate(lengths.tolist()):
        end = min(-(-length // page_size) * page_size, found.shape[1])
        for place in range(length, end):
            found[b, place] = pages[block_table[b, place // page_size], place % page_size]
    return found


@mistake(
    "The end of a shorter row is cleared by **multiplying with 0**. What lies there may be NaN, "
    "and 0 · NaN is NaN: put a 0 there instead.",
    name="multiplied by the mask",
)
def times_mask(pages, block_table, lengths):
    page_size, place = pages.shape[1], torch.arange(int(lengths.max()))
    page = block_table[:, place // page_size].long().clamp(0, len(pages) - 1)
    exists = (place < lengths[:, None])[..., None, None]
    return pages[page, place % page_size] * exists.to(pages.dtype)


@mistake(
    "The end of a shorter row is found **by its NaN**. An old key may be left there: `lengths` "
    "says what exists.",
    name="NaN dropped, lengths ignored",
)
def by_nan(pages, block_table, lengths):
    page_size, place = pages.shape[1], torch.arange(int(lengths.max()))
    page = block_table[:, place // page_size].long().clamp(0, len(pages) - 1)
    found = pages[page, place % page_size]
    return torch.where(found.isnan(), torch.zeros_like(found), found)


GATHER = Exercise.of(
    __name__,
    "12.1 gather",
    title="Gather by block table",
    section=TABLE,
)

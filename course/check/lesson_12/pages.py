"""Exercise 12.2: who holds which page. What is asked of it is in `pages_seen`."""

from course.check.draw import integer
from course.check.lesson_12 import pages_mistakes  # noqa: F401  (more of what people do)
from course.check.lesson_12.free_list import WithAFreeList
from course.check.lesson_12.pages_seen import APPEND, FORK, FREE, a_day, seen
from course.check.spec import Exercise, also_right, holds, right, slip

COUNTS = "3 · Who holds a page"
COPIES = "4 · Fork now, copy when you write"


@right
class Pages:
    def __init__(self, num_pages, page_size):
        self.page_size = page_size
        self.references = [0] * num_pages  # how many sequences hold each page
        self.tables, self.lengths = {}, {}  # by sequence: its pages, and how many tokens it has

    def take(self):
        if 0 not in self.references:
            raise MemoryError("every page is held")
        page = self.references.index(0)
        self.references[page] = 1
        return page

    def append(self, seq):
        table, length = self.tables.get(seq, []), self.lengths.get(seq, 0)
        slot, copied = length % self.page_size, None
        if slot == 0:  # the last page is full, or there is none
            table = [*table, self.take()]
        elif self.references[table[-1]] > 1:
            copied, own = table[-1], self.take()
            table = [*table[:-1], own]
            self.references[copied] -= 1
        self.tables[seq], self.lengths[seq] = table, length + 1
        return table[-1], slot, copied

    def fork(self, seq, new):
        for page in self.tables[seq]:
            self.references[page] += 1
        self.tables[new], self.lengths[new] = list(self.tables[seq]), self.lengths[seq]

    def free(self, seq):
        for page in self.tables.pop(seq):
            self.references[page] -= 1
        del self.lengths[seq]


also_right(WithAFreeList)


@holds("pages of two: three tokens of a, one of b")
def by_hand(answer, rng):
    return seen(answer, 4, 2, [(APPEND, "a")] * 3 + [(APPEND, "b")])


@holds("a page is taken when a token needs it, and not before", see=COUNTS)
def when_needed(answer, rng):
    return [
        *seen(answer, 6, 1, [(APPEND, "a")] * 3),
        *seen(answer, 6, integer(rng, 3, 5), [(APPEND, "a")] * 7 + [(APPEND, "b")] * 2),
    ]


@holds("free: the pages can be taken again", see=COUNTS)
def given_back(answer, rng):
    n = integer(rng, 3, 4)
    ops = [(APPEND, "a")] * n + [(APPEND, "b")] * 2 + [(FREE, "a")]
    return seen(answer, 4, 2, ops + [(APPEND, "c")] * 4 + [(APPEND, "b")] + [(FREE, "b")])


@holds("fork: the same pages, held twice; nothing is taken", see=COPIES)
def shared(answer, rng):
    n = integer(rng, 3, 5)
    return seen(answer, 6, 2, [(APPEND, "a")] * n + [(FORK, "a", "b"), (FORK, "b", "c")])


@holds("a shared page that is not full is copied before it is written", see=COPIES)
def copy_on_write(answer, rng):
    ops = [(APPEND, "a")] * integer(rng, 5, 6) + [(FORK, "a", "b"), (APPEND, "b"), (APPEND, "a")]
    return seen(answer, 6, 4, [*ops, (APPEND, "b"), (APPEND, "a")])


@holds("a full page is shared for good, and never copied", see=COPIES)
def full_pages(answer, rng):
    ops = [(APPEND, "a")] * 4 + [(FORK, "a", "b"), (APPEND, "b"), (APPEND, "a"), (APPEND, "b")]
    return seen(answer, 6, 2, ops)


@holds("one of two holders is freed: the other one keeps its tokens", see=COPIES)
def one_of_two(answer, rng):
    ops = [(APPEND, "a")] * 3 + [(FORK, "a", 0), (FREE, "a"), (APPEND, 0), (APPEND, "c")]
    return seen(answer, 5, 2, [*ops, (APPEND, 0), (FREE, 0), (APPEND, "c"), (APPEND, "c")])


@holds("three hold one page: two copies, then the last one writes in place", see=COPIES)
def three_holders(answer, rng):
    a, b, c = "a", 0, ("c", 1)
    forked = [(APPEND, a)] * integer(rng, 1, 3) + [(FORK, a, b), (FORK, b, c)]
    last = [(APPEND, a), (APPEND, b), (FREE, b), (APPEND, c), (FREE, a)]
    return [
        *seen(answer, 5, 4, [*forked, (APPEND, c), (APPEND, b), (APPEND, a), (APPEND, c)]),
        *seen(answer, 5, 4, [*forked, (FREE, a), (APPEND, c), (APPEND, b)]),
        *seen(answer, 5, 4, [*forked, (FREE, c), *last]),
    ]


@holds("no page is free: MemoryError, and nothing has changed", see=COUNTS)
def none_left(answer, rng):
    ops = [(APPEND, "a")] * 4 + [(APPEND, "b")] * 2 + [(APPEND, "a"), (APPEND, "c")]
    forked = [(APPEND, "a")] * 3 + [(FORK, "a", "b"), (APPEND, "b"), (APPEND, "a")]
    return [
        *seen(answer, 3, 2, [*ops, (FREE, "b"), (APPEND, "a"), (APPEND, "a"), (FREE, "a")]),
        *seen(answer, 2, 2, [*forked, (FREE, "b"), (APPEND, "a"), (FREE, "a"), (APPEND, "c")]),
    ]


@holds("sixty operations, one after the other")
def a_long_day(answer, rng):
    page_size = integer(rng, 2, 3)
    return seen(answer, 9, page_size, a_day(rng, 60, 9, page_size))


slip(
    "fork does not count",
    "`fork` **does not count** the new holder: as soon as one of the two is freed, or writes, the "
    "other one loses its pages.",
    ("            self.references[page] += 1\n        self", "            pass\n        self"),
    see=COPIES,
)
slip(
    "one table for both",
    "After `fork` both sequences have **one and the same list** as their table: when one of them "
    "grows, so does the other. Copy the list; the pages stay shared.",
    ("list(self.tables[seq])", "self.tables[seq]"),
    ("            table = [*table, self.take()]", "            table.append(self.take())"),
    ("            table = [*table[:-1], own]", "            table[-1] = own"),
    see=COPIES,
)
slip(
    "written in place",
    "A **shared page is written in place**: the new token also appears in the other sequence, or "
    "overwrites its own. Who else holds the page?",
    ("self.references[table[-1]] > 1", "False"),
    see=COPIES,
)
slip(
    "always copied",
    "The last page is copied **even if nobody else holds it**. Copy only what is shared.",
    ("self.references[table[-1]] > 1", "self.references[table[-1]] > 0"),
    see=COPIES,
)
slip(
    "full pages copied",
    "**Full pages are copied as well** when a sequence that shares them goes on. Nobody writes "
    "them again, so they can stay shared.",
    (
        "            table = [*table, self.take()]",
        "            table = [*table, self.take()]\n"
        "            if len(table) > 1 and self.references[table[-2]] > 1:\n"
        "                copied = table[-2]",
    ),
    see=COPIES,
)
slip(
    "the copied page is kept",
    "After a copy the sequence still counts as a **holder of the old page**, which is then never "
    "free again. Take one reference away.",
    ("            self.references[copied] -= 1\n", ""),
    see=COPIES,
)
slip(
    "the copied page is freed",
    "After a copy the old page counts as **held by nobody**, though the other sequence still has "
    "it. Take one reference away, not all.",
    ("self.references[copied] -= 1", "self.references[copied] = 0"),
    see=COPIES,
)
slip(
    "the copy is not told",
    "The sequence gets a page of its own, but `copied` is **None**: nobody copies the tokens that "
    "it had in the old page.",
    ("return table[-1], slot, copied", "return table[-1], slot, None"),
    see=COPIES,
)
slip(
    "the new page as the copied one",
    "`copied` is the **new** page. It says where to copy *from*.",
    ("return table[-1], slot, copied", "return table[-1], slot, copied and table[-1]"),
    ("copied, own = table[-1], self.take()", "copied, own = table[-1] + 0.0, self.take()"),
    ("self.references[copied]", "self.references[int(copied)]"),
    see=COPIES,
)
slip(
    "fork takes new pages",
    "`fork` **takes pages of its own**. It should share those that are there: the copy comes when "
    "somebody writes, if ever.",
    ("            self.references[page] += 1\n        self", "            pass\n        self"),
    ("list(self.tables[seq])", "[self.take() for _ in self.tables[seq]]"),
    see=COPIES,
)
slip(
    "fork counts the last page only",
    "`fork` counts a new holder for the **last page only**. Both sequences hold all of them.",
    (
        "for page in self.tables[seq]:\n            self.references[page] += 1",
        "for page in self.tables[seq][-1:]:\n            self.references[page] += 1",
    ),
    see=COPIES,
)
slip(
    "fork begins at 0",
    "The forked sequence has the pages, but a **length of 0**: it overwrites what it shares.",
    (", self.lengths[seq]\n", ", 0\n"),
    see=COPIES,
)
slip(
    "free takes the page from everybody",
    "`free` sets the count **to 0**, whoever else holds the page. Take one holder away.",
    ("for page in self.tables.pop(seq):\n            self.references[page] -= 1",
     "for page in self.tables.pop(seq):\n            self.references[page] = 0"),
    see=COUNTS,
)  # fmt: skip
slip(
    "free gives nothing back",
    "`free` forgets the sequence but **gives no page back**: soon there are none left.",
    ("for page in self.tables.pop(seq):\n            self.references[page] -= 1",
     "for page in self.tables.pop(seq):\n            pass"),
    see=COUNTS,
)  # fmt: skip
slip(
    "free gives one page back",
    "`free` gives back **the last page only**. The sequence held all of its table.",
    ("in self.tables.pop(seq):", "in self.tables.pop(seq)[-1:]:"),
    see=COUNTS,
)
slip(
    "shared pages are never given back",
    "`free` takes its holder away **only from pages that nobody shares**: a page that two held is "
    "never free again.",
    (
        "for page in self.tables.pop(seq):\n            self.references[page] -= 1",
        "for page in self.tables.pop(seq):\n"
        "            if self.references[page] == 1:\n"
        "                self.references[page] = 0",
    ),
    see=COUNTS,
)
slip(
    "the table stays",
    "After `free` the sequence is **still in `tables`**, or in `lengths`: it must be gone from "
    "both.",
    ("in self.tables.pop(seq):", "in self.tables[seq]:"),
    ("        del self.lengths[seq]\n", ""),
    see=COUNTS,
)
slip(
    "taken without counting",
    "`take` hands a page out **without counting its holder**: the next one gets the same page.",
    ("        self.references[page] = 1\n        return", "        return"),
    see=COUNTS,
)
slip(
    "a count as the next page",
    "The next page is the **number of pages in use**. Once pages have been given back, that one "
    "may be held: look for a page that nobody holds.",
    ("self.references.index(0)", "sum(n > 0 for n in self.references)"),
    see=COUNTS,
)
slip(
    "another kind of error",
    "It notices that no page is free, but must raise a **MemoryError**: callers catch that one.",
    ('MemoryError("every page is held")', 'IndexError("every page is held")'),
    see=COUNTS,
)
slip(
    "no page as an answer",
    "When no page is free, the answer is **-1 or the like** instead of an error, and the token "
    "goes into a page that does not exist, or belongs to somebody.",
    ('raise MemoryError("every page is held")', "return -1"),
    see=COUNTS,
)
slip(
    "the last page is never used",
    "A MemoryError comes **while a page is still free**.",
    ("0 not in self.references", "self.references.count(0) < 2"),
    see=COUNTS,
)
slip(
    "counted before there was a page",
    "After a MemoryError the sequence is **a token longer** than before. First take the page, then "
    "change anything.",
    ("        slot, copied =", "        self.lengths[seq] = length + 1\n        slot, copied ="),
    see=COUNTS,
)
slip(
    "released before there was a page",
    "After a MemoryError the shared page has **lost a holder**. First take the new page, then let "
    "go of the old one.",
    (
        "copied, own = table[-1], self.take()",
        "copied = table[-1]\n            self.references[copied] -= 1\n"
        "            own = self.take()",
    ),
    ("            table = [*table[:-1], own]\n            self.references[copied] -= 1\n",
     "            table = [*table[:-1], own]\n"),
    see=COPIES,
)  # fmt: skip
slip(
    "a page for every token",
    "Every token gets **a page of its own**. A page has page_size slots; take one when the last is "
    "full.",
    ("if slot == 0:", "if True:"),
    see=COUNTS,
)
slip(
    "slots never begin anew",
    "The slot is **the place in the sequence**. In each page slots are counted anew.",
    ("return table[-1], slot, copied", "return table[-1], length, copied"),
    see=COUNTS,
)
slip(
    "slots from 1",
    "The slots are counted **from 1**. They count from 0, as everything here does.",
    ("return table[-1], slot, copied", "return table[-1], slot + 1, copied"),
    see=COUNTS,
)
slip(
    "the length stays",
    "The **length does not grow**: every token goes to the same slot.",
    ("= table, length + 1", "= table, length"),
    see=COUNTS,
)
slip(
    "the first page decides",
    "Whether a copy is needed is asked of the **first page** of the table, or of any. It is the "
    "last one that is going to be written.",
    ("self.references[table[-1]] > 1", "self.references[table[0]] > 1"),
    see=COPIES,
)

PAGES = Exercise.of(
    __name__,
    "12.2 pages",
    title="Allocate, fork and free",
    section=COPIES,
)

"""What exercise 12.2 sees of an allocator: a script of operations, and what came of each.

Beside the allocator there is a memory, to which the check writes every token where `append` says,
and copies pages where it says so. What a sequence then *reads* is compared, not the numbers of its
pages: which free page is taken is up to the answer.
"""

import contextlib

from course.check.draw import integer
from course.check.seen import Seen
from reference.paging import OutOfPages, PageTables

APPEND, FORK, FREE = "append", "fork", "free"
REFUSED = "MemoryError"
NONE = "not there"


def seen(answer, num_pages, page_size, ops):
    """Run the script on the answer and on the right one; an observation per operation.

    An error after something else has gone wrong ends the script: it comes of that, and is not told.
    """
    got = Watcher(answer, num_pages, page_size)
    wanted = Watcher(Reference, num_pages, page_size)
    found, told = [], []
    for op in ops:
        told.append(f"{op[0]}({', '.join(map(repr, op[1:]))})")
        done = told if len(told) < 9 else ["…", *told[-8:]]
        given = f"{num_pages} pages of {page_size}: {' '.join(done)}"
        try:
            right = wanted.run(op)
            happened = got.run(op, refused=right[op[0]] == REFUSED)
        except Exception as error:
            if any(one.got != one.wanted for one in found):
                return found
            error.add_note(given)
            raise
        found.append(Seen(*differing(happened, right), given + got.error))
    return found


def differing(got, wanted):
    """Return of both only the parts that differ; a long text from a few words before that on."""
    if got == wanted:
        return got, wanted
    parts = [part for part in {**wanted, **got} if got.get(part) != wanted.get(part)]
    pairs = {part: _from_there(got.get(part, NONE), wanted.get(part, NONE)) for part in parts}
    return tuple({part: pair[i] for part, pair in pairs.items()} for i in (0, 1))


def _from_there(*texts):
    words = [str(text).split() for text in texts]
    pairs = zip(*words, strict=False)
    first = next((i for i, (x, y) in enumerate(pairs) if x != y), min(map(len, words)))
    if first < 8:
        return texts
    return tuple(" ".join(["…", *some[first - 2 :]]) for some in words)


def a_day(rng, count, num_pages, page_size):
    """Return `count` random operations, none of them on a sequence that is not there."""
    ops, right = [], Reference(num_pages, page_size)
    for i in range(count):
        live, what = [*right.ids], integer(rng, 0, 9)
        some = live[integer(rng, 0, len(live) - 1)] if live else ""
        if not live or what == 0 or (what < 3 and len(live) < 2):
            op = APPEND, f"s{i}"
        elif what < 7:
            op = APPEND, some
        else:
            op = (FORK, some, f"s{i}") if what == 7 and len(live) < 5 else (FREE, some)
        with contextlib.suppress(MemoryError):
            getattr(right, op[0])(*op[1:])
        ops.append(op)
    return ops


class Reference:
    """`reference.paging.PageTables` in the words of the exercise."""

    def __init__(self, num_pages, page_size):
        self.paged, self.ids = PageTables(num_pages, page_size), {}

    @property
    def references(self):
        return self.paged.pool.references

    @property
    def tables(self):
        return {seq: [*self.paged.pages(i)] for seq, i in self.ids.items()}

    @property
    def lengths(self):
        return {seq: self.paged.length(i) for seq, i in self.ids.items()}

    def append(self, seq):
        i = self.ids[seq] if seq in self.ids else self.paged.new()
        length = self.paged.length(i)
        try:
            copies = self.paged.reserve([i], 1)
        except OutOfPages:
            raise MemoryError from None
        self.ids[seq] = i
        self.paged.set_length(i, length + 1)
        copied = copies[0].source if copies else None
        return self.paged.pages(i)[-1], length % self.paged.page_size, copied

    def fork(self, seq, new):
        self.ids[new] = self.paged.fork(self.ids[seq])

    def free(self, seq):
        self.paged.free(self.ids.pop(seq))


class Watcher:
    """An allocator, and the memory that its pages stand for."""

    def __init__(self, make, num_pages, page_size):
        self.of, self.size = make(num_pages, page_size), page_size
        self.error = ""  # what was raised in place of a MemoryError, as a report tells it
        self.memory, self.tokens = {}, 0  # (page, slot): what was written there

    def run(self, op, refused=False):
        """Carry out one operation; say what it did, who reads what, and who holds how much.

        refused: a MemoryError is due; any other error is noted as another one, whatever it says.
        """
        what, *seqs = op
        try:
            said = self.append(*seqs) if what == APPEND else getattr(self.of, what)(*seqs)
        except MemoryError:
            said = REFUSED
        except Exception as error:
            if not refused:
                raise
            said, self.error = "another error", f"; it raised {type(error).__name__}: {error}"
        counts = sorted((int(n) for n in self.of.references if n), reverse=True)
        return {
            what: said if isinstance(said, str) else "done",
            **{f"{seq!r} reads": self.read(seq) for seq in self.of.tables},
            **{f"the length of {seq!r}": str(int(n)) for seq, n in self.of.lengths.items()},
            "holders of the pages in use": str(counts),
        }

    def append(self, seq):
        """Append, and write the token where it was told to; returns in words where that is."""
        before = [*self.of.tables.get(seq, ())]
        held = {page for page, n in enumerate(self.of.references) if n}
        place = self.of.append(seq)
        if not isinstance(place, (tuple, list)) or len(place) != 3:
            return f"returned {place!r}, not (page, slot, copied)"
        page, slot, copied = place
        if copied is not None:
            for i in range(self.size):
                if (copied, i) in self.memory:
                    self.memory[page, i] = self.memory[copied, i]
        self.tokens += 1
        self.memory[page, slot] = self.tokens
        last = before[-1] if before else None
        kind = (
            "its last page" if page == last else "a page in use" if page in held else "a new page"
        )
        source = "its last page" if copied == last else "another page"
        return f"slot {slot} of {kind}, copied: {'nothing' if copied is None else source}"

    def read(self, seq):
        """The tokens of a sequence, as its table leads to them."""
        cells = (divmod(i, self.size) for i in range(int(self.of.lengths.get(seq, 0))))
        table = self.of.tables[seq]
        read = [self.memory.get((table[i], j), "?") if i < len(table) else "?" for i, j in cells]
        return " ".join(map(str, read)) or "nothing"

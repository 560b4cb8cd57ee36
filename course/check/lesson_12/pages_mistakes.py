"""More that people get wrong in exercise 12.2; `pages` has the rest."""

from course.check.lesson_12.free_list import WithAFreeList
from course.check.spec import slip

COUNTS = "3 · Who holds a page"
COPIES = "4 · Fork now, copy when you write"

RETURNED = "return table[-1], slot, copied"
KEPT = "        self.tables[seq], self.lengths[seq] = table, length + 1\n        " + RETURNED
COUNTED = "            self.references[page] += 1\n        self.tables[new], self.lengths[new] = "
RELEASED = "            if not self.references[page]:\n                self.unused.append(page)"
ORDER = "The three values come **as ({})**. Asked for is (page, slot, copied)."

slip(
    "one holder left, always",
    "After a copy the old page counts as held by **one** sequence. There may have been three: take "
    "one reference away.",
    ("self.references[copied] -= 1", "self.references[copied] = 1"),
    see=COPIES,
)
slip(
    "two holders and no more",
    "A page is copied only if **exactly two** sequences hold it. After two forks there are three.",
    ("self.references[table[-1]] > 1", "self.references[table[-1]] == 2"),
    see=COPIES,
)
slip(
    "page 0 is never named",
    "When the copied page is **page 0**, the answer is None. 0 is a page like any other, but in "
    "Python it counts as false.",
    (RETURNED, "return table[-1], slot, (copied or None)"),
    see=COPIES,
)
slip(
    "free leaves one holder",
    "`free` sets the count **to 1** if somebody else holds the page. There may be more: take one "
    "holder away.",
    ("for page in self.tables.pop(seq):\n            self.references[page] -= 1",
     "for page in self.tables.pop(seq):\n"
     "            self.references[page] = int(self.references[page] > 1)"),
    see=COUNTS,
)  # fmt: skip
slip(
    "one table, two lengths",
    "After `fork` both sequences have **one and the same list** as their table: one writes into "
    "the page that the other has taken. Copy the list; the pages stay shared.",
    ("list(self.tables[seq])", "self.tables[seq]"),
    ("if slot == 0:", "if length == len(table) * self.page_size:"),
    ("            table = [*table, self.take()]", "            table.append(self.take())"),
    ("            table = [*table[:-1], own]", "            table[-1] = own"),
    see=COPIES,
)
slip(
    "begun before there was a page",
    "After a MemoryError there is a **new sequence without a page**. First take the page, then "
    "enter the sequence.",
    (
        "        slot, copied =",
        "        self.tables[seq], self.lengths[seq] = table, length\n        slot, copied =",
    ),
    see=COUNTS,
)
slip(
    "None as a page",
    "When no page is free, `take` returns **None** instead of raising an error, and the token goes "
    "nowhere.",
    ('raise MemoryError("every page is held")', "return None"),
    see=COUNTS,
)
slip(
    "the length stays after free",
    "After `free` the sequence is **still in `lengths`**: it must be gone from both.",
    ("        del self.lengths[seq]\n", ""),
    see=COUNTS,
)
slip(
    "the table stays after free",
    "After `free` the sequence is **still in `tables`**: it must be gone from both.",
    ("in self.tables.pop(seq):", "in self.tables[seq]:"),
    see=COUNTS,
)
slip(
    "taken too early",
    "The next page is taken **as soon as one is full**. Perhaps no token ever comes: take it when "
    "one does.",
    ("if slot == 0:", "if not table:"),
    (KEPT, "        page = table[-1]\n"
     "        self.tables[seq], self.lengths[seq] = table, length + 1\n"
     "        if (length + 1) % self.page_size == 0:\n"
     "            self.tables[seq] = [*table, self.take()]\n        return page, slot, copied"),
    see=COUNTS,
)  # fmt: skip
slip(
    "the slot after this one",
    "The slot is found from the length **after** the new token has been counted. Its place is the "
    "length before.",
    (RETURNED, "return table[-1], self.lengths[seq] % self.page_size, copied"),
    see=COUNTS,
)
slip(
    "the first page is copied",
    "What is copied is the **first page** of the table. The one that is going to be written is the "
    "last.",
    ("copied, own = table[-1]", "copied, own = table[0]"),
    ("table = [*table[:-1], own]", "table = [own, *table[1:]]"),
    see=COPIES,
)
slip(
    "all shared pages copied",
    "**Every shared page** of the sequence is replaced, not only the last. The full ones are never "
    "written again, so they can stay shared.",
    (
        "            copied, own = table[-1], self.take()\n"
        "            table = [*table[:-1], own]\n"
        "            self.references[copied] -= 1\n",
        "            copied, table = table[-1], [*table]\n"
        "            for i, page in enumerate(table):\n"
        "                if self.references[page] > 1:\n"
        "                    table[i] = self.take()\n"
        "                    self.references[page] -= 1\n",
    ),
    see=COPIES,
)
slip(
    "full, and copied instead of a new page",
    "A **full page** that is shared is copied, and the token overwrites its slot 0. At slot 0 a "
    "new page begins, whoever shares the others.",
    ("if slot == 0:", "if slot == 0 and not (table and self.references[table[-1]] > 1):"),
    see=COPIES,
)
slip(
    "full, and copied before a new page",
    "A **full page** that is shared is copied before the next one is taken. Nobody writes it "
    "again, so it can stay shared.",
    (
        "            table = [*table, self.take()]",
        "            if table and self.references[table[-1]] > 1:\n"
        "                copied, own = table[-1], self.take()\n"
        "                self.references[copied] -= 1\n"
        "                table = [*table[:-1], own]\n"
        "            table = [*table, self.take()]",
    ),
    see=COPIES,
)
slip(
    "slot, page, copied",
    ORDER.format("slot, page, copied"),
    (RETURNED, "return slot, table[-1], copied"),
)
slip(
    "copied, page, slot",
    ORDER.format("copied, page, slot"),
    (RETURNED, "return copied, table[-1], slot"),
)
slip(
    "page, copied, slot",
    ORDER.format("page, copied, slot"),
    (RETURNED, "return table[-1], copied, slot"),
)
slip(
    "page and slot only",
    "`append` returns **two values**. There are three: (page, slot, copied).",
    (RETURNED, "return table[-1], slot"),
)
slip(
    "-1 for nothing",
    "When nothing has to be copied, `copied` is **-1**. It must be None.",
    ("% self.page_size, None", "% self.page_size, -1"),
    see=COPIES,
)
slip(
    "fork copies the last page",
    "`fork` takes a page **at once** for the copy of the last one. It takes none: the copy comes "
    "when somebody writes, if ever.",
    ("in self.tables[seq]:\n" + COUNTED + "list(self.tables[seq])",
     "in self.tables[seq][:-1]:\n" + COUNTED + "[*self.tables[seq][:-1], self.take()]"),
    see=COPIES,
)  # fmt: skip
slip(
    "fork counts to two",
    "`fork` sets the count **to 2**. A sequence may be forked again: add one holder.",
    ("self.references[page] += 1\n        self", "self.references[page] = 2\n        self"),
    see=COPIES,
)
slip(
    "fork counts by entry",
    "`fork` counts at the **numbers of the entries**, 0, 1, 2 …, and not at the pages that they "
    "name.",
    ("for page in self.tables[seq]:\n", "for page in range(len(self.tables[seq])):\n"),
    see=COPIES,
)
slip(
    "fork moves",
    "`fork` **takes the pages away** from the sequence that it forks. Afterwards both must have "
    "them.",
    ("list(self.tables[seq]), self.lengths[seq]", "self.tables.pop(seq), self.lengths.pop(seq)"),
    see=COPIES,
)
slip(
    "fork drops the last page",
    "`fork` shares **full pages only**, and the tokens of the last page are missing. Share all "
    "pages: the copy comes when somebody writes.",
    ("for page in self.tables[seq]:\n", "n = self.lengths[seq] // self.page_size\n"
     "        for page in self.tables[seq][:n]:\n"),
    ("list(self.tables[seq]), self.lengths[seq]", "self.tables[seq][:n], n * self.page_size"),
    see=COPIES,
)  # fmt: skip
slip(
    "fork fills the last page",
    "The forked sequence counts its last page as **full**. It has as many tokens as the one that "
    "it came from.",
    (", self.lengths[seq]\n", ", len(self.tables[seq]) * self.page_size\n"),
    see=COPIES,
)
slip(
    "a new page counted twice",
    "A page that begins anew is counted **twice**: `take` has counted its first holder already.",
    ("self.take()]\n", "self.take()]\n            self.references[table[-1]] += 1\n"),
    see=COUNTS,
)
slip(
    "the copy counted twice",
    "The page of a copy is counted **twice**: `take` has counted its first holder already.",
    ("            self.references[copied] -= 1\n",
     "            self.references[copied] -= 1\n            self.references[own] += 1\n"),
    see=COPIES,
)  # fmt: skip
slip(
    "the copy after the old page",
    "The page of a copy is put **after** the shared one. It takes its place in the table.",
    ("[*table[:-1], own]", "[*table, own]"),
    see=COPIES,
)
slip(
    "a new page in place of a copy",
    "Where a copy is due, the token gets a **new page after** the shared one, which has free slots "
    "still. The new page must take its place, with its tokens.",
    ("if slot == 0:", "if slot == 0 or self.references[table[-1]] > 1:"),
    see=COPIES,
)
slip(
    "a copied token not counted",
    "The length **does not grow** when a page is copied. There is a new token then, too.",
    ("= table, length + 1", "= table, length + (copied is None)"),
    see=COPIES,
)
slip(
    "True or False for the copied page",
    "`copied` is **True or False**. It must be the number of the page to copy from, or None.",
    (RETURNED, "return table[-1], slot, copied is not None"),
    see=COPIES,
)
slip(
    "copied from itself",
    "`copied` is the page itself **where nothing has to be copied**. It must be None.",
    (RETURNED, "return table[-1], slot, table[-1] if copied is None else copied"),
    see=COPIES,
)
slip(
    "the last page as copied, always",
    "`copied` is **always** the page that was the last one. It must be None, unless the token goes "
    "into a page that another sequence holds as well.",
    ("% self.page_size, None", "% self.page_size, table[-1] if table else None"),
    see=COPIES,
)
slip(
    "the full page as copied",
    "When a new page begins, `copied` names the **full page before it**. Nothing has to be copied "
    "then.",
    ("if slot == 0:", "if slot == 0 and (copied := table[-1] if table else None, True)[1]:"),
    see=COPIES,
)
slip(
    "an entry for the page",
    "`append` returns the **number of the entry** in the table. Asked for is the page that it "
    "names.",
    (RETURNED, "return len(table) - 1, slot, copied"),
    see=COUNTS,
)
slip(
    "an entry for the copied page",
    "`copied` is the **number of the entry** in the table. Asked for is the page that it named.",
    (RETURNED, "return table[-1], slot, None if copied is None else len(table) - 1"),
    see=COPIES,
)
slip(
    "a slot too far",
    "The slot is found from the length **plus one**. Slots are counted from 0: the token after 3 "
    "others has place 3.",
    ("length % self.page_size, None", "(length + 1) % self.page_size, None"),
    see=COUNTS,
)
slip(
    "a table without a length",
    "After a MemoryError there is a **new sequence without a page** in `tables`. First take the "
    "page, then enter the sequence.",
    ("self.tables.get(seq, [])", "self.tables.setdefault(seq, [])"),
    see=COUNTS,
)
slip(
    "free leaves an empty table",
    "After `free` the sequence has an **empty table** and a length of 0. It must be gone from both "
    "dictionaries.",
    ("in self.tables.pop(seq):", "in self.tables[seq]:"),
    ("del self.lengths[seq]", "self.tables[seq], self.lengths[seq] = [], 0"),
    see=COUNTS,
)
slip(
    "free counts by entry",
    "`free` counts at the **numbers of the entries**, 0, 1, 2 …, and not at the pages that they "
    "name.",
    ("for page in self.tables.pop(seq):\n", "for page in range(len(self.tables.pop(seq))):\n"),
    see=COUNTS,
)
slip(
    "held, and in the list of free pages",
    "`free` puts **every page** of the sequence back among the free ones. Others may hold it: put "
    "it back when the last holder is gone.",
    (RELEASED, "            self.unused.append(page)"),
    see=COUNTS,
    of=WithAFreeList,
)
slip(
    "not in the list of free pages again",
    "`free` counts the holder out, but a page that nobody holds **cannot be taken again**.",
    (RELEASED + "\n", ""),
    see=COUNTS,
    of=WithAFreeList,
)
slip(
    "one list for both tables",
    "After `fork` both sequences have **one list** as their table: a page that one of them takes "
    "is in the other's table, too. Copy the list; the pages stay shared.",
    ("[*self.tables[seq]]", "self.tables[seq]"),
    see=COPIES,
    of=WithAFreeList,
)
slip(
    "a token too many after an error",
    "After a MemoryError the length has **already grown**. First take the page, then change "
    "anything.",
    ("        copied = None\n", "        copied = None\n        self.lengths[seq] += 1\n"),
    ("-= 1\n        self.lengths[seq] += 1\n", "-= 1\n"),
    see=COUNTS,
    of=WithAFreeList,
)

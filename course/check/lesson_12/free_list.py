"""Exercise 12.2 with the free pages in a list: right as well, and other pages are taken."""


class WithAFreeList:
    """Free pages in a list, the one released last is taken first."""

    def __init__(self, num_pages, page_size):
        self.page_size, self.references = page_size, [0] * num_pages
        self.unused, self.tables, self.lengths = list(range(num_pages)), {}, {}

    def take(self):
        try:
            page = self.unused.pop()
        except IndexError:
            raise MemoryError from None
        self.references[page] += 1
        return page

    def append(self, seq):
        if seq not in self.tables:
            page = self.take()
            self.tables[seq], self.lengths[seq] = [page], 1
            return page, 0, None
        table, (entry, slot) = self.tables[seq], divmod(self.lengths[seq], self.page_size)
        copied = None
        if entry == len(table):
            table.append(self.take())
        elif self.references[table[entry]] > 1:
            own = self.take()
            copied, table[entry] = table[entry], own
            self.references[copied] -= 1
        self.lengths[seq] += 1
        return table[entry], slot, copied

    def fork(self, seq, new):
        self.tables[new], self.lengths[new] = [*self.tables[seq]], self.lengths[seq]
        for page in self.tables[new]:
            self.references[page] += 1

    def free(self, seq):
        for page in self.tables[seq]:
            self.references[page] -= 1
            if not self.references[page]:
                self.unused.append(page)
        del self.tables[seq], self.lengths[seq]

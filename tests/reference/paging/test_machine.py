"""Any sequence of operations on a paged cache: no page lost, none owned twice, contents right.

Hypothesis invents the operations. Beside the cache runs a model of it that could not be simpler: a
list of tokens for each sequence. Pages are poisoned with NaN when they are handed out.
"""

from collections import Counter

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from reference.kv_cache import cells_of
from reference.paging import OutOfPages, PagedKVCache, page_keys
from reference.transformer import Config

ONE = Config(layers=2, width=2, Hq=1, Hkv=1, D=2, hidden=1, context=1000)
TOKENS = st.lists(st.integers(0, 1), max_size=9)  # two tokens: prompts often begin alike


def written(tokens: list[int]) -> list[float]:
    """What the cache holds for each token: its number and, like a real K, all before it."""
    found, so_far = [], 1.0
    for token in tokens:
        so_far = (so_far * 3 + token + 1) % 65_521
        found.append(so_far)
    return found


class Machine(RuleBasedStateMachine):
    """Operations, and after each of them everything that must be true."""

    live = Bundle("live")

    @initialize(num_pages=st.integers(1, 16), page_size=st.integers(1, 4))
    def begin(self, num_pages, page_size):
        self.cache = PagedKVCache(ONE, num_pages, page_size, dtype=torch.float64, poison=True)
        self.tokens: dict[int, list[int]] = {}
        self.known: dict[bytes, list[float]] = {}

    @property
    def tables(self):
        return self.cache.tables

    @rule(target=live, prompt=TOKENS)
    def new(self, prompt):
        seq = self.cache.new(prompt)
        assert seq not in self.tokens
        found, size = self.tables.length(seq), self.tables.page_size
        assert found % size == 0 and found <= max(0, len(prompt) - 1)
        self.tokens[seq] = prompt[:found]
        keys = page_keys(prompt[: max(0, len(prompt) - 1)], size)
        if found // size < len(keys):  # it stopped where a page is not known, and not before
            assert not self.tables.pool.contains(keys[found // size])
        return seq

    @rule(seq=live, new=TOKENS)
    def append(self, seq, new):
        self._append([seq], [new])

    @rule(a=live, b=live, new=TOKENS, other=TOKENS)
    def append_to_two(self, a, b, new, other):
        if a != b:
            self._append([a, b], [new, (other + new)[: len(new)]])

    def _append(self, seqs, new):
        count, before = len(new[0]), self._state()
        wanted, available = self.tables.wanted(seqs, count), self.tables.pool.available
        try:
            self._write(seqs, new, count)
        except OutOfPages:
            assert wanted > available and self._state() == before
            return
        assert wanted <= available and self.tables.wanted(seqs, 0) == 0
        for seq, more in zip(seqs, new, strict=True):
            self.tokens[seq] = self.tokens[seq] + more

    def _write(self, seqs, new, count):
        """Through `attend`, as a model does it: each layer once, then the lengths."""
        rows, still = self.cache.batch(*seqs), (torch.ones(1000, 1), torch.zeros(1000, 1))
        k = torch.tensor([
            written(self.tokens[seq] + more)[len(self.tokens[seq]) :]
            for seq, more in zip(seqs, new, strict=True)
        ], dtype=torch.float64).view(len(seqs), count, 1, 1).expand(-1, -1, -1, 2)  # fmt: skip
        if count == 0:
            self.cache.reserve(seqs, 0)
        for layer in range(2 if count else 0):
            rows.attend(layer, k, k + layer, -k - layer, still, lambda q, *_, **__: q)
        rows.lengths = rows.lengths + count

    @rule(target=live, seq=live)
    def fork(self, seq):
        before = self.tables.pool.available
        child = self.cache.fork(seq)
        assert self.tables.pool.available == before  # nothing is copied
        self.tokens[child] = list(self.tokens[seq])
        return child

    @rule(target=live, seq=live, first=st.lists(st.integers(0, 1), min_size=1, max_size=3))
    def fork_and_part(self, seq, first):
        """A fork, and then both go on with other tokens: what copy on write is for."""
        child = self.fork(seq)
        self._append([seq, child], [first, [1 - token for token in first]])
        return child

    @rule(seq=live, count=st.integers(0, 9))
    def reserve_for_nothing(self, seq, count):
        """As if the model had failed after it: the pages stay with the sequence."""
        if self.tables.wanted([seq], count) <= self.tables.pool.available:
            self.cache.reserve([seq], count)

    @rule(seq=live, keep=st.floats(0, 1))
    def take_back(self, seq, keep):
        length = int(keep * len(self.tokens[seq]))
        self.tables.set_length(seq, length)
        self.tokens[seq] = self.tokens[seq][:length]

    @rule(seq=live)
    def record(self, seq):
        tokens = self.tokens[seq]
        if any(self._known_otherwise(page, key) for page, key in self._keys(seq)):
            return
        self.cache.record(seq, tokens)
        for i, (_, key) in enumerate(self._keys(seq)):
            size = self.tables.page_size
            self.known[key] = written(tokens)[i * size : (i + 1) * size]

    @rule(target=live, seq=consumes(live), more=st.lists(st.integers(0, 1), max_size=3))
    def end_and_ask_again(self, seq, more):
        """What serving is full of: a conversation ends, and its text comes back as a prompt."""
        self.record(seq)
        prompt = self.tokens[seq] + more
        self.free(seq)
        return self.new(prompt)

    @rule(seq=live, back=st.integers(1, 3))
    def rewrite_what_is_known(self, seq, back):
        """Tokens of a page that is known are taken back, and others come in their place."""
        self.record(seq)
        tokens = self.tokens[seq]
        keep = max(0, len(tokens) - back)
        others = [1 - token for token in tokens[keep:]]
        self.tables.set_length(seq, keep)
        self.tokens[seq] = tokens[:keep]
        self._append([seq], [others])

    def _keys(self, seq):
        keys = page_keys(self.tokens[seq], self.tables.page_size)
        return list(zip(self.tables.pages(seq), keys, strict=False))

    def _known_otherwise(self, page, key):
        return self.tables.pool.key_of(page) not in (None, key)

    @rule(seq=consumes(live))
    def free(self, seq):
        self.cache.free(seq)
        del self.tokens[seq]

    def _state(self):
        tables, pool = self.tables, self.tables.pool
        held = {seq: (tables.pages(seq), tables.length(seq)) for seq in tables.sequences}
        return held, list(pool.references), pool.free, pool.idle

    @invariant()
    def every_page_is_in_one_state_and_counted_right(self):
        pool = self.tables.pool
        holders = Counter(page for seq in self.tokens for page in self.tables.pages(seq))
        assert pool.references == [holders[page] for page in range(pool.num_pages)]
        assert sorted([*pool.free, *pool.idle, *holders]) == list(range(pool.num_pages))

    @invariant()
    def every_sequence_reads_its_own_tokens(self):
        assert self.tables.sequences == tuple(self.tokens)
        for seq, tokens in self.tokens.items():
            table = self.tables.block_table([seq])
            cells = cells_of(0, 0, len(tokens), self.cache.k[0], block_table=table)
            wanted = torch.tensor(written(tokens), dtype=torch.float64)[:, None, None].expand(
                -1, 1, 2
            )
            for layer in range(2):
                assert torch.equal(self.cache.k[layer][cells], wanted + layer)
                assert torch.equal(self.cache.v[layer][cells], -wanted - layer)

    @invariant()
    def a_known_page_contains_what_it_is_known_for(self):
        for page in range(self.tables.pool.num_pages):
            if (key := self.tables.pool.key_of(page)) is not None:
                wanted = torch.tensor(self.known[key], dtype=torch.float64)
                assert torch.equal(self.cache.k[0, page, :, 0, 0], wanted)

    @invariant()
    def nobody_shares_a_page_that_is_not_full_of_what_they_share(self):
        """Holders of one page agree on all tokens up to the end of what they have in it."""
        for a in self.tokens:
            for b in self.tokens:
                common = set(self.tables.pages(a)) & set(self.tables.pages(b))
                for page in common:
                    i = self.tables.pages(a).index(page)
                    assert self.tables.pages(b)[i] == page
                    end = min(len(self.tokens[a]), len(self.tokens[b]),
                              (i + 1) * self.tables.page_size)  # fmt: skip
                    assert self.tokens[a][:end] == self.tokens[b][:end]

    def teardown(self):
        for seq in list(getattr(self, "tokens", ())):
            self.cache.free(seq)
        if hasattr(self, "cache"):
            pool = self.tables.pool
            assert pool.available == pool.num_pages and not any(pool.references), "a page leaked"


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)

"""Where drafts come from: the text so far, or a smaller model.

    prompt look-up   find the last few tokens earlier in the text; draft what followed them there
    a model          let a smaller model of the same vocabulary write a few tokens
    a tree           let it write several continuations, the likeliest (or drawn) ones at each depth
    early exit       the smaller model is the first layers of the large one, with its norm and head

A draft is called as `draft(text, depth, generator)`: text is all tokens so far, and it returns a
`Tree` at most that deep, which may be empty. It may be wrong at will: what it says is checked. But
it must draw with the generator it is given (or be sure of its tokens), and say what it drew from.

Sources: Saxena 2023, "Prompt lookup decoding", github.com/apoorvumang/prompt-lookup-decoding; Yang
et al. 2023, "Inference with reference" (arXiv:2304.04487); early exit: Elhoushi et al. 2024,
"LayerSkip" (arXiv:2404.16710); several candidates per place: Miao et al. 2024, "SpecInfer".
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from reference.attention import attention_with_cache
from reference.generate import own_cache, prefill
from reference.paging.cache import Batch
from reference.speculative.acceptance import draw, probabilities
from reference.speculative.tree import ROOT, Tree
from reference.speculative.verify import run_tree
from reference.transformer import Attend, KVCache, Transformer

Draft = Callable[[Sequence[int], int, torch.Generator | None], Tree]
"""Called as `draft(text, depth, generator)`; returns a `Tree` at most `depth` deep."""


class PromptLookup:
    """Draft what followed the last few tokens of the text where they occurred before.

    longest, shortest: how many tokens are looked for, the most first. depth: how many are drafted.
    branches: from how many places, the latest first; more than one make a tree. Needs no model and
    no memory. Raises ValueError for sizes below 1, or shortest above longest.

    >>> PromptLookup(depth=2)([5, 1, 2, 3, 4, 1, 2], 8).tokens
    (3, 4)

    The text ends in 1, 2. That was there before, and 3, 4 came next.
    """

    def __init__(
        self, *, longest: int = 3, shortest: int = 1, depth: int = 8, branches: int = 1
    ) -> None:
        if not 1 <= shortest <= longest or depth < 1 or branches < 1:
            raise ValueError(
                "1 ≤ shortest ≤ longest, depth and branches at least 1 are wanted; got "
                f"{shortest}, {longest}, {depth}, {branches}"
            )
        self.longest, self.shortest, self.depth, self.branches = longest, shortest, depth, branches

    def __call__(
        self, text: Sequence[int], depth: int, generator: torch.Generator | None = None
    ) -> Tree:
        """The tree of what followed; empty if the text's end is new. Nothing is drawn."""
        paths, depth = [], min(depth, self.depth)
        for path in self._continuations(list(text), depth):
            if path not in paths:
                paths.append(path)
            if len(paths) == self.branches:
                break
        return Tree.of_paths(paths)

    def _continuations(self, text: list[int], depth: int) -> Iterator[list[int]]:
        """What followed where the end was before: the longest end first, the latest place first."""
        for n in range(min(self.longest, len(text) - 1), self.shortest - 1, -1):
            end = text[-n:]
            for start in range(len(text) - n - 1, -1, -1):
                if text[start] == end[0] and text[start : start + n] == end:
                    yield text[start + n : start + n + depth]


class _OfModel:
    """What drafts by a model share: the model, its own cache, and which text is in that cache."""

    def __init__(
        self,
        model: Transformer,
        *,
        temperature: float = 0.0,
        attend: Attend = attention_with_cache,
        make_cache: Callable[[int], KVCache | Batch] | None = None,
    ) -> None:
        if temperature < 0:
            raise ValueError(f"temperature must be at least 0; got {temperature}")
        capacity = model.config.context
        self.model, self.temperature, self.attend = model, temperature, attend
        self.cache = own_cache(model, capacity) if make_cache is None else make_cache(capacity)
        self._seen: list[int] = []

    def _catch_up(self, text: Sequence[int]) -> Tensor:
        """Read what is new in the text; return the logits (vocabulary,) after its last token.

        What was refused, or belongs to another text, is taken back first: the cache keeps what it
        has in common with the text, whose last token is always read, for its logits.
        """
        common = 0
        for ours, theirs in zip(self._seen, text[:-1], strict=False):
            if ours != theirs:
                break
            common += 1
        self._rewind(common)
        self._seen = list(text)
        return self._read(text[common:])

    def _read(self, tokens: Sequence[int]) -> Tensor:
        """Run the model over tokens that follow what is in its cache."""
        part = torch.tensor([list(tokens)], device=self.model.embedding.weight.device)
        return prefill(self.model, part, self.cache, self.attend)[0]

    def _rewind(self, length: int) -> None:
        self.cache.lengths = torch.full_like(self.cache.lengths, length)

    def _room_after(self, text: Sequence[int]) -> int:
        """How many tokens fit into this cache after the text; negative: not even the text."""
        return self.cache.room + int(self.cache.lengths[0]) - len(text)


class ModelDraft(_OfModel):
    """Let a smaller model write `depth` tokens, one after the other.

    model: of the target's vocabulary. depth: at least 1. temperature: 0 takes the likeliest token
    and is sure of it; above 0 tokens are drawn, and the tree's q says from what. attend,
    make_cache: for this model, as in `reference.generate`. Keeps its cache from call to call.
    Raises ValueError for a depth below 1 or a negative temperature.
    """

    def __init__(
        self,
        model: Transformer,
        depth: int = 4,
        *,
        temperature: float = 0.0,
        attend: Attend = attention_with_cache,
        make_cache: Callable[[int], KVCache | Batch] | None = None,
    ) -> None:
        super().__init__(model, temperature=temperature, attend=attend, make_cache=make_cache)
        if depth < 1:
            raise ValueError(f"depth must be at least 1; got {depth}")
        self.depth = depth

    def __call__(
        self, text: Sequence[int], depth: int, generator: torch.Generator | None = None
    ) -> Tree:
        """A single branch; empty if the text does not fit into this model's cache."""
        depth = min(depth, self.depth, self._room_after(text) + 1)
        if depth < 1:
            return Tree()
        tokens, rows = [], []
        logits = self._catch_up(text)
        for i in range(depth):
            rows.append(probabilities(logits, self.temperature))
            tokens.append(draw(rows[-1], generator))
            if i + 1 < depth:  # the last token's keys are never needed for this draft
                logits = self._read(tokens[-1:])
        self._seen += tokens[:-1]
        return Tree.chain(tokens, torch.stack(rows) if self.temperature > 0 else None)


class TreeDraft(_OfModel):
    """Let a smaller model write a tree: `widths[d]` continuations of each node at depth d.

    temperature: 0 takes the likeliest tokens; above 0 siblings are drawn without replacement, and
    each node's q is the model's distribution without its older siblings. Every depth is one pass
    over the tree so far, so attend must take `mask`. Raises as `ModelDraft`, for widths below 1.
    """

    def __init__(
        self,
        model: Transformer,
        widths: Sequence[int] = (3, 2, 1),
        *,
        temperature: float = 0.0,
        attend: Attend = attention_with_cache,
        make_cache: Callable[[int], KVCache | Batch] | None = None,
    ) -> None:
        super().__init__(model, temperature=temperature, attend=attend, make_cache=make_cache)
        if not widths or min(widths) < 1:
            raise ValueError(f"widths must be one number ≥ 1 or more; got {widths}")
        self.widths = tuple(widths)

    def __call__(
        self, text: Sequence[int], depth: int, generator: torch.Generator | None = None
    ) -> Tree:
        """The tree; its depth, not its number of nodes, is bounded by the argument."""
        if self._room_after(text) < 0:
            return Tree()
        logits, before = self._catch_up(text)[None], len(text) - 1  # the text's last token: root
        tree, frontier = Tree(), [ROOT]
        for width in self.widths[:depth]:
            grown = self._grow(tree, frontier, logits, width, generator)
            frontier = list(range(len(tree), len(grown)))
            tree = grown
            if len(tree.depths) == 0 or tree.depth == min(depth, len(self.widths)):
                break
            self._rewind(before)
            if self.cache.room < len(tree) + 1:
                break
            logits = run_tree(self.model, text[-1], tree, self.cache, self.attend)
        self._rewind(before)
        self._seen = list(text[:-1])
        return tree

    def _grow(
        self,
        tree: Tree,
        frontier: list[int],
        logits: Tensor,
        width: int,
        generator: torch.Generator | None,
    ) -> Tree:
        """The tree with up to `width` children for each node of the frontier."""
        tokens, parents = list(tree.tokens), list(tree.parents)
        rows = [] if tree.q is None else list(tree.q)
        for node in frontier:
            if self.temperature == 0:
                chosen = logits[node + 1].topk(min(width, logits.shape[-1])).indices.tolist()
            else:
                q = probabilities(logits[node + 1], self.temperature)
                chosen, own = draw_different(q, width, generator)
                rows += own
            tokens += chosen
            parents += [node] * len(chosen)
        return Tree(tuple(tokens), tuple(parents), torch.stack(rows) if rows else None)


def draw_different(
    q: Tensor, count: int, generator: torch.Generator | None = None
) -> tuple[list[int], list[Tensor]]:
    """Up to `count` different tokens from q (vocabulary,), and what each was drawn from.

    After a token is drawn, its probability becomes 0 and the others grow in proportion. Fewer
    tokens come back if q is 0 everywhere else.
    """
    tokens, rows = [], []
    while len(tokens) < count and q.sum() > 0:
        rows.append(q / q.sum())
        tokens.append(draw(rows[-1], generator))
        q = rows[-1].clone()
        q[tokens[-1]] = 0.0
    return tokens, rows


def early_exit(model: Transformer, layers: int) -> Transformer:
    """The first `layers` layers of a model, with its embedding, norm and head: the same memory.

    It was never trained to stop there, so what it says is a guess; as a draft that is enough.
    Raises ValueError for layers outside 1…the model's own.
    """
    if not 1 <= layers <= model.config.layers:
        raise ValueError(f"layers must lie in 1…{model.config.layers}; got {layers}")
    with torch.device("meta"):  # sizes without memory: the parts come from the model
        small = Transformer(replace(model.config, layers=layers))
    small.embedding, small.norm, small.angles = model.embedding, model.norm, model.angles
    small.blocks = nn.ModuleList(list(model.blocks)[:layers])
    if not model.config.tied:
        small.head = model.head
    return small.train(model.training)

"""The loop: draft, verify, accept, roll back; and what is worth counting.

    text      … the cat            in the cache: all but the newest token, "cat"
    draft     sat on a             3 tokens
    verify    cat sat on a         one pass, 4 slots: what comes after "cat", "sat", "on" and "a"?
    accept    sat on ✓  a ✗ the    two tokens stay, and one is new
    text      … the cat sat on the in the cache: all but "the"

Each pass yields at least one token, as a plain step does, and at most depth + 1.
"""

import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch

from reference.attention import attention_with_cache
from reference.generate import (
    Timing,
    check_chunk,
    check_limits,
    check_prompt,
    choose,
    own_cache,
    prefill,
)
from reference.paging.cache import Batch
from reference.speculative.acceptance import accept
from reference.speculative.drafts import Draft
from reference.speculative.tree import ROOT, Tree
from reference.speculative.verify import keep, run_tree
from reference.transformer import Attend, KVCache, Transformer


class Step(NamedTuple):
    """One pass. drafted: nodes; tested: places where the model was asked; accepted: of those.

    At most one place more is tested than accepted: there every candidate was refused. Times in ms.
    """

    drafted: int
    tested: int
    accepted: int
    draft_ms: float
    verify_ms: float


@dataclass
class Speculation(Timing):
    """A `Timing` that also knows the passes; tpot_ms has for each token its share of its pass.

    steps: one per pass after the prompt's; the last may have accepted more than was yielded.
    """

    steps: list[Step] = field(default_factory=list)

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens per pass: those accepted and the one that comes after; nan without a pass."""
        return statistics.mean(s.accepted + 1 for s in self.steps) if self.steps else float("nan")

    @property
    def acceptance(self) -> float:
        """Of the places where a drafted token was put to the test, the share that it passed."""
        return _share(sum(s.accepted for s in self.steps), sum(s.tested for s in self.steps))

    @property
    def acceptance_by_place(self) -> list[float]:
        """The same for each place of a draft, given that the places before it were accepted."""
        deepest = max((s.tested for s in self.steps), default=0)
        return [
            _share(
                sum(s.accepted > place for s in self.steps),
                sum(s.tested > place for s in self.steps),
            )
            for place in range(deepest)
        ]

    @property
    def drafted_and_kept(self) -> float:
        """The share of all drafted nodes that were accepted."""
        return _share(sum(s.accepted for s in self.steps), sum(s.drafted for s in self.steps))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def speculate_tokens(
    model: Transformer,
    prompt: Sequence[int],
    draft: Draft,
    *,
    max_tokens: int = 128,
    stop: Collection[int] = (),
    temperature: float = 0.0,
    seed: int = 0,
    spare: int = 32,
    attend: Attend = attention_with_cache,
    prefill_attend: Attend | None = None,
    prefill_chunk: int | None = None,
    make_cache: Callable[[int], KVCache | Batch] | None = None,
    timing: Speculation | None = None,
) -> Iterator[int]:
    """Continue a prompt as `reference.generate.generate_tokens` does, in fewer passes.

    draft: see `reference.speculative.drafts`. At temperature 0 the tokens are those of plain
    decoding, as far as logits are the same whether tokens come one by one or together; above 0
    they have the same distribution, but a seed gives other tokens. attend: also for passes of
    several tokens, and if a draft has branches it must take `mask`. spare: slots that the cache
    gets beyond what the text needs, for drafts at its end; a draft is cut to what there is room
    for. Everything else, and what is raised, as in `generate_tokens`.
    """
    check_prompt(prompt, model.config)
    check_limits("max_tokens", max_tokens, temperature)
    check_chunk(prefill_chunk)
    if spare < 0:
        raise ValueError(f"spare must be at least 0; got {spare}")
    capacity = min(len(prompt) + max_tokens + spare, model.config.context)
    cache = (make_cache or partial(own_cache, model))(capacity)
    loop = _Loop(model, cache, draft, attend, temperature, torch.Generator().manual_seed(seed))
    first = partial(loop.first, prompt, prefill_attend or attend, prefill_chunk)
    timing = Speculation() if timing is None else timing
    return _stream(loop, first, prompt, max_tokens, stop, timing)


class _Loop:
    """What a generation needs from pass to pass. The cache holds all of the text but its end."""

    def __init__(
        self,
        model: Transformer,
        cache: KVCache | Batch,
        draft: Draft,
        attend: Attend,
        temperature: float,
        generator: torch.Generator,
    ) -> None:
        self.model, self.cache, self.draft, self.attend = model, cache, draft, attend
        self.temperature, self.generator = temperature, generator

    def first(self, prompt: Sequence[int], attend: Attend, chunk: int | None) -> int:
        """Put the prompt into the cache; return the first token."""
        tokens = torch.tensor([list(prompt)], device=self.model.embedding.weight.device)
        logits = prefill(self.model, tokens, self.cache, attend, chunk)
        return choose(logits[0], self.temperature, self.generator)

    def step(self, text: Sequence[int], most: int, stop: Collection[int]) -> tuple[list[int], Step]:
        """Draft, verify and accept: one to `most` new tokens, none after one that is in stop."""
        began = time.perf_counter()
        tree = Tree()
        if most > 1 and self.cache.room > 1:
            tree = self.draft(text, most - 1, self.generator)
            tree = tree.cut(nodes=self.cache.room - 1, depth=most - 1)
        drafted = time.perf_counter()
        start = len(text) - 1
        logits = run_tree(self.model, text[-1], tree, self.cache, self.attend)
        path, token = accept(tree, logits, self.temperature, self.generator)
        new = [*(tree.tokens[node] for node in path), token]
        ends = [i for i, token in enumerate(new) if token in stop]
        new = new[: ends[0] + 1] if ends else new
        # The newest token's keys come with the next pass: slot 0 is the root, node i is slot i + 1.
        keep(self.cache, start, [0, *(node + 1 for node in path[: len(new) - 1])])
        verified = time.perf_counter()
        times = 1000 * (drafted - began), 1000 * (verified - drafted)
        refused = bool(tree.children(path[-1] if path else ROOT))
        return new, Step(len(tree), len(path) + refused, len(path), *times)


def _stream(
    loop: _Loop,
    first: Callable[[], int],
    prompt: Sequence[int],
    most: int,
    stop: Collection[int],
    timing: Speculation,
) -> Iterator[int]:
    """Prefill once, then passes; yields what each of them gives, token by token."""
    timing.prompt_tokens, timing.tpot_ms, timing.stopped, timing.steps = len(prompt), [], "", []
    text, count = list(prompt), 0
    began = time.perf_counter()
    new = [first()]
    timing.ttft_ms = 1000 * (time.perf_counter() - began)
    while True:
        for i, token in enumerate(new):
            text.append(token)
            count += 1
            if i + 1 == len(new):
                timing.stopped = _ending(loop, token, count, most, stop, timing.unit)
            yield token
        if timing.stopped:
            return
        new, step = loop.step(text, most - count, stop)
        timing.steps.append(step)
        timing.tpot_ms += [(step.draft_ms + step.verify_ms) / len(new)] * len(new)


def _ending(
    loop: _Loop, token: int, count: int, most: int, stop: Collection[int], unit: str
) -> str:
    """Why the text ends here, or "": as in `generate_tokens`."""
    if token in stop:
        return f"stop {unit}"
    return "length" if count == most else "context" if loop.cache.room == 0 else ""

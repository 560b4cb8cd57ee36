"""Museum, third room: from partials to the answer."""

import math

import torch
from torch import Tensor

from reference.precision.museum.piece import U32, Piece, attend, generator, sums_bound

Parts = tuple[Tensor, Tensor]  # o (S, D), lse (S,)


def _weigh(o: Tensor, lse: Tensor, m: Tensor) -> Parts:
    """The merge of o (S, D), lse (S,), with m subtracted from every lse: o (D,), lse ()."""
    w = torch.exp(lse - m)
    total = w.sum()
    return (w[:, None] * o).sum(0) / torch.where(total == 0, 1.0, total), m + total.log()


def _merge(o: Tensor, lse: Tensor) -> Parts:
    """The merge as it should be: a safe copy of the largest lse is subtracted."""
    m = lse.max()
    return _weigh(o, lse, torch.where(m == -math.inf, 0.0, m))


def _truth(o: Tensor, lse: Tensor) -> Parts:
    """The merge in fp64, by another formula: weights exp(lse − log Σ exp lse)."""
    o, lse = o.double(), lse.double()
    total = torch.logsumexp(lse, 0)
    w = torch.exp(lse - total) if total > -math.inf else torch.zeros_like(lse)
    return w @ o, total


def _merge_bound(o: Tensor, lse: Tensor) -> float:
    """A merge of S partials in fp32: S additions, and weights of differences up to 2 |lse|."""
    seen = lse[lse.isfinite()].abs()
    size = seen.max().item() if seen.numel() else 0.0
    return 2 * U32 * (len(lse) + 2 * size + 4) * max(1.0, size, o[o.isfinite()].abs().max().item())


def _two_empty_states() -> Parts:
    return torch.zeros(2, 4), torch.full((2,), -math.inf)


EMPTIES = Piece(
    name="two empty partials",
    project="FlashInfer",
    link="https://github.com/flashinfer-ai/flashinfer/issues/4051",
    what="Merging two partials that saw no key gives NaN, in o and in lse.",
    why="Both lse are −∞, so the larger of them is −∞ as well, and −∞ − (−∞) is not a number.",
    fix="Subtract a safe copy of the maximum: 0 where it is −∞. The weights are then exp(−∞) = 0.",
    broken=lambda o, lse: _weigh(o, lse, lse.max()),
    mended=_merge,
    make_input=_two_empty_states,
    wanted=_truth,
    bound=_merge_bound,
)


def _split_keys(scores: Tensor, v: Tensor) -> Parts:
    """o and lse of the splits of one row: scores (S, c), v (S, c, D)."""
    return torch.einsum("sc,scd->sd", torch.softmax(scores, 1), v), torch.logsumexp(scores, 1)


def _one_library_per_split() -> Parts:
    """Scores (2, 32) and v (2, 32, 4); the second library's half of the keys matches better."""
    rng = generator(4)
    scores = torch.randn(2, 32, generator=rng) + torch.tensor([[0.0], [2.0]])
    return scores, torch.randn(2, 32, 4, generator=rng)


def _merge_in_base_e(scores: Tensor, v: Tensor) -> Tensor:
    o, lse = _split_keys(scores, v)
    return _merge(o, torch.stack([lse[0], lse[1] / math.log(2)]))[0]  # one comes in base 2


def _merge_in_one_base(scores: Tensor, v: Tensor) -> Tensor:
    o, lse = _split_keys(scores, v)
    in_base_2 = lse[1] / math.log(2)
    return _merge(o, torch.stack([lse[0], in_base_2 * math.log(2)]))[0]


BASES = Piece(
    name="an lse in base 2",
    project="SGLang, with FlashInfer's lse",
    link="https://github.com/sgl-project/sglang/pull/35045",
    what="Two right partials are merged into a wrong answer: off by 0.1 in the report.",
    why="One library gives log₂ of the sum, the other's merge takes exp of it. Both are "
    "documented, but no tensor says which it is, and the two differ by a factor of 1.44.",
    fix="Multiply by ln 2 where the tensor changes hands, and write the base into its name.",
    broken=_merge_in_base_e,
    mended=_merge_in_one_base,
    make_input=_one_library_per_split,
    wanted=lambda scores, v: attend(scores.flatten(), v.flatten(0, 1)),
    # ln 2 once divided and once multiplied by: two more roundings of an lse below 8
    bound=lambda scores, v: sums_bound(scores.flatten(), v) + 32 * U32 * v.abs().max().item(),
)


def _attend_or_zero(scores: Tensor, v: Tensor, empty_lse: float) -> Parts:
    """o (D,) and lse () of one split; without a key, o = 0 and lse as given."""
    if len(scores) == 0:
        return torch.zeros(v.shape[1]), torch.tensor(empty_lse)
    return torch.softmax(scores, 0) @ v, torch.logsumexp(scores, 0)


def _in_chunks(scores: Tensor, v: Tensor, chunk: int, empty_lse: float) -> Tensor:
    starts = range(0, 2 * len(scores), chunk)  # planned for a row twice as long
    parts = [_attend_or_zero(scores[i : i + chunk], v[i : i + chunk], empty_lse) for i in starts]
    return _merge(*(torch.stack(x) for x in zip(*parts, strict=True)))[0]


def _short_row() -> tuple[Tensor, Tensor, int]:
    rng = generator(5)
    return -3 + torch.randn(32, generator=rng), torch.randn(32, 4, generator=rng), 16


FINITE_EMPTY = Piece(
    name="an empty chunk that counts",
    project="vLLM",
    link="https://github.com/vllm-project/vllm/pull/49294",
    what="Chunks without a key pull the answer of a short row towards 0.",
    why="The backend reports a finite lse for a chunk that has no key for this row. Finite means "
    "'I found something': at lse = 0 the chunk weighs as much as a key of score 0. PyTorch's own "
    "flash attention on a CPU reports 0 for such a row, too.",
    fix="A chunk without keys has lse = −∞. Nothing else weighs nothing.",
    broken=lambda scores, v, chunk: _in_chunks(scores, v, chunk, 0.0),
    mended=lambda scores, v, chunk: _in_chunks(scores, v, chunk, -math.inf),
    make_input=_short_row,
    wanted=lambda scores, v, chunk: attend(scores, v),
    bound=lambda scores, v, chunk: (
        sums_bound(scores, v) + _merge_bound(v, torch.tensor([3.0, 3.0]))
    ),
)


def _bounds(n: int, S: int, window: int) -> list[tuple[int, int]]:
    """The keys of each of S splits of a row of n that are in the window, the last `window` keys."""
    chunk, first = -(-n // S), n - window
    return [(max(s * chunk, first), min((s + 1) * chunk, n)) for s in range(S)]


def _stage_1(scores: Tensor, v: Tensor, S: int, window: int, scratch: float) -> Parts:
    """Partials of the splits that have a key in the window; the others' memory is as it was."""
    o, lse = torch.full((S, v.shape[1]), scratch), torch.full((S,), scratch)
    for s, (start, stop) in enumerate(_bounds(len(scores), S, window)):
        if start < stop:
            o[s] = torch.softmax(scores[start:stop], 0) @ v[start:stop]
            lse[s] = torch.logsumexp(scores[start:stop], 0)
    return o, lse


def _merge_all(scores: Tensor, v: Tensor, S: int, window: int, scratch: float) -> Tensor:
    return _merge(*_stage_1(scores, v, S, window, scratch))[0]


def _merge_written(scores: Tensor, v: Tensor, S: int, window: int, scratch: float) -> Tensor:
    o, lse = _stage_1(scores, v, S, window, scratch)
    written = [start < stop for start, stop in _bounds(len(scores), S, window)]
    return _merge(o[written], lse[written])[0]


def _long_row_short_window() -> tuple[Tensor, Tensor, int, int, float]:
    rng = generator(6)
    return torch.randn(256, generator=rng), torch.randn(256, 4, generator=rng), 8, 48, 4.0


WINDOW = Piece(
    name="a window that the merge does not know",
    project="vLLM",
    link="https://github.com/vllm-project/vllm/pull/47188",
    what="Layers with a sliding window are wrong now and then, with what was in memory before.",
    why="Stage 1 skips the splits that lie before the window and writes nothing for them. Stage 2 "
    "counts splits by the row's length and merges them all, so it reads memory nobody wrote.",
    fix="Both stages ask the same function which splits have keys. (Or stage 1 writes (0, −∞) "
    "for an empty one: the partial contract of this course.)",
    broken=_merge_all,
    mended=_merge_written,
    make_input=_long_row_short_window,
    wanted=lambda scores, v, S, window, scratch: attend(scores[-window:], v[-window:]),
    bound=lambda scores, v, S, window, scratch: (
        sums_bound(scores[-window:], v)
        + _merge_bound(v, torch.logsumexp(scores[-window:], 0).expand(S))
    ),
)

MERGING = (EMPTIES, BASES, FINITE_EMPTY, WINDOW)

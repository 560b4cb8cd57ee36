"""Museum, first room: from scores to weights."""

import torch
from torch import Tensor

from reference.precision.museum.piece import U32, Piece, attend, generator, sums_bound

LEAST = -5e4  # a finite number in the place of −inf


def _online(scores: Tensor, v: Tensor, m: Tensor) -> Tensor:
    """One pass over the keys, 16 at a time, from the running maximum m: o (D,)."""
    l, acc = torch.zeros(()), torch.zeros(v.shape[1])
    for s, tile in zip(scores.split(16), v.split(16), strict=True):
        new = torch.maximum(m, s.max())
        p = torch.exp(s - new)
        l, acc, m = torch.exp(m - new) * l + p.sum(), torch.exp(m - new) * acc + p @ tile, new
    return acc / torch.where(l == 0, 1.0, l)


def _from_a_large_number(scores: Tensor, v: Tensor) -> Tensor:
    return _online(scores, v, torch.tensor(LEAST))


def _from_minus_infinity(scores: Tensor, v: Tensor) -> Tensor:
    return _online(scores, v, torch.tensor(-torch.inf))  # every tile has a finite score here


def _deep_scores() -> tuple[Tensor, Tensor]:
    rng = generator(1)
    return -60_000 + torch.randn(64, generator=rng), torch.randn(64, 8, generator=rng)


FINITE_INFINITY = Piece(
    name="a finite minus infinity",
    project="FlashInfer",
    link="https://github.com/flashinfer-ai/flashinfer/issues/4267",
    what="A head whose scores are all below −50,000 puts out zeros, silently.",
    why="The running maximum starts at −5e4 instead of −∞. No score is larger, so it stays there, "
    "every exp(score − maximum) underflows to 0, and a row with keys looks like one without.",
    fix="Start from −∞, the only number below all scores, and guard the subtraction where a tile "
    "may have no key at all.",
    broken=_from_a_large_number,
    mended=_from_minus_infinity,
    make_input=_deep_scores,
    wanted=attend,
    bound=sums_bound,
)


def _cap_by_exponentials(scores: Tensor, cap: float) -> Tensor:
    grow, shrink = torch.exp(scores / cap), torch.exp(-scores / cap)
    return cap * (grow - shrink) / (grow + shrink)


def _cap_by_one_exponential(scores: Tensor, cap: float) -> Tensor:
    return cap * (1 - 2 / (torch.exp(2 * scores / cap) + 1))


def _large_scores() -> tuple[Tensor, float]:
    return torch.tensor([100.0, 3000.0, 5000.0, -10_000.0]), 50.0


SOFTCAP = Piece(
    name="a softcap of infinities",
    project="vLLM",
    link="https://github.com/vllm-project/vllm/issues/56578",
    what="With a softcap of 50, a score of 5,000 makes the whole row NaN.",
    why="tanh is written as a quotient of exponentials. From |score / cap| ≈ 89 on, exp overflows "
    "in fp32, and ∞ / ∞ is not a number. Softcap is there for large scores, of all things.",
    fix="1 − 2 / (exp(2x) + 1) is the same function, and where exp overflows it is 1 − 0.",
    broken=_cap_by_exponentials,
    mended=_cap_by_one_exponential,
    make_input=_large_scores,
    wanted=lambda scores, cap: cap * torch.tanh(scores.double() / cap),
    # exp(2x) is off by (2x + 2) u, which tanh shrinks below 4u for any x; three more roundings
    bound=lambda scores, cap: 8 * U32 * cap,
)

SCORING = (FINITE_INFINITY, SOFTCAP)

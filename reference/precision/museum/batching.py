"""Museum, last room: what a row owes to the other rows of its batch."""

import math

import torch
from torch import Tensor

from reference.online_softmax import merge_states
from reference.precision.museum.piece import Piece, generator
from reference.precision.rounding import decode_key_by_key

SLOTS = 64  # splits that a GPU works on at a time


def _row(scores: Tensor, v: Tensor, splits: int) -> Tensor:
    return merge_states(*decode_key_by_key(scores, v, splits))[0]


def _splits_for_the_batch(scores: Tensor, v: Tensor, rows: int) -> Tensor:
    """How far a row's answer in a batch of `rows` is from its answer alone: (D,)."""
    return _row(scores, v, SLOTS // rows) - _row(scores, v, SLOTS)


def _splits_for_the_row(scores: Tensor, v: Tensor, rows: int, size: int = 128) -> Tensor:
    in_company = _row(scores, v, len(scores) // size)  # rows of the batch do not occur
    return in_company - _row(scores, v, len(scores) // size)


def _row_of_a_batch() -> tuple[Tensor, Tensor, int]:
    rng = generator(7)
    return torch.randn(2048, generator=rng), torch.randn(2048, 16, generator=rng), 8


COMPANY = Piece(
    name="bits that depend on the company",
    project="FlashAttention-3",
    link="https://github.com/Dao-AILab/flash-attention/pull/2450",
    what="The same prompt at temperature 0 gives another text when the server is busy.",
    why="The number of splits is chosen to fill the GPU, so it depends on the whole batch. Other "
    "splits are other sums, and other last bits. Each answer is right; they are not the same.",
    fix="Fix the size of a split, not the number: then the cuts depend on the row's length alone.",
    broken=_splits_for_the_batch,
    mended=_splits_for_the_row,
    make_input=_row_of_a_batch,
    wanted=lambda scores, v, rows: torch.zeros(v.shape[1], dtype=torch.float64),
    bound=lambda scores, v, rows: 0.0,
)


def _pack(lse: Tensor, q_lens: list[int], kv_lens: list[int], dense: bool) -> Tensor:
    """Write lse (B, H, longest) as the kernel does, one program per row and head: (H · total,).

    A program without keys leaves early and writes −inf: at the place of a dense (B, H, longest)
    buffer, or at that of the packed one.
    """
    heads, longest, total = lse.shape[1], lse.shape[2], sum(q_lens)
    packed = torch.full((heads * total,), math.nan)  # unwritten memory
    for b, (queries, keys) in enumerate(zip(q_lens, kv_lens, strict=True)):
        for h in range(heads):
            place = h * total + sum(q_lens[:b])
            if keys == 0 and dense:
                place = (b * heads + h) * longest
            row = lse[b, h, :queries] if keys else torch.full((queries,), -math.inf)
            packed[place : place + queries] = row
    return packed


def _one_row_without_keys() -> tuple[Tensor, list[int], list[int]]:
    return torch.randn(3, 2, 3, generator=generator(8)), [2, 1, 3], [4, 0, 5]


def _packed_truth(lse: Tensor, q_lens: list[int], kv_lens: list[int]) -> Tensor:
    rows = [
        x[:, :n] if keys else torch.full((len(x), n), -math.inf)
        for x, n, keys in zip(lse.double(), q_lens, kv_lens, strict=True)
    ]
    return torch.cat(rows, 1).flatten()


EARLY_EXIT = Piece(
    name="the early exit writes elsewhere",
    project="FlashAttention-2",
    link="https://github.com/Dao-AILab/flash-attention/issues/2842",
    what="A row without keys in a packed batch overwrites the lse of another row with −∞.",
    why="The kernel computes the place of its lse twice: at its normal end, and where it leaves "
    "early for want of keys. Only the first knows that rows lie packed.",
    fix="One function for the place, used by every exit.",
    broken=lambda lse, q_lens, kv_lens: _pack(lse, q_lens, kv_lens, dense=True),
    mended=lambda lse, q_lens, kv_lens: _pack(lse, q_lens, kv_lens, dense=False),
    make_input=_one_row_without_keys,
    wanted=_packed_truth,
    bound=lambda lse, q_lens, kv_lens: 0.0,
)

BATCHING = (EARLY_EXIT, COMPANY)

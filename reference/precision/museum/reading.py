"""Museum, second room: which number is where, and which of them may be touched."""

import torch
from torch import Tensor

from reference.precision.museum.piece import U32, Piece, attend, generator, sums_bound


def _mask_scores_only(q: Tensor, k: Tensor, v: Tensor, length: int) -> Tensor:
    scores = torch.where(torch.arange(len(k)) < length, k @ q, -torch.inf)
    return torch.softmax(scores, 0) @ v


def _mask_scores_and_values(q: Tensor, k: Tensor, v: Tensor, length: int) -> Tensor:
    inside = torch.arange(len(k)) < length
    scores = torch.where(inside, k @ q, -torch.inf)
    return torch.softmax(scores, 0) @ torch.where(inside[:, None], v, 0.0)


def _cache_with_nan_tail() -> tuple[Tensor, Tensor, Tensor, int]:
    rng = generator(2)
    k, v = torch.randn(64, 8, generator=rng), torch.randn(64, 8, generator=rng)
    k[50:], v[50:] = torch.nan, torch.nan
    return torch.randn(8, generator=rng), k, v, 50


def _attend_to_cache(q: Tensor, k: Tensor, v: Tensor, length: int) -> Tensor:
    return attend(k[:length].double() @ q.double(), v[:length])


def _cache_bound(q: Tensor, k: Tensor, v: Tensor, length: int) -> float:
    """As `sums_bound`; a score of D products is off by D u |k| |q|, and its weight by as much."""
    k, v = k[:length], v[:length]
    size = len(q) * (k.abs() @ q.abs()).max().item()
    return sums_bound(k @ q, v) + 2 * U32 * size * v.abs().max().item()


NAN_TAIL = Piece(
    name="0 · NaN",
    project="FlashAttention-3",
    link="https://github.com/Dao-AILab/flash-attention/issues/1745",
    what="A cache whose unused cells hold NaN gives NaN, though no valid key is NaN.",
    why="The scores past the end are masked, so their weights are exactly 0. But the values "
    "there are loaded and multiplied all the same, and 0 · NaN is NaN.",
    fix="Mask what is loaded, too: values past the end are set to 0, not weighted by 0.",
    broken=_mask_scores_only,
    mended=_mask_scores_and_values,
    make_input=_cache_with_nan_tail,
    wanted=_attend_to_cache,
    bound=_cache_bound,
)


def _offset_in_32_bits(page: Tensor, page_stride: int) -> Tensor:
    return page * torch.tensor(page_stride, dtype=torch.int32)


def _offset_in_64_bits(page: Tensor, page_stride: int) -> Tensor:
    return page.long() * page_stride


def _high_pages() -> tuple[Tensor, int]:
    return torch.tensor([7766, 7767, 7768], dtype=torch.int32), 480 * 576


INT32 = Piece(
    name="an offset of 32 bits",
    project="vLLM",
    link="https://github.com/vllm-project/vllm/pull/47671",
    what="Pages from number 7,768 on are looked for before the start of the cache.",
    why="Page number times page stride is computed in 32 bits. With 480 tokens of 576 numbers "
    "each, 7,768 · 276,480 passes 2³¹ and wraps to a negative offset. Small tests never get there.",
    fix="Make the page number a 64-bit one before it is multiplied.",
    broken=_offset_in_32_bits,
    mended=_offset_in_64_bits,
    make_input=_high_pages,
    wanted=lambda page, stride: torch.tensor([p * stride for p in page.tolist()]),
    bound=lambda page, stride: 0.0,
)


def _rows(memory: Tensor, n: int, D: int, stride: int) -> Tensor:
    """n rows of D numbers, `stride` numbers from the start of one to that of the next."""
    return memory.as_strided((n, D), (stride, 1))


def _strides_swapped(q: Tensor, k: Tensor, v: Tensor, strides: tuple[int, int], n: int) -> Tensor:
    k_stride, v_stride = strides
    keys, values = _rows(k, n, len(q), v_stride), _rows(v, n, len(q), k_stride)
    return torch.softmax(keys @ q, 0) @ values


def _own_strides(q: Tensor, k: Tensor, v: Tensor, strides: tuple[int, int], n: int) -> Tensor:
    k_stride, v_stride = strides
    keys, values = _rows(k, n, len(q), k_stride), _rows(v, n, len(q), v_stride)
    return torch.softmax(keys @ q, 0) @ values


def _two_layouts() -> tuple[Tensor, Tensor, Tensor, tuple[int, int], int]:
    """Keys 16 numbers apart, values 8: as where k is a part of a larger tensor and v is not."""
    rng = generator(3)
    k, v = torch.randn(512, generator=rng), torch.randn(512, generator=rng)
    return torch.randn(8, generator=rng), k, v, (16, 8), 32


def _attend_to_layouts(q: Tensor, k: Tensor, v: Tensor, strides: tuple[int, int], n: int) -> Tensor:
    keys, values = (
        x.view(-1, stride)[:n, : len(q)] for x, stride in zip((k, v), strides, strict=True)
    )
    return attend(keys.double() @ q.double(), values)


STRIDES = Piece(
    name="strides swapped",
    project="FlagAttention",
    link="https://github.com/flagos-ai/FlagAttention/pull/46",
    what="Attention is wrong as soon as K and V lie in memory in different ways.",
    why="The pointer to the first tile of K is made with V's strides and that of V with K's. Where "
    "both have the same layout, as in every test, there is no difference.",
    fix="Each tensor with its own strides. And a test in which no two tensors have the same ones.",
    broken=_strides_swapped,
    mended=_own_strides,
    make_input=_two_layouts,
    wanted=_attend_to_layouts,
    bound=lambda q, k, v, strides, n: _cache_bound(
        q, k.view(-1, strides[0])[:n, : len(q)], v.view(-1, strides[1])[:n], n
    ),
)

READING = (NAN_TAIL, INT32, STRIDES)

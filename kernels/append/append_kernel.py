"""Append the keys and values of new tokens to a KV cache, in place, rotating keys on the way.

Token i of row b goes to place cache_seqlens[b] + i of that row. With rotary embedding its key is
rotated by the angle of that place, and so are the queries of the new tokens, in the same launch:

    grid   (token blocks,  Hq + Hkv,  B)      one program: BLOCK_T tokens of one head of one row

    head 0 … Hq - 1          load q → rotate → store to a new q
    head Hq … Hq + Hkv - 1   load k → rotate → round or quantise → store at its place in the cache
                             load v →          round or quantise → store at its place in the cache

Where a place is in memory: in its row (or the one that cache_batch_idx names), or, with a block
table, in slot place % page_size of page table[place // page_size]. Rotation is computed in fp32 and
rounded once. Nothing is ever written outside the cache.

Sources: rotary: Su et al. 2021, "RoFormer"; pages: Kwon et al. 2023, "PagedAttention", section 4.
"""

from typing import NamedTuple

from torch import Tensor

from kernels.append.quantization import round_to_cache, scale_of_token
from kernels.append.rotary import Rotary, load_rotated
from kernels.call import Cells, KernelCall
from kernels.checks import per_token
from kernels.heuristics import next_power_of_2

# isort: split
import triton
import triton.language as tl

TILE = 2048  # elements of k per program: 16 per thread


class Tokens(NamedTuple):
    """The tensors of one append, as `kernels.append.append_kv` describes them."""

    k_cache: Tensor
    v_cache: Tensor
    k: Tensor
    v: Tensor
    cache_seqlens: Tensor | None = None
    cache_batch_idx: Tensor | None = None
    block_table: Tensor | None = None
    rotary_cos: Tensor | None = None
    rotary_sin: Tensor | None = None
    q: Tensor | None = None
    k_scale: Tensor | None = None
    v_scale: Tensor | None = None


@triton.jit
def append_kernel(
    k_cache,
    v_cache,
    k_scale,
    v_scale,
    k,
    v,
    q,
    q_out,
    rotary,
    cache_seqlens_ptr,
    cache_batch_idx_ptr,
    table_ptr,
    stride_table,
    Ln,
    Lq,
    Hq,
    capacity,
    cache_rows,
    D: tl.constexpr,
    DV: tl.constexpr,
    R: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    EACH: tl.constexpr,
    PAGE: tl.constexpr,
    PER_TOKEN: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
) -> None:
    """Rotate BLOCK_T queries of one head, or append BLOCK_T tokens of one KV head."""
    head = tl.program_id(1).to(tl.int64)  # int64: a cache may exceed 2^31 elements
    b = tl.program_id(2).to(tl.int64)
    offs_t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T).to(tl.int64)
    place = offs_t
    if cache_seqlens_ptr is not None:
        place += tl.load(cache_seqlens_ptr + b)

    if head < Hq:
        if q is not None:
            asked = offs_t < Lq
            position = place if EACH else place - offs_t
            q_ptrs = q.ptr + b * q.stride_b + offs_t * q.stride_n + head * q.stride_h
            new_q = load_rotated(q_ptrs, asked, position, rotary, D, R, INTERLEAVED, BLOCK_D)
            store(new_q, q_out, None, (b, offs_t, head), b, asked, D, False)
    else:
        kv_head = head - Hq
        exists = (offs_t < Ln) & (place >= 0) & (place < capacity)
        row, slot = b + tl.zeros_like(place), place
        if cache_batch_idx_ptr is not None:
            row = tl.load(cache_batch_idx_ptr + b).to(tl.int64) + tl.zeros_like(place)
        if table_ptr is not None:
            entries = table_ptr + b * stride_table + place // PAGE
            row, slot = tl.load(entries, mask=exists, other=0).to(tl.int64), place % PAGE
        inside = exists & (row >= 0) & (row < cache_rows)
        cell = (row, slot, kv_head)

        k_ptrs = k.ptr + b * k.stride_b + offs_t * k.stride_n + kv_head * k.stride_h
        new_k = load_rotated(k_ptrs, inside, place, rotary, D, R, INTERLEAVED, BLOCK_D)
        store(new_k, k_cache, k_scale, cell, b, inside, D, PER_TOKEN)
        v_ptrs = v.ptr + b * v.stride_b + offs_t * v.stride_n + kv_head * v.stride_h
        new_v = load_rotated(v_ptrs, inside, place, None, DV, 0, False, BLOCK_DV)
        store(new_v, v_cache, v_scale, cell, b, inside, DV, PER_TOKEN)


@triton.jit
def store(x, cells, scales, cell, b, exists, D: tl.constexpr, PER_TOKEN: tl.constexpr) -> None:
    """Divide x (BLOCK_T, BLOCK_D) by its scale, if any, round to the dtype of cells, and store.

    PER_TOKEN: the scale is not given but computed and stored as well: it maps the largest finite
    |x| of the token to the largest number of the dtype. What is not finite stays so, see
    `kernels.append.quantization`. Scales without a stride from token to token belong to row b of
    the batch, wherever its tokens are stored.
    """
    dtype: tl.constexpr = cells.ptr.dtype.element_ty
    row, slot, head = cell
    scale = None
    if scales is not None:
        if scales.stride_n is None:
            ptrs = scales.ptr + b * scales.stride_b + head * scales.stride_h + tl.zeros_like(slot)
        else:
            ptrs = (
                scales.ptr + row * scales.stride_b + slot * scales.stride_n + head * scales.stride_h
            )
        if PER_TOKEN:
            scale, stored = scale_of_token(x, dtype)
            tl.store(ptrs, stored, mask=exists)
        else:
            scale = tl.load(ptrs, mask=exists, other=1.0)
        scale = scale[:, None]
    offs_d = tl.arange(0, x.shape[1])
    offs = row * cells.stride_b + slot * cells.stride_n + head * cells.stride_h
    ptrs = cells.ptr + offs[:, None] + offs_d[None, :]
    x = round_to_cache(x, scale, dtype)
    tl.store(ptrs, x, mask=exists[:, None] & (offs_d < D)[None, :])


def append_call(x: Tokens, interleaved: bool, each: bool, q_out: Tensor | None) -> KernelCall:
    """Describe the launch for checked tensors; q_out, shaped like q, receives the rotated queries.

    each: query i is rotated by position cache_seqlens + i; otherwise all by cache_seqlens.
    """
    B, Ln, Hkv, D = x.k.shape
    _, Lq, Hq, _ = (B, 0, 0, D) if x.q is None else x.q.shape
    paged = x.block_table is not None
    page = x.k_cache.shape[1] if paged else 1
    BLOCK_D, BLOCK_DV = next_power_of_2(D), next_power_of_2(x.v.shape[3])
    BLOCK_T = min(next_power_of_2(max(Ln, Lq)), max(1, TILE // max(BLOCK_D, BLOCK_DV)))
    args = {
        "k_cache": _cells(x.k_cache),
        "v_cache": _cells(x.v_cache),
        "k_scale": _scales(x.k_scale),
        "v_scale": _scales(x.v_scale),
        "k": _cells(x.k),
        "v": _cells(x.v),
        "q": None if x.q is None else _cells(x.q),
        "q_out": None if x.q is None else _cells(q_out),
        "rotary": _rotary(x.rotary_cos, x.rotary_sin),
        "cache_seqlens_ptr": x.cache_seqlens,
        "cache_batch_idx_ptr": x.cache_batch_idx,
        "table_ptr": x.block_table,
        "stride_table": x.block_table.stride(0) if paged else None,
        "Ln": Ln,
        "Lq": Lq,
        "Hq": Hq,
        "capacity": x.block_table.shape[1] * page if paged else x.k_cache.shape[1],
        "cache_rows": x.k_cache.shape[0],
        "D": D,
        "DV": x.v.shape[3],
        "R": 0 if x.rotary_cos is None else 2 * x.rotary_cos.shape[1],
        "INTERLEAVED": interleaved,
        "EACH": each,
        "PAGE": page,
        "PER_TOKEN": per_token(x.k_scale),
        "BLOCK_T": BLOCK_T,
        "BLOCK_D": BLOCK_D,
        "BLOCK_DV": BLOCK_DV,
    }
    grid = (-(-max(Ln, Lq) // BLOCK_T), Hq + Hkv, B)
    num_warps = 4 if BLOCK_T * max(BLOCK_D, BLOCK_DV) >= TILE else 1
    return KernelCall(append_kernel, grid, args, num_warps=num_warps)


def _cells(x: Tensor) -> Cells:
    return Cells(x, *x.stride()[:3])


def _scales(scale: Tensor | None) -> Cells | None:
    """A scale per tensor, per head, or per token and head: the same load with other strides.

    Per row and head: no stride from token to token, see `store`.
    """
    if scale is None or per_token(scale):
        return None if scale is None else Cells(scale, *scale.stride())
    if scale.ndim == 2:
        return Cells(scale, scale.stride(0), None, scale.stride(1))
    return Cells(scale, 0, 0, scale.stride(0) if scale.numel() > 1 else 0)


def _rotary(cos: Tensor | None, sin: Tensor | None) -> Rotary | None:
    return None if cos is None else Rotary(cos, sin, cos.stride(0), sin.stride(0), cos.shape[0])

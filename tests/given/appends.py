"""Appends to try, each with its reason, and their expected result: loops over single numbers."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from course.check.guards import poisoned

GUARD = 3  # cells of poison on every side of a cache, so a stray write shows


@dataclass(frozen=True)
class Append:
    """One call of append_kv; `starts` are the lengths before, `R` 0 rotates nothing."""

    name: str
    reason: str
    starts: tuple[int, ...] | None = (5, 0)
    Ln: int = 1
    Lq: int = 1
    Hq: int = 4
    Hkv: int = 2
    D: int = 16
    DV: int = 16
    capacity: int = 12
    R: int = 16
    interleaved: bool = False
    rotate_at: str = "each"
    page: int = 0
    rows: tuple[int, ...] | None = None  # cache_batch_idx

    def __str__(self) -> str:
        return self.name


APPENDS = (
    Append("decode", "one token per row, ragged lengths, one of them 0"),
    Append("decode-pairs", "the other way to pair dimensions", interleaved=True),
    Append("plain", "nothing to rotate", R=0),
    Append("first-tokens", "no lengths: places from 0 on", starts=None, Ln=4, Lq=4),
    Append(
        "prefill",
        "more tokens than a program holds",
        (3, 0),
        Ln=130,
        Hq=1,
        Hkv=1,
        capacity=140,
    ),
    Append("to-the-brim", "the last place of a row", starts=(11, 4), Ln=1),
    Append("nothing-new", "no token: only q is rotated", Ln=0),
    Append("D=80", "a head dim that is padded", D=80, DV=80, R=80, Ln=3, Lq=3),
    Append("D=64", "the head dim of an LLM", D=64, DV=64, R=64, Ln=3, Lq=3, interleaved=True),
    Append("R<D", "the last dimensions are not rotated", D=64, DV=40, R=24, Ln=2, Lq=2),
    Append("R<D-pairs", "the same in pairs", D=80, DV=16, R=30, Ln=2, Lq=2, interleaved=True),
    Append("odd-D", "the last one has no partner", D=33, DV=7, R=32, Ln=2),
    Append("R=2", "one pair", D=5, DV=5, R=2, Ln=2, interleaved=True),
    Append("q-first", "not causal: all queries at the old length", Lq=5, rotate_at="first"),
    Append("Lq>Ln", "more queries than new tokens", Ln=2, Lq=5),
    Append("G=5", "query heads of one KV head", Hq=5, Hkv=1, Ln=2, Lq=2),
    Append("other-rows", "a cache with more rows, taken out of order", rows=(3, 1), Ln=2, Lq=2),
    Append("page=1", "each token its own page", page=1, Ln=4, Lq=4, capacity=16),
    Append("page=3", "no power of two", page=3, Ln=8, starts=(5, 0), capacity=15),
    Append("page=4", "a page ends among the new tokens", page=4, Ln=6, starts=(5, 3), capacity=16),
    Append("page=16", "pages half full", page=16, Ln=20, starts=(7, 16), capacity=64),
    Append("page=64", "one page, then another", page=64, Ln=2, starts=(63, 64), capacity=128),
    Append("page=100", "the same", page=100, Ln=130, starts=(99, 70), Hq=1, capacity=300),
    Append(
        "page=528", "as hybrid models have it", page=528, Ln=2, starts=(527, 528), capacity=1056
    ),
)


def surrounded(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """A cache of poison inside a larger buffer of the same: (buffer, cache)."""
    buffer = poisoned(tuple(n + 2 * GUARD for n in shape), dtype, device=device).tensor
    return buffer, buffer[tuple(slice(GUARD, GUARD + n) for n in shape)]


def arguments(case: Append, dtype: torch.dtype, device: str, cache_dtype=None, seed: int = 0):
    """Keyword arguments of append_kv, and the buffers around its caches."""
    rng = torch.Generator().manual_seed(seed)
    B = 2

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng).to(device, dtype)

    rows, length = (4 if case.rows else B), case.capacity
    given: dict = {}
    if case.page:
        pages = case.capacity // case.page
        rows, length = B * pages + 1, case.page
        table = torch.randperm(rows, generator=rng)[: B * pages].reshape(B, pages).int()
        for b, start in enumerate(case.starts):  # entries that must not be followed
            table[b, : start // case.page] = -1
            table[b, -(-(start + case.Ln) // case.page) :] = 2**31 - 1
        given["block_table"] = table.to(device)
    if case.rows:
        given["cache_batch_idx"] = torch.tensor(case.rows, device=device)
    k_buffer, given["k_cache"] = surrounded(
        (rows, length, case.Hkv, case.D), cache_dtype or dtype, device
    )
    v_buffer, given["v_cache"] = surrounded(
        (rows, length, case.Hkv, case.DV), cache_dtype or dtype, device
    )
    given["k"] = random(B, case.Ln, case.Hkv, case.D)
    given["v"] = random(B, case.Ln, case.Hkv, case.DV)
    if case.starts is not None:
        given["cache_seqlens"] = torch.tensor(case.starts, dtype=torch.int32, device=device)
    if case.R:
        angle = torch.rand(case.capacity + 8, case.R // 2, generator=rng) * 6.28
        given["rotary_cos"] = angle.cos().to(device, dtype)
        given["rotary_sin"] = angle.sin().to(device, dtype)
        given["q"] = random(B, case.Lq, case.Hq, case.D)
        given |= {"interleaved": case.interleaved, "rotate_at": case.rotate_at}
    return given, (k_buffer, v_buffer)


def rotate_fp64(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """One head of one token in fp64: pairs as complex numbers, halves as Hugging Face writes it."""
    x, cos, sin = x.double(), cos.double(), sin.double()
    R = 2 * len(cos)
    head, rest = x[:R], x[R:]
    if interleaved:
        rotated = torch.complex(head[0::2], head[1::2]) * torch.complex(cos, sin)
        head = torch.view_as_real(rotated).reshape(-1)
    else:
        rotate_half = torch.cat((-head[R // 2 :], head[: R // 2]))
        head = head * torch.cat((cos, cos)) + rotate_half * torch.cat((sin, sin))
    return torch.cat((head, rest))


def expected(case: Append, given: dict) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """k_cache and v_cache in fp64, NaN where nothing is written; what is written; q rotated."""
    k_cache = torch.full(given["k_cache"].shape, math.nan, dtype=torch.float64)
    v_cache = torch.full(given["v_cache"].shape, math.nan, dtype=torch.float64)
    cos, sin = (given[name].cpu() if case.R else None for name in ("rotary_cos", "rotary_sin"))
    k, v = given["k"].cpu(), given["v"].cpu()
    q = given["q"].cpu().double() if case.R else None
    for b, start in enumerate(case.starts or (0, 0)):
        for i in range(case.Ln):
            row, slot = case.rows[b] if case.rows else b, start + i
            if case.page:
                row = int(given["block_table"][b, slot // case.page])
                slot %= case.page
            for h in range(case.Hkv):
                new = k[b, i, h].double()
                at = start + i
                k_cache[row, slot, h] = (
                    rotate_fp64(new, cos[at], sin[at], case.interleaved) if case.R else new
                )
                v_cache[row, slot, h] = v[b, i, h].double()
        for i in range(case.Lq if case.R else 0):
            at = start + (i if case.rotate_at == "each" else 0)
            for h in range(case.Hq):
                q[b, i, h] = rotate_fp64(q[b, i, h], cos[at], sin[at], case.interleaved)
    return k_cache, v_cache, ~k_cache[..., 0].isnan(), q


def untouched_but_for(buffer: Tensor, written: Tensor) -> bool:
    """Whether the buffer is still poison everywhere but in the written cells of its cache."""
    inside = torch.zeros(buffer.shape, dtype=torch.bool)
    rows, slots, heads, D = (n - 2 * GUARD for n in buffer.shape)
    inside[
        GUARD : GUARD + rows, GUARD : GUARD + slots, GUARD : GUARD + heads, GUARD : GUARD + D
    ] = written[..., None]
    buffer = buffer.cpu()
    integers = not buffer.dtype.is_floating_point  # their poison is -2
    left = buffer == -2 if integers else buffer.float().isnan()
    return bool(left[~inside].all())


def one_rounding(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest error of computing in fp32 and rounding once to dtype; |numbers| stay below 8."""
    return torch.finfo(dtype).eps / 2 * exact.abs() * (1 + 2**-20) + 2**-20

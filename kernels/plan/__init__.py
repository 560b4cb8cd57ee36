"""A balanced plan for a ragged batch, made on the device: the line of all rows in equal chunks.

One row of 100,000 keys beside 63 of 1,000, and a fixed number of splits: a program of the long row
takes a hundred times as long as the others, and the GPU waits for it. A plan fixes the size of a
chunk instead, and lists the work:

    blocks a row 9, 2, 2, 1     14 blocks, 4 programs at once: chunks of ⌈14 / 4⌉ = 4 blocks

    the rows end to end, cut    0 0 0 0│0 0 0 0│0 1 1 2│2 3     a chunk also ends where a row does

    items     row  blocks  slot         first
      0        0   0 … 3    0           row 0: slots 0 1 2       full chunks start first, then
      1        0   4 … 7    1           row 1: slot 3            the other pieces, longest first
      2        1   0 … 1    3           row 2: slots 4 5
      3        0   8        2           row 3: slot 6            slots are in the order of keys:
      4        2   0        4                                    what a row's combine reads is
      5        2   1        5                                    contiguous
      6        3   0        6
      7       -1   nothing to do

`reference.plan` is the twin, and shows who works when. The kernel is a single program, which looks
at the lengths three times: to add them up, to count what is full and what is not, to write. It
runs once a step: **one plan serves all layers** whose window is the same.

Nothing of it passes through the host: how many items there may be follows from shapes alone, so a
CUDA graph can hold it, and the same lengths give the same plan.

How good is it? If each program took one chunk of the line, all would be done at once; that order
cannot be had, since a program works for one row, but longest first comes within some per cent of
it: 8 % at most for that batch and 1 to 16 KV heads on an H100, if time is proportional to keys.

Source: Graham 1969, "Bounds on multiprocessing timing anomalies" (lists, longest first). Plans made
on the device for ragged decode batches: FlashMLA (DeepSeek 2025), with another rule.
"""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.checks import check_device, check_index
from kernels.plan.plan_kernel import plan_call
from kernels.runtime import num_sms as sms_of
from kernels.split_rules import PROGRAMS_PER_SM

Window = int | tuple[int | None, int | None] | None


@dataclass(frozen=True, eq=False)
class Plan:
    """The work of one decode call over a ragged batch, and what it was made for.

    items: (W, 4), int32, on the device: row, start, stop (keys), slot of the partial result; row
    -1 where there is nothing to do. first: (B + 1,), int32: the slots of row b are first[b] …
    first[b + 1] - 1. block_n, B, Lq, max_len, left: the call it fits. padded: whether it leaves
    out padding. A plan holds for the lengths that it was made from: make it anew when they change.
    """

    items: Tensor
    first: Tensor
    block_n: int
    B: int
    Lq: int
    max_len: int
    left: int | None = None
    padded: bool = False

    def made_for(self) -> list[int | None]:
        """Return all but the tensors, as numbers: Plan(items, first, *numbers) makes it again."""
        return [self.block_n, self.B, self.Lq, self.max_len, self.left, int(self.padded)]


def decode_plan(
    cache_seqlens: Tensor,
    *,
    kv_heads: int,
    block_n: int,
    max_len: int,
    Lq: int = 1,
    rows_per_head: int = 1,
    block_m: int = 64,
    cache_leftpad: Tensor | None = None,
    window: Window = None,
    num_sms: int | None = None,
    programs: int | None = None,
    out: Plan | None = None,
) -> Plan:
    """Cut the keys of a ragged batch in equal chunks; list these for `flash_decode(plan=…)`.

    Args:
        cache_seqlens: (B,), int32 or int64, contiguous: keys of each row, as in `flash_decode`. On
            a GPU a number outside 0…max_len is clamped into it, on the CPU it is an error.
        kv_heads: Hkv; each works through the list for itself.
        block_n: keys a block of the split kernel, a power of two from 16; chunks are whole blocks.
        max_len: keys that a row can have (the capacity of the cache).
        Lq: queries a row. rows_per_head, block_m: query rows that share a KV head, G·Lq, and how
            many of them a tile takes; each tile, too, works through the list.
        cache_leftpad: (B,), like cache_seqlens: first keys of each row to leave out.
        window: as in `flash_decode`; left of it no key is visited.
        num_sms: SMs to fill; those of the device if None.
        programs: in how many chunks to cut the batch, instead of what fills the SMs once.
        out: a plan for the same call, to be written over, so that nothing is allocated.

    Returns:
        A plan of W = programs + B items. A row is visited from the first key that any of its
        queries sees, rounded down to a block, up to its length. What all rows have to visit, end
        to end, is cut every ⌈blocks / programs⌉ blocks. Full chunks stand first in the list, then
        the pieces that the end of a row has cut, longest first, to an eighth of a chunk (or of
        the longest row, if that is shorter).

    Raises:
        TypeError: an argument that is not of its type.
        ValueError: a number out of its range, a tensor of another shape or device, or an `out`
            that was made for another call.

    Source: see the head of this module; `reference.plan.decode_plan` is the twin.
    """
    if not isinstance(cache_seqlens, Tensor):
        raise TypeError(f"cache_seqlens must be a tensor; got {type(cache_seqlens).__name__}")
    numbers = {"kv_heads": kv_heads, "block_n": block_n, "Lq": Lq, "block_m": block_m}
    numbers |= {"rows_per_head": rows_per_head, "num_sms": num_sms, "programs": programs}
    _check_numbers(numbers, max_len)
    if programs is None:
        slots = PROGRAMS_PER_SM * (num_sms or sms_of(cache_seqlens.device))
        programs = max(1, slots // (kv_heads * -(-rows_per_head // block_m)))
    left, B = _left(window), cache_seqlens.numel()
    made_for = (block_n, B, Lq, max_len, left, cache_leftpad is not None)
    plan = _room(programs + B, made_for, cache_seqlens.device) if out is None else out
    _check_out(plan, programs + B, made_for, cache_seqlens.device)
    reach = None if left is None else min(Lq + left, 2**31 - 1)
    fill = _fill_op if torch.compiler.is_compiling() else _fill
    fill(plan.items, plan.first, cache_seqlens, cache_leftpad, programs, max_len, reach, block_n)
    return plan


def _room(W: int, made_for: tuple, device: torch.device) -> Plan:
    items = torch.empty(W, 4, dtype=torch.int32, device=device)
    return Plan(items, torch.empty(made_for[1] + 1, dtype=torch.int32, device=device), *made_for)


def _fill(
    items: Tensor,
    first: Tensor,
    lengths: Tensor,
    leftpad: Tensor | None,
    programs: int,
    max_len: int,
    reach: int | None,
    block_n: int,
) -> None:
    """Check what is on the device, launch."""
    B, device = lengths.numel(), lengths.device
    check_index("cache_seqlens", lengths, B, device, max_len)
    check_index("cache_leftpad", leftpad, B, device, max_len)
    check_device(device)
    numbers = {"programs": programs, "max_len": max_len, "reach": reach, "block_n": block_n}
    with torch.cuda.device(device) if lengths.is_cuda else nullcontext():
        plan_call(items, first, lengths, leftpad, **numbers).launch()


_fill_op = torch.library.custom_op(
    "flash_decoding_course::decode_plan", _fill, mutates_args=("items", "first")
)


@_fill_op.register_fake
def _fake(*_: object) -> None:
    """Nothing is returned: the op writes into items and first."""


def _left(window: Window) -> int | None:
    """Return the left side of a window, in keys; None: no bound."""
    sides = window if isinstance(window, tuple) else (window, None)
    if len(sides) != 2 or any(
        x is not None and (isinstance(x, bool) or not isinstance(x, int)) for x in sides
    ):
        raise TypeError(f"window must be an int, None, or a pair of these; got {window!r}")
    if any(x is not None and not 0 <= x < 2**31 for x in sides):
        raise ValueError(f"window must not be negative (None: no bound); got {window!r}")
    return sides[0]


def _check_numbers(numbers: dict[str, int | None], max_len: int) -> None:
    for name, x in {**numbers, "max_len": max_len}.items():
        if x is None and name in ("num_sms", "programs"):
            continue
        if isinstance(x, bool) or not isinstance(x, int):
            raise TypeError(f"{name} must be an int; got {x!r}")
        if not (0 if name == "max_len" else 1) <= x < 2**30:
            raise ValueError(f"{name} must be at least 1 (max_len: 0), below 2^30; got {x}")
    block_n = numbers["block_n"]
    if block_n < 16 or block_n & (block_n - 1):
        raise ValueError(f"block_n must be a power of two, at least 16; got {block_n}")


def _check_out(plan: Plan, W: int, made_for: tuple, device: torch.device) -> None:
    if not isinstance(plan, Plan):
        raise TypeError(f"out must be a Plan; got {type(plan).__name__}")
    has = (len(plan.items), *plan.made_for(), plan.items.device)
    if has != (W, *made_for, device):
        names = "items, block_n, B, Lq, max_len, left, padded, device"
        raise ValueError(f"out was made for ({names}) = {has}; wanted {(W, *made_for, device)}")

"""A balanced plan for a ragged batch, made on the device: all rows end to end, in equal chunks.

Take one row of 100,000 keys, 63 of 1,000 and a fixed number of splits: a program of the long row
takes a hundred times as long as the others, and the GPU waits for it. A plan instead fixes the size
of a chunk, and lists the work:

    blocks per row 9, 2, 2, 1   14 blocks, 4 programs at once: chunks of ⌈14 / 4⌉ = 4 blocks

    the rows end to end, cut    0 0 0 0│0 0 0 0│0 1 1 2│2 3     a chunk also ends where a row does

    items     row  blocks  slot         first_slot
      0        0   0 … 3    0           row 0: slots 0 1 2       full chunks start first, then
      1        0   4 … 7    1           row 1: slot 3            the other pieces, longest first
      2        1   0 … 1    3           row 2: slots 4 5
      3        0   8        2           row 3: slot 6            slots are in the order of keys:
      4        2   0        4                                    what a row's combine reads is
      5        2   1        5                                    contiguous
      6        3   0        6
      7       -1   nothing to do

`reference.plan` is the twin, and shows which program works when. The kernel is a single program,
which goes over the lengths three times: to add them up, to count full chunks and other pieces, to
write. It runs once per step: **one plan serves all layers** that have the same window.

None of it passes through the host: the maximum number of items follows from shapes alone, so a CUDA
graph can capture it, and the same lengths give the same plan.

How good is it? If each program took one chunk of the line, all would finish at once. That is not
possible, since a program works on one row, but longest first comes within a few per cent of it: at
most 8 % for that batch and 1 to 16 KV heads on an H100, if time is proportional to keys.

Source: Graham 1969, "Bounds on multiprocessing timing anomalies" (lists, longest first). Plans made
on the device for ragged decode batches: FlashMLA (DeepSeek 2025), with a different rule.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.call import may_launch
from kernels.checks import (
    Window,
    check_device,
    check_index,
    check_int,
    check_tensor,
    check_window,
    sides_of,
)
from kernels.operators import define, may_check
from kernels.runtime import num_sms as sms_of
from kernels.split_rules import PROGRAMS_PER_SM


@dataclass(frozen=True, eq=False)
class Plan:
    """The work of one decode call over a ragged batch, and what it was made for.

    items: (W, 4), int32, on the device: row, start, stop (keys), slot of the partial result; row
    -1 where there is nothing to do. first_slot: (B + 1,), int32: the slots of row b are
    first_slot[b] … first_slot[b + 1] - 1. block_n, B, Lq, max_len, left: the call it fits. padded:
    whether it leaves out padding. A plan is valid for the lengths it was made from: make a new one
    when they change.
    """

    items: Tensor
    first_slot: Tensor
    block_n: int
    B: int
    Lq: int
    max_len: int
    left: int | None = None
    padded: bool = False

    def made_for(self) -> list[int | None]:
        """Return all but the tensors, as numbers: Plan(items, first_slot, *numbers) rebuilds it."""
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
    """Cut the keys of a ragged batch into equal chunks, listed for `flash_decode(plan=…)`.

    Args:
        cache_seqlens: (B,), int32 or int64, contiguous: keys of each row, as in `flash_decode`. On
            a GPU a number outside 0…max_len is clamped to that range; on the CPU it is an error.
        kv_heads: Hkv; each head works through the list on its own.
        block_n: keys per block of the split kernel, a power of two, at least 16; chunks are whole
            blocks.
        max_len: keys that a row can have (the capacity of the cache).
        Lq: queries per row. rows_per_head, block_m: query rows that share a KV head, G·Lq, and how
            many of them a tile takes; each tile also works through the list on its own.
        cache_leftpad: (B,), like cache_seqlens: first keys of each row to leave out.
        window: as in `flash_decode`; no key to the left of it is visited.
        num_sms: SMs to fill; those of the device if None.
        programs: how many chunks to cut the batch into, instead of as many as fill the SMs once.
        out: a plan for the same call, to be overwritten, so that nothing is allocated.

    Returns:
        A plan of W = programs + B items. A row is visited from the first key that any of its
        queries sees, rounded down to a block, up to its length. What all rows must visit, end to
        end, is cut every ⌈blocks / programs⌉ blocks. Full chunks come first in the list, then the
        shorter pieces beside row ends, longest first, sorted to an eighth of a chunk (or of
        the longest row, if that is shorter).

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a number out of range, a tensor of the wrong shape or on the wrong device, or
            an `out` that was made for a different call.

    Source: see the module docstring; `reference.plan.decode_plan` is the twin.
    """
    check_tensor("cache_seqlens", cache_seqlens)
    _check_numbers(
        kv_heads=kv_heads,
        block_n=block_n,
        Lq=Lq,
        block_m=block_m,
        rows_per_head=rows_per_head,
        num_sms=num_sms,
        programs=programs,
        max_len=max_len,
    )
    if programs is None:
        slots = PROGRAMS_PER_SM * (num_sms or sms_of(cache_seqlens.device))
        programs = max(1, slots // (kv_heads * -(-rows_per_head // block_m)))
    check_window(window)
    left, B = sides_of(window)[0], cache_seqlens.numel()
    made_for = (block_n, B, Lq, max_len, left, cache_leftpad is not None)
    if out is not None:
        _check_out(out, programs + B, made_for, cache_seqlens.device)
    plan = _room(programs + B, made_for, cache_seqlens) if out is None else out
    reach = None if left is None else min(Lq + left, 2**31 - 1)
    _write(plan, cache_seqlens, cache_leftpad, programs, max_len, reach, block_n)
    return plan


def _write(plan: Plan, lengths: Tensor, leftpad: Tensor | None, *numbers: int | None) -> None:
    """Fill the plan in place, by a launch or by an operator."""
    room = (plan.items, plan.first_slot)
    if may_launch(lengths, leftpad, *room):
        _fill(*room, lengths, leftpad, *numbers)
        torch.autograd.graph.increment_version(room)
        return
    if may_check(lengths, leftpad, *numbers):
        _check(*room, lengths, leftpad, *numbers)
    _fill_op(*room, lengths, leftpad, *numbers)


def _room(W: int, made_for: tuple, lengths: Tensor) -> Plan:
    items = lengths.new_empty(W, 4, dtype=torch.int32)
    return Plan(items, lengths.new_empty(made_for[1] + 1, dtype=torch.int32), *made_for)


def _fill(
    items: Tensor,
    first_slot: Tensor,
    lengths: Tensor,
    leftpad: Tensor | None,
    programs: int,
    max_len: int,
    reach: int | None,
    block_n: int,
) -> None:
    """Check the lengths, their values where that is free, then launch."""
    _check(items, first_slot, lengths, leftpad, programs, max_len, reach, block_n)
    from kernels.plan.plan_kernel import plan_call  # at the first call, since it loads triton

    plan_call(
        items,
        first_slot,
        lengths,
        leftpad,
        programs=programs,
        max_len=max_len,
        reach=reach,
        block_n=block_n,
    ).launch(lengths.device)


def _check(*arguments: Tensor | int | None) -> None:
    _, _, lengths, leftpad, _, max_len, *_ = arguments
    B, device = lengths.numel(), lengths.device
    check_index("cache_seqlens", lengths, B, device, max_len)
    check_index("cache_leftpad", leftpad, B, device, max_len)
    check_device(device)


def _fake(*_: object) -> None:
    """Nothing is returned: the op writes into items and first_slot."""


_fill_op = define("decode_plan", _fill, _fake, check=_check, writes=("items", "first_slot"))


def _check_numbers(**numbers: int | None) -> None:
    for name, x in numbers.items():
        if x is None and name in ("num_sms", "programs"):
            continue
        check_int(name, x, 0 if name == "max_len" else 1, 2**30)
    block_n = numbers["block_n"]
    if block_n < 16 or block_n & (block_n - 1):
        raise ValueError(f"block_n must be a power of two, at least 16; got {block_n}")


def _check_out(plan: Plan, W: int, made_for: tuple, device: torch.device) -> None:
    if not isinstance(plan, Plan):
        raise TypeError(f"out must be a Plan; got {type(plan).__name__}")
    has = (len(plan.items), *plan.made_for(), plan.items.device)
    if has != (W, *made_for, device):
        names = "items, block_n, B, Lq, max_len, left, padded, device"
        raise ValueError(f"out must be made for ({names}) = {(W, *made_for, device)}; got {has}")

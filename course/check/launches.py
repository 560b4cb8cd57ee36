"""A Triton kernel under a check: what its masked lanes see, who stores what, what stays as it was.

The interpreter is kinder than a GPU. It puts 0 into the masked lanes of a load that has no `other`,
and it runs the programs of a grid one after another, so that a program may do another's work and
nobody notices. `Watched` launches a kernel so that both show:

    masked lanes without `other`     hold NaN (integers: -1), as a GPU may put anything there
    every store                      is noted, with the program that made it
    every tensor                     is compared with what it was before

On a GPU none of the first two can be seen, and only the third is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

# Bits of a NaN in the formats that NumPy has no type for; the interpreter keeps them as integers.
_NAN_BITS = {"bf16": 0x7FC0, "fp8e4nv": 0x7F, "fp8e5": 0x7E}
_UNWRITTEN = -2  # what `guards.poisoned` puts into integers


class Store(NamedTuple):
    """One store of one program: the addresses of the bytes where its entries begin."""

    program: tuple[int, int, int]
    addresses: np.ndarray


def is_kernel(answer: Any) -> bool:
    """Say whether an answer is launched with a grid."""
    return hasattr(type(answer), "__getitem__") and callable(getattr(answer, "fn", None))


class Watched:
    """A Triton kernel whose launches are watched; conduct: sentences about what it did wrong."""

    def __init__(self, kernel: Any, inputs_may_change: bool = False) -> None:
        self.kernel = kernel
        self.inputs_may_change = inputs_may_change
        self.conduct: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kernel, name)

    def __getitem__(self, grid: Any) -> Callable:
        def launch(*args: Any, **kwargs: Any) -> None:
            named = dict(zip(self.kernel.arg_names, args, strict=False)) | kwargs
            tensors = {name: x for name, x in named.items() if isinstance(x, torch.Tensor)}
            before = {name: x.clone() for name, x in tensors.items()}
            with as_on_a_gpu() as stores:
                self.kernel[grid](*args, **kwargs)
            if not self.inputs_may_change:
                self.conduct += _changed(tensors, before)
            self.conduct += _shared(tensors, stores, _programs(grid, named))

        return launch

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Refuse, as a kernel called without a grid does."""
        raise TypeError("a kernel must be launched with a grid: kernel[grid](...)")


@contextmanager
def as_on_a_gpu() -> Iterator[list[Store]]:
    """Let interpreted kernels meet what a GPU would do; yield the list of stores that they make."""
    stores: list[Store] = []
    builder = _interpreter()
    if builder is None:
        yield stores
        return
    load, store = builder.create_masked_load, builder.create_masked_store

    def masked_load(ptrs: Any, mask: Any, other: Any, *more: Any) -> Any:
        return load(ptrs, mask, _anything(ptrs) if other is None else other, *more)

    def masked_store(ptrs: Any, value: Any, mask: Any, *more: Any) -> Any:
        addresses = np.broadcast_to(ptrs.data, mask.data.shape)[mask.data.astype(bool)]
        stores.append(Store(tuple(builder.grid_idx), addresses))
        return store(ptrs, value, mask, *more)

    builder.create_masked_load, builder.create_masked_store = masked_load, masked_store
    try:
        yield stores
    finally:
        del builder.create_masked_load, builder.create_masked_store  # the class's own show again


def _interpreter() -> Any:
    """Return what Triton's interpreter calls for each operation; None where kernels compile."""
    from kernels.runtime import INTERPRETED  # here: exercises without a kernel don't need triton

    if not INTERPRETED:
        return None
    from triton.runtime.interpreter import interpreter_builder

    return interpreter_builder


def _anything(ptrs: Any) -> Any:
    """What a GPU may leave in masked lanes: nothing that a right answer could live with."""
    from triton.runtime.interpreter import TensorHandle, _get_np_dtype

    kind = ptrs.get_element_ty()
    dtype = _get_np_dtype(kind)
    floating = np.issubdtype(dtype, np.floating)
    fill = math.nan if floating else _NAN_BITS.get(str(kind), -1 if dtype.kind == "i" else 1)
    return TensorHandle(np.full(ptrs.data.shape, fill, dtype=dtype), kind)


def _programs(grid: Any, named: dict[str, Any]) -> int:
    return math.prod(grid(named) if callable(grid) else grid)


def _same(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Compare bits: NaN is equal to itself, and an 8-bit float has no comparison."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return torch.equal(x.contiguous().view(whole), y.contiguous().view(whole))


def _was_unwritten(x: torch.Tensor) -> bool:
    """Say whether a tensor held nothing: an output, which a kernel is free to write."""
    empty = x.float().isnan() if x.dtype.is_floating_point else x == _UNWRITTEN
    return bool(empty.all())


def _changed(tensors: dict[str, torch.Tensor], before: dict[str, torch.Tensor]) -> list[str]:
    return [
        f"It changes its input `{name}`: a kernel must leave what it reads as it was."
        for name, x in tensors.items()
        if not _was_unwritten(before[name]) and not _same(x, before[name])
    ]


def _shared(tensors: dict[str, torch.Tensor], stores: list[Store], programs: int) -> list[str]:
    """Say what is wrong with how the programs share the work."""
    by_program: dict[tuple, list[np.ndarray]] = {}
    for store in stores:
        by_program.setdefault(store.program, []).append(store.addresses)
    written = {who: np.unique(np.concatenate(what)) for who, what in by_program.items()}
    written = {who: what for who, what in written.items() if what.size}
    if programs > 1 and len(written) == 1:
        who = _named(next(iter(written)))
        return [f"Only program {who} of {programs} stores anything: the work must be divided."]
    owner: dict[int, tuple] = {}
    for who, what in written.items():
        for address in what.tolist():
            if owner.setdefault(address, who) != who:
                return [_twice(tensors, address, _named(owner[address]), _named(who))]
    return []


def _twice(tensors: dict[str, torch.Tensor], address: int, one: str, other: str) -> str:
    for name, x in tensors.items():
        span = sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True)) + 1
        if x.data_ptr() <= address < x.data_ptr() + span * x.element_size():
            where = f"the same entry of `{name}`"
            break
    else:
        where = "the same place"
    return f"Programs {one} and {other} both store to {where}: each result is one program's work."


def _named(program: tuple[int, int, int]) -> str:
    """Return "2" or "(2, 1)": trailing zeros say nothing in a grid of fewer dimensions."""
    used = list(program)
    while len(used) > 1 and used[-1] == 0:
        used.pop()
    return str(used[0]) if len(used) == 1 else f"({', '.join(map(str, used))})"

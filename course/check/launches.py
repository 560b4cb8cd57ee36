"""The launches of a checked kernel: what it changed that it should not, and who did the work."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch

from course.check.guards import UNWRITTEN
from course.check.interpreter import Record, Store, as_on_a_gpu, span
from course.check.rewritten import attribute


def is_kernel(answer: Any) -> bool:
    """Say whether an answer is launched with a grid."""
    return hasattr(type(answer), "__getitem__") and callable(attribute(answer, "fn"))


class Noticed(NamedTuple):
    """What was noticed of one launch, or of several: what `Seen` has under these names."""

    conduct: tuple[str, ...] = ()
    unfilled: tuple[str, ...] = ()

    @classmethod
    def shared_out(cls, noticed: list[Noticed], count: int) -> list[Noticed]:
        """Return one for each of `count` results: its own launch's, or if that is unknown, all."""
        if len(noticed) == count:
            return noticed
        conduct = tuple(chain.from_iterable(launch.conduct for launch in noticed))
        unfilled = tuple(chain.from_iterable(launch.unfilled for launch in noticed))
        return [cls(conduct, unfilled)] * count


class Watched:
    """A Triton kernel whose launches are watched; used like the kernel.

    launched: the arguments of the first launch, and its keywords that are none of the kernel's,
    such as num_warps.
    """

    def __init__(self, kernel: Any, inputs_may_change: bool = False) -> None:
        self.kernel = kernel
        self.inputs_may_change = inputs_may_change
        self._noticed: list[Noticed] = []
        self.launched: tuple[dict[str, Any], dict[str, Any]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kernel, name)

    def __getitem__(self, grid: Any) -> Callable:
        def launch(*args: Any, **kwargs: Any) -> None:
            names = self.kernel.arg_names
            named = dict(zip(names, args, strict=False)) | kwargs
            options = {name: x for name, x in kwargs.items() if name not in names}
            tensors = {name: x for name, x in named.items() if isinstance(x, torch.Tensor)}
            before = {name: x.clone() for name, x in tensors.items()}
            if self.launched is None:
                self.launched = {name: named[name] for name in names if name in named}, options
            with as_on_a_gpu([*tensors.values()]) as record:
                self.kernel[grid](*args, **kwargs)
            conduct = _strayed(record)
            if not self.inputs_may_change:
                conduct += _changed(tensors, before)
            programs = math.prod(grid(named) if callable(grid) else grid)
            conduct += _shared(tensors, record.stores, programs)
            conduct += _rounded(record)
            self._noticed.append(Noticed(tuple(conduct), tuple(record.unfilled)))

        return launch

    def noticed(self) -> list[Noticed]:
        """Return what was noticed of each launch since the last time."""
        noticed, self._noticed = self._noticed, []
        return noticed

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Refuse, as a kernel called without a grid does."""
        raise TypeError("a kernel must be launched with a grid: kernel[grid](...)")


def _strayed(record: Record) -> list[str]:
    stores = [
        f"It stores where no tensor is ({line}): a mask or an offset lets it go too far."
        for line in record.astray[:1]
    ]
    loads = [
        f"It reads where no tensor is ({line}): on a GPU that may end the program. Mask the load."
        for line in record.stray_loads[:1]
    ]
    return stores + loads


def _rounded(record: Record) -> list[str]:
    return [
        f'A dot of fp32 tiles has no input_precision="ieee" ({line}): a GPU rounds its inputs to '
        "TF32 first, which has 10 bits."
        for line in record.rounded[:1]
    ]


def _same(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Compare bits: NaN is equal to itself, and an 8-bit float has no comparison."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return torch.equal(x.contiguous().view(whole), y.contiguous().view(whole))


def _was_unwritten(x: torch.Tensor) -> bool:
    """Say whether a tensor held nothing: an output, which a kernel is free to write."""
    empty = x.float().isnan() if x.dtype.is_floating_point else x == UNWRITTEN
    return bool(empty.all())


def _changed(tensors: dict[str, torch.Tensor], before: dict[str, torch.Tensor]) -> list[str]:
    return [
        f"It changes its input `{name}`: a kernel must leave what it reads as it was."
        for name, x in tensors.items()
        if not _was_unwritten(before[name]) and not _same(x, before[name])
    ]


def _shared(tensors: dict[str, torch.Tensor], stores: list[Store], programs: int) -> list[str]:
    """Say what is wrong with how the programs share the work."""
    if programs == 1:
        return []
    by_program: dict[tuple, list[np.ndarray]] = {}
    for store in stores:
        by_program.setdefault(store.program, []).append(store.addresses)
    written = {who: np.unique(np.concatenate(what)) for who, what in by_program.items()}
    written = {who: what for who, what in written.items() if what.size}
    if len(written) == 1:
        who = _named(next(iter(written)))
        return [f"Only program {who} of {programs} stores anything: the work must be divided."]
    if alone := _by_one(tensors, written, programs):
        return [alone]
    everything = np.concatenate(list(written.values())) if written else np.empty(0)
    if np.unique(everything).size == everything.size:
        return []
    owner: dict[int, tuple] = {}
    for who, what in written.items():
        twice = [address for address in what.tolist() if owner.setdefault(address, who) != who]
        if twice:
            address, where = _first(tensors, twice)
            said = f"Programs {_named(owner[address])} and {_named(who)} both store to {where}"
            return [f"{said}: each result is one program's work."]
    return []


def _by_one(
    tensors: dict[str, torch.Tensor], written: dict[tuple, np.ndarray], programs: int
) -> str:
    """Say which result, with entries for all programs, a single program stores; or ""."""
    for name, x in tensors.items():
        start, end = span(x)
        parts = {who: int(((start <= w) & (w < end)).sum()) for who, w in written.items()}
        parts = {who: count for who, count in parts.items() if count}
        if len(parts) == 1 and max(parts.values()) >= programs:
            who = _named(next(iter(parts)))
            return f"Only program {who} of {programs} stores to `{name}`: the work must be divided."
    return ""


def _first(tensors: dict[str, torch.Tensor], addresses: list[int]) -> tuple[int, str]:
    """Return the first of some ascending addresses, and words for where it is.

    First is the first argument's: how tensors lie in memory must not change what is said.
    """
    for name, x in tensors.items():
        start, end = span(x)
        if hit := [address for address in addresses if start <= address < end]:
            return hit[0], f"the same entry of `{name}`"
    return addresses[0], "the same place"


def _named(program: tuple[int, int, int]) -> str:
    """Return "2" or "(2, 1)": trailing zeros say nothing in a grid of fewer dimensions."""
    used = list(program)
    while len(used) > 1 and used[-1] == 0:
        used.pop()
    return str(used[0]) if len(used) == 1 else f"({', '.join(map(str, used))})"

"""Calls that were made before, and what need not be done again for the next one like them.

A decode step calls an op at every layer, and the next step calls it again, with tensors that differ
in nothing but their numbers. Checking them and describing the launch to Triton takes the host
longer than a GPU needs for a short context. It is done once:

    the first call     check → choose tiles and splits → describe → Triton binds, compiles → launch
                                                 │
                       remembered under the call's key, without any tensor
                                                 ▼
    the next ones      key ────────────► allocate → fill in addresses → launch

A key (`sign`) holds everything that the skipped steps looked at:

    each tensor     shape, strides, dtype, device; whether a gradient of it is wanted; whether its
                    address is a multiple of 16: if not, Triton compiles another kernel
    all tensors     which of them begin at the same address: MLA's values are columns of its keys
    other options   type and value, for True equals 1 and only one of them may be accepted
    the process     the settings of Triton that change what is compiled

It holds no number that is on the device. Lengths, pages and scales may change from call to call;
where they are checked, on the CPU, they are checked every time. A call that raises leaves nothing
behind, so its error is the same the next time. What is not ordinary has no key, and takes the long
way: `torch.compile`, fake tensors, subclasses, tensors without memory, sparse ones.

The cache keeps the last `MOST` keys, may be used from any thread, and is emptied by `clear`. Call
that after changing what no key holds: a kernel, its module's constants, a hook added to it by
Triton's `add_pre_run_hook`.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from operator import itemgetter
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from kernels.call import ORDINARY, KernelCall, is_watched, on_device
from kernels.runtime import INTERPRETED

MOST = 1024
"""Keys to keep. An entry takes about 12 kB, and a model with one cache makes a handful of them."""

DIRECT = not INTERPRETED and torch.version.hip is None
"""Whether kernels are started past Triton's binder. AMD's compiler also looks at the size of a
tensor's storage, which no key holds; there, and in the interpreter, only the checks are skipped."""

_PLAIN = frozenset((int, float, bool, str, type(None)))


class CallCache:
    """A bounded dictionary for several threads; the oldest entries go first.

    Reading changes nothing, so it takes no lock: that a dictionary looks up a key at once is
    Python's promise, with or without its global lock.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most, self._entries, self._turn = most, {}, Lock()

    def get(self, key: tuple | None) -> Any:
        """Return what is remembered under this key; None if nothing is, or if it is None."""
        return None if key is None else self._entries.get(key)

    def put(self, key: tuple | None, entry: Any) -> None:
        """Remember an entry, and forget the oldest if there are too many; no key: do nothing."""
        if key is None:
            return
        with self._turn:
            self._entries[key] = entry
            while len(self._entries) > self._most:
                del self._entries[next(iter(self._entries))]

    def clear(self) -> None:
        """Forget everything."""
        with self._turn:
            self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)


CALLS = CallCache()
"""Shared by all ops; a key begins with the op's name."""


def clear() -> None:
    """Forget all calls: the next one of each kind is checked and described again."""
    CALLS.clear()


def size() -> int:
    """Return how many kinds of calls are remembered, at most `MOST`."""
    return len(CALLS)


def sign(op: tuple[str, ...], arguments: Iterable[object]) -> tuple[tuple | None, list[int]]:
    """Return a call's key, and the addresses of the tensors among its arguments, in their order.

    op: its name, and those of its optional arguments if the caller chooses which to pass. The key
    is None if the call must not be remembered, nor looked up.
    """
    if is_watched() or (triton := settings()) is None:
        return None, []
    parts, addresses, grad = [op, triton], [], torch.is_grad_enabled()
    for x in arguments:
        kind = type(x)
        if x is None:
            parts.append(None)
        elif kind in ORDINARY:
            try:
                address = x.data_ptr()
                aligned, wanted = address % 16 == 0, grad and x.requires_grad
                parts.append((x.shape, x.stride(), x.dtype, x.device, aligned, wanted))
            except RuntimeError:  # no memory, or no strides: sparse, nested …
                return None, []
            if not address and x.numel():  # freed, or never there
                return None, []
            addresses.append(address)
        elif kind in _PLAIN and (x or kind is not float):  # 0.0 equals -0.0
            parts.append((kind, x))
        elif kind is tuple and _PLAIN.issuperset(map(type, x)):
            parts.append((*map(type, x), x))
        else:
            return None, []
    if len(set(addresses)) < len(addresses):
        parts.append(tuple(map(addresses.index, addresses)))
    return tuple(parts), addresses


def settings() -> tuple | None:
    """Return the settings of Triton that change what it compiles; None if somebody looks on.

    A hook gets each launch as Triton makes it: profilers set those around launches.
    """
    if not DIRECT:
        return ()
    runtime, compilation = _knobs()
    for hook in (runtime.launch_enter_hook, runtime.launch_exit_hook):
        if hook is not None and getattr(hook, "calls", True):  # a chain of them may be empty
            return None
    if getattr(runtime, "add_stages_inspection_hook", None) is not None:  # since Triton 3.7
        return None
    homomorphic = getattr(compilation, "fpsan_homomorphic_casts", False)  # since Triton 3.9
    return runtime.debug, compilation.instrumentation_mode, homomorphic


@cache
def _knobs() -> tuple[Any, Any]:
    from triton import knobs  # at the first call, since it loads triton

    return knobs.runtime, knobs.compilation


class Relaunch:
    """A launch that was made once, for other tensors of the same kind.

    call, compiled: the launch, and the kernel that Triton returned for it. inputs: the addresses of
    the tensors that its op was called with, as `sign` returns them; made: the tensors that the op
    made itself. Started with the addresses of as many others, inputs first. Those of new tensors
    are multiples of 16, as they were: PyTorch's allocators see to that.
    """

    def __init__(
        self, call: KernelCall, compiled: Any, inputs: Sequence[int], made: Sequence[Tensor]
    ) -> None:
        def place(x: Tensor) -> int:
            for i, own in enumerate(made):
                if x is own:
                    return len(inputs) + i
            return inputs.index(x.data_ptr())

        self._fill = _filler(tuple(call.args.values()), place)
        self._owner = compiled  # unloads the kernel when nobody refers to it any more
        self._grid, self._run = (*call.grid, 1, 1)[:3], compiled.run
        # What `run` takes after the stream: the kernel, then three for hooks, of which there are
        # none (see `settings`).
        self._kernel = (compiled.function, compiled.packed_metadata, None, None, None)

    def start(self, addresses: Sequence[int], stream: int) -> None:
        """Start the kernel on the current device, on this stream of it."""
        self._run(*self._grid, stream, *self._kernel, *self._fill(addresses))


def launch_again(
    launches: Sequence[Relaunch], addresses: Sequence[int], device: torch.device
) -> None:
    """Launch the kernels one after the other on the current stream of a device."""
    with on_device(device):
        triton = _driver().active
        stream = triton.get_current_stream(triton.get_current_device())
        for launch in launches:
            launch.start(addresses, stream)


@cache
def _driver() -> Any:
    from triton.runtime import driver

    return driver


def relaunches(
    launched: Sequence[tuple[KernelCall, Any]], inputs: Sequence[int], made: Sequence[Tensor]
) -> tuple[Relaunch, ...] | None:
    """Return how to make these launches again without Triton's binder; None if that cannot be done.

    launched: each call with what Triton returned for it. The rest as in `Relaunch`.
    """
    from triton.compiler import CompiledKernel

    for call, compiled in launched:
        if not isinstance(compiled, CompiledKernel) or call.kernel.pre_run_hooks:
            return None
    try:
        return tuple(Relaunch(*one, inputs, made) for one in launched)
    except ValueError:  # an argument is neither the caller's tensor nor one that the op made
        return None


def _filler(value: tuple, place: Callable[[Tensor], int]) -> Callable[[Sequence[int]], tuple]:
    """Return a function from addresses to this tuple, with an address in place of each tensor.

    A compiled kernel takes addresses, and tuples for NamedTuples; all the rest is constant.
    """
    blank, parts = [None if isinstance(x, Tensor) else x for x in value], []
    for i, x in enumerate(value):
        if isinstance(x, Tensor):
            parts.append((i, itemgetter(place(x))))
        elif isinstance(x, tuple):
            blank[i] = None
            parts.append((i, _filler(x, place)))

    def fill(addresses: Sequence[int]) -> tuple:
        filled = blank.copy()
        for i, part in parts:
            filled[i] = part(addresses)
        return tuple(filled)

    return fill

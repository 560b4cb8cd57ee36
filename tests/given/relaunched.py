"""A script: what is handed to the GPU by the first call of a kind, and by those after it.

Run with TRITON_INTERPRET=0, without a GPU. The last step of a launch is replaced by one that notes
its arguments (`benchmarks.absent_gpu`), and the compiler by one that returns at once. For each call
of `similar_calls` there are two sets of tensors: the first is decoded twice, then the second, which
was not seen before, and then again with an empty cache. What is launched must be the same: which
kernels, on which grids, with the same numbers and with pointers to the same places in the tensors.
Prints one line of JSON: what differs, by call.
"""

import json
from collections.abc import Callable
from typing import Any

import torch
import triton.compiler
from torch import Tensor
from triton.compiler import CompiledKernel

from benchmarks import absent_gpu
from kernels import append, call_cache
from kernels.flash_decoding import flash_decode

NOTED: list[tuple] = []
MADE: list[Tensor] = []


class Uncompiled(CompiledKernel):
    """A kernel of which only the key that it would be compiled for is known."""

    made = 0

    def __init__(self, source: Any, **options: Any) -> None:
        Uncompiled.made += 1
        self.src, self.packed_metadata, self.metadata, self.module = source, None, None, object()
        self.name = self.function = f"{source.name} {Uncompiled.made}"  # tells it from others
        self._run = note

    def __del__(self) -> None:
        """There is nothing to unload."""


def note(x: int, y: int, z: int, stream: int, function: str, metadata: Any, *rest: Any) -> None:
    """Note a launch: grid, kernel, arguments; addresses in place of tensors."""
    NOTED.append(((x, y, z), stream, function, plain(rest[3:])))


def plain(x: Any) -> Any:
    """Addresses for tensors, tuples for NamedTuples."""
    if isinstance(x, Tensor):
        return x.data_ptr()
    return tuple(map(plain, x)) if isinstance(x, tuple) else x


def noting_empty(empty: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.empty`, which notes what it returns."""

    def noted(*shape: Any, **kind: Any) -> Tensor:
        MADE.append(empty(*shape, **kind))
        return MADE[-1]

    return noted


def renamed(launches: list[tuple], inputs: list[Tensor], made: list[Tensor]) -> Any:
    """The launches with names for addresses: in which input or new tensor, and how far into it."""
    known = {f"input {i}": x for i, x in enumerate(inputs)}
    known |= {f"made {i}": x for i, x in enumerate(made)}
    spans = {name: (x.data_ptr(), x.data_ptr() + x.nbytes) for name, x in known.items()}

    def named(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(map(named, x))
        if type(x) is not int or x < 2**32:
            return x
        return next((f"{n} + {x - a}" for n, (a, b) in spans.items() if a <= x < b), "unknown")

    return [named(launch) for launch in launches]


def launches_of(run: Callable[..., Any], call: dict) -> Any:
    """What one call launches, and what its results look like."""
    NOTED.clear()
    MADE.clear()
    result = run(**call)
    inputs = [x for x in call.values() if isinstance(x, Tensor)]
    if call.get("plan") is not None:
        inputs += [call["plan"].items, call["plan"].first_slot]
    made = MADE + [x for x in (result if isinstance(result, tuple) else (result,)) if x is not None]
    return renamed(NOTED, inputs, made), looks(result)


def looks(result: Any) -> Any:
    """Shapes, strides and dtypes of what a call returns."""
    results = result if isinstance(result, tuple) else (result,)
    return [x if x is None else (x.shape, x.stride(), x.dtype) for x in results]


def compare(run: Callable[..., Any], make: Callable[[], dict]) -> list[str]:
    """What is wrong with the calls after the first."""
    wrong, one, other = [], make(), make()
    call_cache.clear()
    first = launches_of(run, one)
    if call_cache.size() != 1:
        return ["not remembered"]
    if next(iter(call_cache.CALLS._entries.values())).launches is None:
        wrong.append("launched by Triton's binder")
    if launches_of(run, one) != first:
        wrong.append("the same call again differs")
    again = launches_of(run, other)
    if call_cache.size() != 1:
        wrong.append("the second set of tensors has another key")
    call_cache.clear()
    if launches_of(run, other) != again or again != first:
        wrong.append("other tensors differ")
    if "unknown" in str(first):
        wrong.append("a pointer to nowhere")
    return wrong


def watched() -> dict[str, Any]:
    """How many calls are remembered when settings and hooks of Triton change a launch."""
    from similar_calls import plain as call
    from triton import knobs

    from kernels.flash_decoding.split import split_kernel

    def remembered() -> int:
        flash_decode(**call())
        return call_cache.size()

    def seen(*arguments: Any, **options: Any) -> None:
        told.append(arguments)

    told: list = []
    call_cache.clear()
    found = {"first": remembered(), "again": remembered()}
    with knobs.runtime.scope():
        knobs.runtime.debug = not knobs.runtime.debug
        found["debug"] = remembered()
    with knobs.compilation.scope():
        knobs.compilation.instrumentation_mode = "fpsan"
        found["instrumented"] = "fpsan" in str(call_cache.sign(("op",), ())[0])
    hooks = knobs.runtime.launch_enter_hook
    hooks.add(seen)
    found["a profiler's hook"] = call_cache.sign(("op",), ())[0]
    hooks.remove(seen)
    call_cache.clear()
    split_kernel.add_pre_run_hook(seen)
    found["a kernel's hook"] = (remembered(), remembered(), len(told))
    split_kernel.pre_run_hooks.clear()
    call_cache.clear()
    step = torch.compile(lambda **x: flash_decode(**x), fullgraph=True, backend="aot_eager")
    found["torch.compile"] = (len(step(**call())), call_cache.size())
    return found


def main() -> None:
    """Compare all calls, print what differs."""
    triton.compiler.compile = Uncompiled
    torch.empty = noting_empty(torch.empty)
    absent_gpu.install()
    from similar_calls import APPEND, DECODE, GPU_ONLY

    decode = {**DECODE, **GPU_ONLY}
    found = {}
    for kind, run, calls in (
        ("decode", lambda **x: flash_decode(**x, return_lse=True), decode),
        ("append", append.append_kv, APPEND),
    ):
        for name, make in calls.items():
            found[f"{kind}: {name}"] = compare(run, make)
        call_cache.clear()
        for make in calls.values():
            run(**make())
        found[f"{kind}: keys"] = [f"{call_cache.size()} for {len(calls)}"]
    print(json.dumps(found | {"watched": watched()}))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()

"""What is compiled: one of our launches, or a kernel with its argument types spelled out.

A launch compiles a kernel anew for every combination of argument types it has not seen yet. It
looks at each value and records only this:

    tensor, fp16                    "*fp16", and a hint if its address is a multiple of 16 bytes
    48                              "i32", and a hint, since it is a multiple of 16
    47                              "i32"
    1, None, a tl.constexpr member  nothing: the value itself becomes part of the code
    0.5, True                       "fp32", "u1"
    a tuple                         a tuple of these

`LaunchCase` holds the launch, made with tensors on torch's "meta" device, which have a shape but no
memory; Triton's own function inspects them. `CompileCase` holds the outcome, in words: for a
learner's kernel, which is never launched.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kernels.compile_report.targets import Target, target

if TYPE_CHECKING:  # it needs triton; `course.hardware` reads `targets` where there is none
    from kernels.call import KernelCall

_HINT = [["tt.divisibility", 16]]


@dataclass(frozen=True)
class CompileCase:
    """One kernel and the types to compile it for, as a launch would specialise them.

    kernel: a `@triton.jit` function. signature: a type for every argument but the constexprs;
    "*fp16" is a pointer, "i32", "i64", "fp32" are numbers, and ":16" after it promises a multiple
    of 16 (a launch checks for itself; 128-bit loads need it). A stride that is always 1 belongs
    among the constexprs, where a launch puts it, too.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 3


@dataclass(frozen=True)
class LaunchCase:
    """One launch of a shipped kernel, and what it promises.

    name: "<kernel> <dtype> D=<D> <configuration>", unique. make: given a `Target`, returns the
    `KernelCall` that would be launched there, with tensors on the meta device and
    interpreted=False: the tiles depend on the target.

    streams: names of pointers whose loads are all 128 bits wide. A load belongs to "k" if its
    source reads `tl.load(k_…)`, `tl.load(x.k_…)`, or the same with another function whose name
    begins with "load". dots: 16-bit tiles are multiplied, which takes tensor cores where the target
    has them. unsupported: name of a target → why this does not compile there.

    tile: given the call, how many bytes of K and V its loop reads per tile; None for a kernel that
    streams none. at_most: name of a target → instructions that a warp may issue per tile. at_least:
    name of a target → bytes of K and V that an SM must have in flight; see
    `kernels.compile_report.counts`.

    `kernels.compile_report.promises` checks that a case keeps them.
    """

    name: str
    make: Callable[[Target], KernelCall]
    streams: tuple[str, ...] = ()
    dots: bool = False
    unsupported: Mapping[str, str] = field(default_factory=dict)
    tile: Callable[[KernelCall], int] | None = None
    at_most: Mapping[str, int] = field(default_factory=dict)
    at_least: Mapping[str, int] = field(default_factory=dict)

    def tile_bytes(self, on: Target) -> int:
        """Return the bytes of a tile of the call on this target; 0 if it streams none."""
        return self.tile(self.make(on)) if self.tile else 0

    def on(self, name: int | str) -> CompileCase:
        """Return the types that a launch on `name` (80, "gfx942") finds, spelled out.

        Raises ValueError for a kernel with a tuple argument: signatures in words have none.
        """
        call = self.make(target(name))
        types, constants, hints = specialise(call)
        if any(len(path) > 1 for path in constants | hints):
            raise ValueError(f"{self.name} takes tuples, which a signature in words cannot express")
        names = list(types)
        return CompileCase(
            self.name,
            call.kernel,
            {
                name: kind + (":16" if (i,) in hints else "")
                for i, (name, kind) in enumerate(types.items())
                if kind != "constexpr"
            },
            {names[i]: value for (i,), value in constants.items()},
            call.num_warps,
            call.num_stages,
        )


def specialise(
    call: KernelCall, amd: bool = False
) -> tuple[dict[str, Any], dict[tuple[int, ...], Any], dict[tuple[int, ...], list]]:
    """Return types, constants and hints of a launch, as Triton's launcher finds them.

    Types have an entry for each parameter; the others are keyed by path: (3,) is the fourth
    argument, (3, 0) its first member. amd: AMD's launcher also notes which tensors are below 2 GB.
    Raises ValueError if `call.args` are not the kernel's parameters, in their order.
    """
    from triton._C.libtriton import native_specialize_impl
    from triton.backends import backends

    backend = backends["amd" if amd else "nvidia"].compiler
    parameters = inspect.signature(call.kernel.fn).parameters
    if list(call.args) != list(parameters):
        raise ValueError(f"args must be {list(parameters)}, in this order; got {list(call.args)}")
    types, constants, hints = {}, {}, {}

    def note(path: tuple[int, ...], kind: Any, hint: Any, value: Any) -> None:
        if kind == "constexpr":
            constants[path] = value
        elif isinstance(kind, tuple):
            for i, member in enumerate(zip(kind, hint, value, strict=True)):
                note((*path, i), *member)
        elif hint:
            hints[path] = backend.parse_attr(hint)

    for i, (name, value) in enumerate(call.args.items()):
        if "constexpr" in str(parameters[name].annotation):
            types[name], hint = "constexpr", None
        else:
            types[name], hint = native_specialize_impl(backend, value, False, True, True)
        note((i,), types[name], hint, value)
    return types, constants, hints


def source_of(case: CompileCase | LaunchCase, on: Target) -> tuple[Any, dict[str, int]]:
    """Return what `triton.compile` takes: an ASTSource, and the options of the launch."""
    from triton.compiler import ASTSource

    if isinstance(case, LaunchCase):
        call = case.make(on)
        source = ASTSource(call.kernel, *specialise(call, on.is_amd))
        options = {"num_warps": call.num_warps, "num_stages": call.num_stages}
        return source, options | ({"launch_pdl": True} if call.launch_pdl else {})
    words = {name: kind.split(":") for name, kind in case.signature.items()}
    names = case.kernel.arg_names
    source = ASTSource(
        case.kernel,
        {name: words[name][0] if name in words else "constexpr" for name in names},
        dict(case.constexprs),
        {(names.index(name),): _HINT for name in words if "16" in words[name][1:]},
    )
    return source, {"num_warps": case.num_warps, "num_stages": case.num_stages}

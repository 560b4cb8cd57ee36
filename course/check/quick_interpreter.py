"""What Triton's interpreter repeats at every call of a helper, done once: the same results, sooner.

While a kernel runs, the builtins of `tl` are replaced, among hundreds of members. The names never
change, so they are listed once; and a helper that a running kernel calls finds everything replaced
already, unless it sees `tl` under another name than those before it. Every result is a tensor of a
type, both made anew with shapes and sizes in three forms: what follows from the element type and
the shape is computed once. And whether sums of integers overflow is found with ten operations of
`tl`; NumPy's three say as well that none does.
"""

import inspect
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

_PRIVATE = ("_patch_builtin", "_patch_attr", "_patch_lang", "_get_np_dtype")
_OVERFLOW = "binary_op_sanitize_overflow_impl"


class Replacement(NamedTuple):
    """What takes the place of a member while kernels run."""

    owner: Any
    name: str
    value: Any


_builtins: list[Replacement] = []


def _remember(names: dict[Any, list[str]]) -> None:
    """Note the builtins themselves, as long as none is replaced."""
    found = ((owner, name) for owner in names for name in names[owner])
    _builtins[:] = [Replacement(*where, getattr(*where)) for where in found]


def put(members: Iterable[tuple[Any, str, Any]]) -> None:
    """Set members of owners: (owner, name, value) each."""
    for owner, name, value in members:
        setattr(owner, name, value)


def put_back() -> None:
    """Put the builtins of `tl` back where a kernel whose time was up has left them replaced."""
    import triton.language as tl

    if _builtins and not tl.core.is_builtin(tl.load):
        put(_builtins)


@cache
def replacements() -> tuple[Replacement, ...]:
    """Return what may replace members of Triton's interpreter and of `tl`, for the same results.

    Empty under a Triton that has other members.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    semantic = type(interpreter.interpreter_semantic)
    if not all(hasattr(interpreter, name) for name in _PRIVATE) or not hasattr(semantic, _OVERFLOW):
        return ()
    replace, replace_once = _patches(interpreter, tl)
    np_dtype_of, look_up = interpreter._get_np_dtype, cache(interpreter._get_np_dtype)

    def np_dtype(of: tl.dtype) -> object:
        element = of.element_ty if isinstance(of, tl.block_type) else of
        return look_up(element) if type(element) is tl.dtype else np_dtype_of(element)

    return (
        Replacement(interpreter, "_patch_builtin", replace),
        Replacement(interpreter, "_patch_lang", replace_once),
        Replacement(interpreter, "_get_np_dtype", np_dtype),
        Replacement(tl.block_type, "__init__", _block_type(tl.block_type.__init__, tl.dtype)),
        Replacement(tl.tensor, "__init__", _tensor(tl.tensor.__init__, tl.dtype, tl.block_type)),
        Replacement(semantic, _OVERFLOW, _overflow(getattr(semantic, _OVERFLOW))),
    )


def _patches(interpreter: Any, tl: Any) -> tuple[Callable, Callable]:
    """Return what replaces builtins and languages while a kernel runs, each only once."""
    search, replace_all = interpreter._patch_builtin, interpreter._patch_lang
    names = {
        owner: [name for name, member in inspect.getmembers(owner) if tl.core.is_builtin(member)]
        for owner in (tl, tl.core, tl.math, tl.tensor, tl.core.tensor_descriptor_base)
    }
    _remember(names)
    seen: dict[int, dict] = {}  # the globals of the helpers called so far by the running kernel

    def replace(owner: object, *rest: object) -> None:
        if owner not in names:
            return search(owner, *rest)
        for name in names[owner]:
            if tl.core.is_builtin(member := getattr(owner, name)):
                interpreter._patch_attr(owner, name, member, *rest)

    def replace_once(function: object) -> object:
        if tl.core.is_builtin(tl.load):  # nothing is replaced: this is a kernel, not a helper
            seen.clear()
        elif id(function.__globals__) in seen:
            return None  # what a helper's call returns is not used
        seen[id(function.__globals__)] = function.__globals__
        return replace_all(function)

    return replace, replace_once


def _overflow(slow: Callable) -> Callable:
    """Return the search for overflowing integers made quick where none does."""
    from triton.runtime.interpreter import TensorHandle

    operations = {"add": np.add, "sub": np.subtract, "mul": np.multiply}

    def search(self: Any, lhs: Any, rhs: Any, binary_op: Callable) -> None:
        if type(lhs.handle) is not TensorHandle or binary_op.__name__ not in operations:
            return slow(self, lhs, rhs, binary_op)
        x, y = lhs.handle.data, rhs.handle.data
        if x.dtype not in (np.int8, np.int16, np.int32) or x.dtype != y.dtype:
            return slow(self, lhs, rhs, binary_op)
        result = operations[binary_op.__name__](x, y, dtype=np.int64)
        fits = np.iinfo(x.dtype)
        if result.min() < fits.min or result.max() > fits.max:
            return slow(self, lhs, rhs, binary_op)

    return search


def _block_type(slow: Callable, dtype: type) -> Callable:
    """Return `tl.block_type.__init__` made quick for the types of numbers, which are few."""
    known: dict[tuple, dict[str, Any]] = {}

    def init(self: Any, element_ty: Any, shape: Any) -> None:
        if type(element_ty) is not dtype or any(type(n) is not int for n in shape):
            return slow(self, element_ty, shape)
        key = (
            id(element_ty),
            *shape,
        )  # the type is kept alive: its id stays its own
        if key not in known:
            slow(self, element_ty, shape)
            known[key] = dict(vars(self))
        vars(self).update(known[key])

    return init


def _tensor(slow: Callable, dtype: type, block_type: type) -> Callable:
    """Return `tl.tensor.__init__` made quick for numbers and blocks of them."""
    known: dict[tuple, dict[str, Any]] = {}

    def init(self: Any, handle: Any, type: Any) -> None:
        kind = type.__class__
        if kind is block_type and type.element_ty.__class__ is dtype:
            key = (id(type.element_ty), *type.shape)
        elif kind is dtype:
            key = (id(type),)
        else:
            return slow(self, handle, type)
        if key not in known:
            slow(self, handle, type)
            known[key] = {name: x for name, x in vars(self).items() if name != "handle"}
        vars(self).update(known[key])
        self.handle = handle

    return init

"""What Triton's interpreter repeats at every call of a helper, done once: the same results, sooner.

While a kernel runs, the builtins of `tl` are replaced, among hundreds of members. The names never
change, so they are listed once; and a helper that a running kernel calls finds everything replaced
already, unless it sees `tl` under another name than those before it.
"""

import inspect
from functools import cache
from typing import Any

_PRIVATE = ("_patch_builtin", "_patch_attr", "_patch_lang", "_get_np_dtype")


_builtins: list[tuple[Any, str, Any]] = []


def _remember(names: dict[Any, list[str]]) -> None:
    """Note the builtins themselves, as long as none is replaced."""
    found = ((owner, name) for owner in names for name in names[owner])
    _builtins[:] = [(owner, name, getattr(owner, name)) for owner, name in found]


def put_back() -> None:
    """Put the builtins of `tl` back where a kernel whose time was up has left them replaced."""
    import triton.language as tl

    if _builtins and not tl.core.is_builtin(tl.load):
        for owner, name, member in _builtins:
            setattr(owner, name, member)


@cache
def replacements() -> dict[str, Any]:
    """Return what may stand in `triton.runtime.interpreter` in place of the members so called.

    Empty under a Triton that has other members.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    if not all(hasattr(interpreter, name) for name in _PRIVATE):
        return {}
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

    np_dtype_of, look_up = interpreter._get_np_dtype, cache(interpreter._get_np_dtype)

    def np_dtype(of: tl.dtype) -> object:
        element = of.element_ty if isinstance(of, tl.block_type) else of
        return look_up(element) if type(element) is tl.dtype else np_dtype_of(element)

    return {"_patch_builtin": replace, "_patch_lang": replace_once, "_get_np_dtype": np_dtype}

"""Does an answer use the course's own function, in place of being one?"""

from __future__ import annotations

import contextlib
import dis
import functools
import inspect
import sys
from collections.abc import Iterator
from types import CodeType, MethodType
from typing import Any

from course.check.rewritten import attribute, plain
from course.check.spec import Exercise


def borrowed_from_us(exercise: Exercise, answer: Any) -> str:
    """Return the first function or class of `reference` or `kernels` that an answer uses and none
    of the right answers does, as "reference.online_softmax.merge"; or "".

    Helpers that the learner has defined are looked into as well, and so are classes and functions
    within functions.
    """
    allowed = {name for right in (exercise.right, *exercise.also_right) for name in _ours(right)}
    return next((name for name in _ours(answer) if name not in allowed), "")


def _ours(answer: Any, seen: tuple = ()) -> Iterator[str]:
    """Yield the functions and classes of `reference` and `kernels` that an answer is or mentions.

    An exception is no help, so those are left out.
    """
    for part in _unwrapped(answer):
        known = any(part is other for other in seen)  # not `in`: a class may define `==`
        if known or (inspect.isclass(part) and issubclass(part, BaseException)):
            continue
        home = _home(part)
        if home.split(".")[0] in ("reference", "kernels"):
            yield f"{home}.{part.__qualname__}"
            continue
        if seen and home and home not in map(_home, seen):
            continue  # another library's: what it uses is not the learner's doing
        values = _members(part) if inspect.isclass(part) else _values_used(part)
        for value in [*values]:
            yield from _ours(value, (*seen, part))


def _home(part: Any) -> str:
    """Return the module of a function or class, or "": what a bare `exec` defines has none."""
    home = attribute(part, "__module__")
    return home if isinstance(home, str) else ""


def _unwrapped(value: Any) -> Iterator[Any]:
    """Yield the functions and classes that a value is, or is a thin wrapper around."""
    if isinstance(value, functools.partial):
        for inner in (value.func, *value.args, *value.keywords.values()):
            yield from _unwrapped(inner)
    elif isinstance(value, property):
        yield from filter(None, (value.fget, value.fset, value.fdel))
    elif isinstance(value, functools.cached_property):
        yield value.func
    elif inspect.isclass(value):
        yield value
    else:
        method = isinstance(value, (MethodType, classmethod, staticmethod))
        if inspect.isfunction(function := plain(value.__func__ if method else value)):
            yield function


def _members(kind: type) -> Iterator[Any]:
    """Yield what a class inherits from, and what its body has defined."""
    yield from kind.__bases__
    yield from vars(kind).values()


def _values_used(function: Any) -> Iterator[Any]:
    """Yield what a function gets as a default or from around it, and the globals that it loads."""
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # it is still empty
            yield cell.cell_contents
    yield from _globals_used(function.__code__, function.__globals__, [])


def _globals_used(code: CodeType, names: dict[str, Any], imported: list) -> Iterator[Any]:
    """Yield the globals that some code loads, and what it takes from modules by a dot.

    For modules that it imports itself: whatever they have of a name that it takes from anything.
    The code of inner functions, of classes and of comprehensions comes after its own. names: the
    globals. imported: the modules that the code around it has imported; its own are added.
    """
    module = None
    for step in dis.get_instructions(code):
        if step.opname in ("IMPORT_FROM", "LOAD_ATTR", "LOAD_METHOD"):
            yield from (getattr(other, step.argval, None) for other in imported)
        if step.opname == "IMPORT_NAME":
            imported.append(sys.modules.get(step.argval))
        elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            value = names.get(step.argval)
            module = value if inspect.ismodule(value) else None
            yield value
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD") and module is not None:
            value = getattr(module, step.argval, None)
            module = value if inspect.ismodule(value) else None
            yield value
        else:
            module = None
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _globals_used(inner, names, imported)

"""A function written again with some of its text replaced: how a slip is made of a right answer."""

from __future__ import annotations

import inspect
import itertools
import linecache
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

Changes = Sequence[tuple[str, str]]
_MARKS = re.compile(r"@(right|also_right)\n")  # what `course.check.spec` puts above an answer
_numbers = itertools.count(1)


class DoesNotApply(ValueError):
    """A text to replace is not in the source."""


def plain(answer: Any) -> Any:
    """Return the Python function of an answer: what `triton.jit` was given, or the answer."""
    inner = attribute(answer, "fn")
    function, passed = inner if callable(inner) else answer, []
    while callable(inner := inspect.getattr_static(function, "__wrapped__", None)):
        passed.append(function)
        if any(inner is one for one in passed):  # they wrap each other
            break
        function = inner
    return function


def attribute(value: Any, name: str) -> Any:
    """Return an attribute, or None; None too where a learner's own `__getattr__` raises anything.

    A dictionary whose keys are its attributes raises KeyError, for example.
    """
    try:
        return getattr(value, name, None)
    except Exception:
        return None


def source_of(answer: Any) -> str:
    """Return the source of a function or a Triton kernel, dedented, without the frame's marks."""
    return _MARKS.sub("", textwrap.dedent(inspect.getsource(plain(answer))), count=1)


def replaced(source: str, changes: Changes) -> str:
    """Return `source` with each old text replaced by the new one, wherever it stands.

    Raises DoesNotApply if an old text is not there (any more).
    """
    for old, new in changes:
        if old not in source:
            raise DoesNotApply(f"the right answer does not contain {old!r}:\n{source}")
        source = source.replace(old, new)
    return source


def rewritten(answer: Any, changes: Changes, name: str) -> Any:
    """Return `answer` as its source defines it after the changes; `answer` stays as it is.

    The new function sees the module of the old one. Its source is findable, which Triton needs to
    compile it and a traceback to quote it; name: what a traceback calls the file.
    """
    return defined(answer, replaced(source_of(answer), changes), name)


def defined(answer: Any, source: str, name: str) -> Any:
    """Return what `source` defines in place of `answer`; as `rewritten` does."""
    function = plain(answer)
    file = f"<{name} {next(_numbers)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    names = dict(vars(sys.modules[function.__module__]))
    exec(compile(source, file, "exec", dont_inherit=True), names)
    return names[function.__name__]

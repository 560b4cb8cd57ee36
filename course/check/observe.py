"""Running somebody's code: what it returned, what it raised, and whether it returned at all."""

from __future__ import annotations

import functools
import inspect
import linecache
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from course.check import conditions
from course.check.launches import Noticed, Watched, is_kernel
from course.check.rewritten import plain
from course.check.seen import NotVerified, Seen
from course.check.spec import Exercise, Property


class ReturnedNothing(Exception):
    """The answer returned None where a result was wanted."""


class ChangedInput(Exception):
    """The answer wrote into one of its arguments."""


class TookTooLong(BaseException):
    """Time is up. A BaseException, so that an `except Exception` in an answer can't swallow it."""


@dataclass(frozen=True)
class Raised:
    """An exception instead of an answer. `line` is the learner's own, or empty."""

    error: BaseException
    line: str = ""

    @property
    def unwritten(self) -> bool:
        """Whether this is the stub's NotImplementedError, or a None; Triton wraps the former.

        With a message it is somebody else's: Triton's, about what it does not have.
        """
        stub = isinstance(self.root, NotImplementedError) and not str(self.root)
        return stub or isinstance(self.root, ReturnedNothing)

    @property
    def root(self) -> BaseException:
        """The original exception: Triton wraps those raised in a kernel."""
        return chain(self.error)[-1]


@dataclass(frozen=True)
class Unverified:
    """A probe could not check the answer here, and says why."""

    why: str


Observation = Seen | Raised | Unverified


def observe(exercise: Exercise, prop: Property, answer: Any, seeds: list[int]) -> list[Observation]:
    """Return what `answer` did under one property, one or more observations per seed.

    Every exception but TookTooLong becomes an observation; after the first one in a property, no
    further seeds are tried.
    """
    seen: list[Observation] = []
    watched = watch(answer, exercise)
    if isinstance(watched, Watched):
        watched.noticed()  # what is left of a property whose probe raised is none of this one's
    for seed in seeds:
        try:
            with conditions.fresh(seed):
                result = prop.probe(watched, torch.Generator().manual_seed(seed))
        except NotVerified as reason:
            return [*seen, Unverified(str(reason))]
        except Exception as error:
            return [*seen, Raised(error, line_of(error, answer))]
        new = [result] if isinstance(result, Seen) else list(result)
        if isinstance(watched, Watched):
            noticed = Noticed.shared_out(watched.noticed(), len(new))
            new = [replace(one, **x._asdict()) for one, x in zip(new, noticed, strict=True)]
        seen += new
    return seen


def watch(answer: Any, exercise: Exercise) -> Any:
    """Wrap a plain function so that returning None or changing an argument raises.

    What it sets in the process ends with the call. The launches of a Triton kernel are watched;
    classes and values are passed through unchanged.
    """
    if isinstance(answer, Watched):
        return answer
    if is_kernel(answer):
        return Watched(answer, inputs_may_change=exercise.changes_inputs)
    if not callable(answer) or isinstance(answer, type) or hasattr(type(answer), "__getitem__"):
        return answer

    def watched(*args: Any, **kwargs: Any) -> Any:
        before = [(path, t, t.clone()) for path, t in tensors_in((args, kwargs))]
        with conditions.kept():
            result = answer(*args, **kwargs)
        if result is None and not exercise.returns_none:
            raise ReturnedNothing
        for path, tensor, copy in before:
            if not exercise.changes_inputs and not _identical(tensor, copy):
                raise ChangedInput(_argument_name(answer, path))
        return result

    if inspect.isfunction(answer):
        return functools.wraps(answer)(watched)
    watched.__wrapped__ = answer  # an object's other attributes are its own business
    return watched


def tensors_in(value: Any, path: tuple = ()) -> Iterator[tuple[tuple, torch.Tensor]]:
    """Yield every tensor inside nested tuples, lists and dicts, with its path."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, (tuple, list)):
        for i, item in enumerate(value):
            yield from tensors_in(item, (*path, i))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from tensors_in(item, (*path, key))


def _identical(x: torch.Tensor, y: torch.Tensor) -> bool:
    return x.shape == y.shape and bool(((x == y) | (x.isnan() & y.isnan())).all())


def _argument_name(answer: Callable, path: tuple) -> str:
    where, which = path[0], path[1]
    if where == 1:
        return str(which)
    try:
        return list(inspect.signature(answer).parameters)[which]
    except Exception:  # no signature, or an object that raises anything when it is asked
        return f"argument {which + 1}"


def line_of(error: BaseException, answer: Any) -> str:
    """Return "line 3: …" of the learner's code where `error` came from, or "" if not from there."""
    function = plain(answer)
    home = function.__code__.co_filename if inspect.isfunction(function) else None
    for link in reversed(chain(error)):
        frames = traceback.extract_tb(link.__traceback__)
        theirs = [f for f in frames if f.filename == home or "ipykernel_" in f.filename]
        if theirs:
            last = theirs[-1]
            text = (last.line or linecache.getline(last.filename, last.lineno or 0)).strip()
            return f"line {last.lineno}: {text}" if text else f"line {last.lineno}"
    return ""


def chain(error: BaseException) -> list[BaseException]:
    """Return an exception and those it was raised from, the original one last."""
    links = [error]
    while links[-1].__cause__ is not None:
        links.append(links[-1].__cause__)
    return links


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TookTooLong inside the block after `seconds`.

    Uses SIGALRM, which only Unix has and only the main thread gets; elsewhere there is no limit.
    """
    alarm = getattr(signal, "SIGALRM", None)
    if alarm is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: Any) -> None:
        raise TookTooLong

    previous = signal.signal(alarm, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(alarm, previous)

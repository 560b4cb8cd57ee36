"""What a check has seen: what an answer returned in one call, and what was wanted."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from course.check.guards import Guarded
from course.check.wording import short


class NotVerified(Exception):
    """Raised by a probe that cannot check here: `raise NotVerified("needs a GPU")`."""


@dataclass(frozen=True)
class Seen:
    """What an answer returned in one call, and what was wanted.

    got, wanted: tensors, numbers, bools, strings, None, or (named) tuples, lists and dicts of
    them. Shapes, dtypes and NaN are compared too; NaN is only right where NaN is wanted.

    given: the inputs, in a few words: printed when the property fails.
    atol, rtol: |got - wanted| ≤ atol + rtol · |wanted|; None takes `torch.testing`'s default for
        the coarser dtype of the two (fp32: 1e-5 and 1.3e-6). If you give one, give both.
    names: what to call the parts of a tuple in a message, e.g. ("o", "lse"); a NamedTuple's
        fields are used automatically.
    guards: guarded buffers that the call was given; they must be intact afterwards.
    any_dtype: don't insist on `wanted`'s dtype.
    remark: what to print below the property if it holds, such as a score.
    conduct: what a kernel did that it should not, whatever its results (`launches.Watched`).
    unfilled: its lines that load with a mask but without `other`, where lanes were masked.
    """

    got: Any
    wanted: Any
    given: str = ""
    atol: float | None = None
    rtol: float | None = None
    names: tuple[str, ...] = ()
    guards: tuple[Guarded, ...] = ()
    any_dtype: bool = False
    remark: str = ""
    conduct: tuple[str, ...] = ()
    unfilled: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        answer: Callable,
        args: Sequence[Any],
        *,
        wanted: Any,
        given: str | None = None,
        kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Seen:
        """Call `answer(*args, **kwargs)`; describe the inputs automatically if `given` is None.

        wanted may be made of the arguments themselves: it is copied before the call.
        options: the other fields of `Seen` (atol, rtol, names, guards, any_dtype, remark).
        """
        kwargs = kwargs or {}
        if given is None:
            given = describe_call(answer, args, kwargs)
        wanted = copied(wanted)  # an answer may write into its arguments
        try:
            got = answer(*args, **kwargs)
        except Exception as error:
            error.add_note(given)  # the report says which inputs raised it
            raise
        return cls(got, wanted, given, **options)


def copied(value: Any) -> Any:
    """Return `value` with every tensor in it copied; tuples, lists and dicts keep their types."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: copied(part) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_make"):
        return value._make(map(copied, value))
    return type(value)(map(copied, value)) if type(value) in (tuple, list) else value


def describe_call(answer: Callable, args: Sequence[Any], kwargs: dict[str, Any]) -> str:
    """Return "x = …, y = …" under the parameter names of `answer`."""
    try:
        names = list(inspect.signature(answer).parameters)
    except Exception:  # no signature, or an object that raises anything when it is asked
        names = []
    names += [f"argument {i + 1}" for i in range(len(names), len(args))]
    pairs = [*zip(names, args, strict=False), *kwargs.items()]
    return ", ".join(f"{name} = {short(value)}" for name, value in pairs)

"""Is the answer what was wanted, and if not, what is wrong with it?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from course.check.seen import Seen
from course.check.wording import FEW, dtype_name, number, place, short

# atol and rtol as torch.testing.assert_close takes them
TOLERANCES = {
    torch.float64: (1e-7, 1e-7),
    torch.float32: (1e-5, 1.3e-6),
    torch.float16: (1e-5, 1e-3),
    torch.bfloat16: (1e-5, 1.6e-2),
}
WHY_NAN = " It was read outside an input, never written, or is 0 / 0 or -inf - (-inf)."


@dataclass(frozen=True)
class Complaint:
    """What is wrong with an answer. Empty sentence: got and wanted speak for themselves."""

    kind: str  # value, shape, dtype, nan, structure, guard, conduct
    sentence: str = ""


@dataclass(frozen=True)
class Tolerance:
    """The tolerances of one `Seen`, and whether the dtype matters."""

    atol: float | None
    rtol: float | None
    any_dtype: bool
    guarded: bool = False

    def of(self, got: torch.Tensor, wanted: torch.Tensor) -> tuple[float, float]:
        """Return (atol, rtol) as given, or the coarser dtype's default; 0 for integers."""
        if self.atol is not None or self.rtol is not None:
            return self.atol or 0.0, self.rtol or 0.0
        floats = [t.dtype for t in (got, wanted) if t.dtype.is_floating_point]
        known = [TOLERANCES.get(dtype, TOLERANCES[torch.bfloat16]) for dtype in floats]
        return max(known, key=lambda pair: pair[1], default=(0.0, 0.0))


def complain(seen: Seen) -> Complaint | None:
    """Return what is wrong with `seen`, or None if nothing is wrong."""
    for guard in seen.guards:
        if not guard.intact():
            which = f"the buffer `{guard.name}`" if guard.name else "its buffer"
            return Complaint(
                "guard", f"It wrote outside {which}: a mask or an offset lets a store go too far."
            )
    tolerance = Tolerance(seen.atol, seen.rtol, seen.any_dtype, bool(seen.guards))
    wrong = _differ(seen.got, seen.wanted, tolerance, seen.names, "")
    if wrong is None:
        return Complaint("conduct", seen.conduct[0]) if seen.conduct else None
    causes = _causes(seen)
    sentence = wrong.sentence.removesuffix(WHY_NAN) if seen.unfilled else wrong.sentence
    return Complaint(wrong.kind, " ".join(filter(None, (sentence, *causes))))


def _causes(seen: Seen) -> list[str]:
    """Return what a kernel did that explains a wrong result, or some of it."""
    causes = list(seen.conduct[:1])
    if seen.unfilled:
        causes.append(
            f"A load has a mask but no `other` ({seen.unfilled[0]}): on a GPU its masked lanes "
            "hold anything, and here NaN."
        )
    return causes


def same(got: Any, other: Any, like: Seen) -> bool:
    """Return whether two answers to the same question agree, within that question's tolerance."""
    tolerance = Tolerance(like.atol, like.rtol, any_dtype=False)
    return _differ(got, other, tolerance, (), "") is None


def contrast(seen: Seen) -> tuple[str, str]:
    """Return got and wanted in short form: large tensors from where they first differ."""
    return _contrast(seen.got, seen.wanted, Tolerance(seen.atol, seen.rtol, seen.any_dtype))


def _contrast(got: Any, wanted: Any, near: Tolerance) -> tuple[str, str]:
    lists = (tuple, list)
    if isinstance(got, lists) and isinstance(wanted, lists) and len(got) == len(wanted) <= FEW:
        pairs = [_contrast(g, w, near) for g, w in zip(got, wanted, strict=True)]
        brackets = ["()" if isinstance(x, tuple) else "[]" for x in (got, wanted)]
        joined = [", ".join(pair[i] for pair in pairs) for i in (0, 1)]
        return f"{brackets[0][0]}{joined[0]}{brackets[0][1]}", (
            f"{brackets[1][0]}{joined[1]}{brackets[1][1]}"
        )
    if _differ(got, wanted, near, (), "") is None:
        return short(got), short(wanted)
    start = 0
    large = isinstance(got, torch.Tensor) and got.numel() > FEW
    if large and isinstance(wanted, torch.Tensor) and got.shape == wanted.shape:
        start = _first(got.detach().cpu(), wanted.detach().cpu(), near)
    if short(got, start=start) != short(wanted, start=start):
        return short(got, start=start), short(wanted, start=start)
    return short(got, start=start, digits=8), short(wanted, start=start, digits=8)


def _first(got: torch.Tensor, wanted: torch.Tensor, near: Tolerance) -> int:
    """Flat index of the first wrong entry; 0 if it is among the first three."""
    atol, rtol = near.of(got, wanted)
    close = torch.isclose(got.double(), wanted.double(), rtol=rtol, atol=atol, equal_nan=True)
    first = int((~close).flatten().int().argmax())
    return first if first > 2 else 0


def _differ(got: Any, wanted: Any, near: Tolerance, names: tuple, where: str) -> Complaint | None:
    if isinstance(wanted, torch.Tensor) or _is_number(wanted):
        return _differ_in_numbers(got, wanted, near, where)
    if isinstance(wanted, dict):
        if not isinstance(got, dict) or got.keys() != wanted.keys():
            keys = ", ".join(map(str, wanted))
            return Complaint("structure", f"{where or 'The answer'} must be a dict of: {keys}.")
        pairs = [(str(key), got[key], wanted[key]) for key in wanted]
    elif isinstance(wanted, (tuple, list)):
        labels = getattr(wanted, "_fields", names) or tuple(
            f"{where or 'value '}{i + 1}" for i in range(len(wanted))
        )
        if not isinstance(got, (tuple, list)) or len(got) != len(wanted):
            came = f"{len(got)} values" if isinstance(got, (tuple, list)) else _kind(got)
            parts = f" ({', '.join(labels)})" if len(labels) == len(wanted) <= 6 else ""
            sentence = f"{where or 'The answer'} must be {len(wanted)} values{parts}; got {came}."
            return Complaint("structure", sentence)
        pairs = list(zip(labels, got, wanted, strict=True))
    else:
        return None if type(got) is type(wanted) and got == wanted else Complaint("value")
    found = (_differ(g, w, near, (), label) for label, g, w in pairs)
    return next((complaint for complaint in found if complaint), None)


def _is_number(x: Any) -> bool:
    return isinstance(x, (bool, int, float))


def _kind(x: Any) -> str:
    if isinstance(x, torch.Tensor):
        return f"a tensor of shape {tuple(x.shape)}"
    return f"{'an' if type(x).__name__[0] in 'aeiou' else 'a'} {type(x).__name__}"


def _differ_in_numbers(got: Any, wanted: Any, near: Tolerance, where: str) -> Complaint | None:
    named = f"`{where}`" if where else "The answer"
    plain = _is_number(wanted)
    if isinstance(got, np.generic):
        got = got.item()  # NumPy's numbers are numbers
    if not (isinstance(got, torch.Tensor) or _is_number(got)):
        return Complaint("structure", f"{named} must be {_kind(wanted)}; got {_kind(got)}.")
    if isinstance(got, torch.Tensor) and got.layout != torch.strided:
        return Complaint("structure", f"{named} must be a dense tensor.")
    if not plain and not isinstance(got, torch.Tensor):
        return Complaint("structure", f"{named} must be {_kind(wanted)}; got {_kind(got)}.")
    got = torch.as_tensor(got, dtype=torch.float64 if isinstance(got, float) else None)
    wanted = torch.as_tensor(wanted, dtype=torch.float64 if isinstance(wanted, float) else None)
    if got.shape != wanted.shape:
        shapes = f"{tuple(wanted.shape)}; got {tuple(got.shape)}"
        return Complaint("shape", f"{named} must have shape {shapes}.")
    if not (plain or near.any_dtype) and got.dtype != wanted.dtype:
        came = f"{dtype_name(wanted.dtype)}; got {dtype_name(got.dtype)}"
        return Complaint("dtype", f"{named} must have dtype {came}.")
    return _differ_in_values(got.detach().cpu(), wanted.detach().cpu(), near, where, plain)


def _differ_in_values(
    got: torch.Tensor, wanted: torch.Tensor, near: Tolerance, where: str, plain: bool
) -> Complaint | None:
    # a plain number may have been computed in fp32, though Python holds it in fp64
    coarse = got.float() if plain and got.dtype.is_floating_point else got
    atol, rtol = near.of(coarse, wanted.float() if plain and wanted.is_floating_point() else wanted)
    x, y = got.double(), wanted.double()
    close = torch.isclose(x, y, rtol=rtol, atol=atol, equal_nan=True)
    if bool(close.all()):
        return None
    named = f"`{where}`" if where else "The answer"
    astray = torch.isnan(x) & ~torch.isnan(y)
    if bool(astray.any()):
        amount = _amount(astray)
        why = WHY_NAN if near.guarded else ""
        return Complaint("nan", f"{named} is NaN (not a number){amount}.{why}")
    if got.numel() <= FEW:
        return Complaint("value", f"The difference is in {named}." if where else "")
    if got.dtype == wanted.dtype == torch.bool:  # with bools, no entry is the worst
        return Complaint("value", f"{named} differs{_amount(~close)}.")
    error = torch.where(close, torch.zeros_like(x), (x - y).abs())
    worst = int(torch.where(torch.isnan(error), torch.full_like(error, math.inf), error).argmax())
    at = f"{number(x.flatten()[worst].item())}, wanted {number(y.flatten()[worst].item())}"
    return Complaint(
        "value", f"{named} differs{_amount(~close)}; the worst at {place(x, worst)}: got {at}."
    )


def _amount(bad: torch.Tensor) -> str:
    if bad.numel() == 1:
        return ""
    first = [int(i) for i in bad.nonzero()[0]]
    return f" in {int(bad.sum())} of {bad.numel()} entries, the first at {first}"

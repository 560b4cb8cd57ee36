"""Time against the number of splits, for many calls: from the model, or from a recorded run.

The model alone cannot judge a rule that was made from a model like it (`course.hardware.regret`).
So `worlds` asks again under other assumptions: how long a launch takes, how long a program waits
for its first keys, how much an SM draws with one program on it, and how much while others rest.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from course.hardware.specifications import resolve
from kernels.devices import Device, recognise
from kernels.explain import explain
from kernels.explain.model import Explanation
from kernels.split_rules import SplitShape

HEAD_DIM = 128
CALLS = tuple(
    (batch, heads, length)
    for length in (1024, 4096, 16384, 65536, 131072)
    for heads in ((32, 8), (64, 8), (8, 1), (32, 32))
    for batch in (1, 4, 16, 64)
    if batch * heads[1] * length <= 2**24  # 8 GiB of K and V: beyond that, every GPU is full
)
"""What `benchmarks.splits` measures: batch, (Hq, Hkv), keys; D = 128, bf16."""

MANY = (192, 256, 384, 512, 768, 1024, 1536, 2048)  # splits, for rules that have no upper bound

WORLDS = {"launch_us": (2.0, 10.0), "fill_us": (0.0, 2.0), "alone": (0.7, 1.0), "pace": (1.0, 2.0)}
"""Assumptions of `kernels.devices.Device`, with a low and a high value for each."""


@dataclass(frozen=True)
class Curve:
    """Time against the number of splits.

    call: its shapes in words. source: where the times are from. shape: what a rule sees.
    times_us: pairs of a number of splits and its time, µs, in increasing order.
    """

    call: str
    source: str
    shape: SplitShape
    times_us: tuple[tuple[int, float], ...]

    @property
    def best(self) -> tuple[int, float]:
        """The fewest splits among the fastest, and their time, µs."""
        return min(self.times_us, key=lambda pair: (pair[1], pair[0]))

    def tried(self, splits: int) -> bool:
        """Say whether a number of splits lies between the fewest and the most that were tried."""
        return self.times_us[0][0] <= splits <= self.times_us[-1][0]

    def time_us(self, splits: int) -> float:
        """Return the time with `splits` splits, on a straight line between two that were tried."""
        return interpolate(self.times_us, splits)


def interpolate(points: Sequence[tuple[int, float]], at: int) -> float:
    """Return the height at x = `at` of straight lines joining points (in increasing x).

    >>> interpolate([(1, 4.0), (2, 2.0), (4, 3.0)], 3)
    2.5

    Raises ValueError outside the points: a time that nobody measured is not made up.
    """
    below = [point for point in points if point[0] <= at]
    above = [point for point in points if point[0] >= at]
    if not below or not above:
        tried = f"{points[0][0]} to {points[-1][0]}" if points else "none"
        raise ValueError(f"splits must be within those tried, {tried}; got {at}")
    (x0, y0), (x1, y1) = below[-1], above[0]
    return y0 if x0 == x1 else y0 + (y1 - y0) * (at - x0) / (x1 - x0)


def modelled(device: Device | str, calls: Iterable[tuple] = CALLS) -> list[Curve]:
    """Return the curves of calls (batch, (Hq, Hkv), length) as the model predicts them.

    >>> curve = modelled("H100 SXM", [(1, (32, 8), 65536)])[0]
    >>> print(curve.call, "·", curve.source, "·", curve.best[0])
    B1 32/8 65,536 · a model of H100 SXM · 49
    """
    device = resolve(device)
    return [_curve(call, _family(call, device), device) for call in calls]


def worlds(
    device: Device | str,
    calls: Iterable[tuple] = CALLS,
    assumptions: Mapping[str, Sequence[float]] = WORLDS,
) -> dict[str, list[Curve]]:
    """Return the curves of calls under every combination of assumptions, by what is assumed.

    >>> names = list(worlds("H100 SXM", [(1, (32, 8), 4096)]))
    >>> len(names), names[0]
    (16, 'launch_us 2, fill_us 0, alone 0.7, pace 1')
    """
    device, found = resolve(device), {}
    families = [(call, _family(call, device)) for call in calls]
    for values in itertools.product(*assumptions.values()):
        assumed = dict(zip(assumptions, values, strict=True))
        name = ", ".join(f"{key} {value:g}" for key, value in assumed.items())
        world = dataclasses.replace(device, **assumed)
        found[name] = [_curve(call, family, world, name) for call, family in families]
    return found


def recorded(record: Mapping[str, Any] | None, device: Device | None = None) -> list[Curve]:
    """Return the curves of a record of `benchmarks splits`; none unless it is a GPU's.

    record: as `benchmarks.protocol.load("splits")` returns it; its rows have B, Hq, Hkv, Lk,
    `num_splits` and `ms`. device: the GPU, if `kernels.devices` does not know the record's. Raises
    ValueError for a GPU that is not known.
    """
    gpu = (record or {}).get("gpu", "")
    if record is None or gpu.startswith("none"):
        return []
    device = device or recognise(gpu)
    if device is None:
        raise ValueError(f"no figures for {gpu}: pass device=Device(name=…, sms=…, …)")
    curves = []
    for row in record["rows"]:
        if not row.get("ms"):
            continue
        call = (row["B"], (row["Hq"], row["Hkv"]), row["Lk"])
        times = zip(row["num_splits"], (1e3 * ms for ms in row["ms"]), strict=True)
        source = f"recorded on {device.name}"
        curves.append(Curve(_name(call), source, _explain(call, device, 1).shape, tuple(times)))
    return curves


def _explain(call: tuple, device: Device, splits: int) -> Explanation:
    shape = dict(zip(("batch", "heads", "length"), call, strict=True))
    return explain(**shape, head_dim=HEAD_DIM, num_splits=splits, device=device)


def _family(call: tuple, device: Device) -> list[Explanation]:
    """Explain a call with every number of splits that makes sense, and some that do not."""
    shape = _explain(call, device, 1).shape
    counts = {*shape.useful(), *range(1, 17), *MANY}
    most = max(1, shape.blocks)
    return [_explain(call, device, s) for s in sorted({min(s, most) for s in counts})]


def _curve(call: tuple, family: list[Explanation], device: Device, world: str = "") -> Curve:
    there = (dataclasses.replace(said, device=device) for said in family)
    source = f"a model of {device.name}" + (f", {world}" if world else "")
    return Curve(_name(call), source, family[0].shape, tuple((x.splits, x.time_us) for x in there))


def _name(call: tuple) -> str:
    batch, (query_heads, kv_heads), length = call
    return f"B{batch} {query_heads}/{kv_heads} {length:,}"

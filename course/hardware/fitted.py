"""The model's two assumptions, fitted to a recorded GPU run, and its error before and after.

`kernels.explain` assumes what share of the bandwidth is reachable, and the µs per launch. A record
of `python -m benchmarks decode` has times to fit them to. The predicted time is a sum

    time = m · (1 / reachable) + n · launch_us      m: µs of memory at the full bandwidth
                                                    n: launches, 1 or 2

so both follow from least squares on relative errors: minimise Σ (predicted / measured − 1)².
Rows that the model considers bound by arithmetic are left out of the fit, but not of the error.
"""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from course.hardware.launch import predict_fa2, predict_flash_decoding
from kernels.devices import Device, recognise
from kernels.explain.model import Explanation

HEAD_DIM = 128  # in every row that `benchmarks.decode` records; the dtype is bf16 in all of them
PREDICT = {"flash_decoding": predict_flash_decoding, "fa2": predict_fa2}
FEWEST_ROWS = 4

Row = Mapping[str, Any]
Pair = tuple[Explanation, float]
"""A prediction, and the measured time in µs."""


@dataclass(frozen=True)
class Fit:
    """A device whose `reachable` and `launch_us` are fitted; prints with its error.

    fitted, assumed: with the fitted figures, and with the table's. rows: how many times were
    measured. fitted_error, assumed_error: the median of |predicted / measured − 1| over all of
    these; fitted_worst: the largest. contestant: "flash_decoding" or "fa2".
    """

    fitted: Device
    assumed: Device
    rows: int
    fitted_error: float
    assumed_error: float
    fitted_worst: float
    contestant: str = "flash_decoding"

    def __str__(self) -> str:
        """Three lines: the device, its fitted figures and error, its assumed ones and theirs."""
        f, a = self.fitted, self.assumed
        return (
            f"{f.name}, {self.rows} recorded times of {self.contestant}\n"
            f"  fitted   {f.reachable:.0%} of the bandwidth, {f.launch_us:.1f} µs per launch: "
            f"off by {self.fitted_error:.0%} (median), {self.fitted_worst:.0%} at worst\n"
            f"  assumed  {a.reachable:.0%} of the bandwidth, {a.launch_us:.1f} µs per launch: "
            f"off by {self.assumed_error:.0%} (median)"
        )


def fit(
    record: Mapping[str, Any] | None,
    *,
    contestant: str = "flash_decoding",
    device: Device | None = None,
) -> Fit | None:
    """Fit the model to a record of `benchmarks.decode`.

    Args:
        record: as `benchmarks.protocol.load("decode")` returns it. Its `gpu` names the
            device, its `rows` have B, Hq, Hkv, Lk and `NAME_ms` (milliseconds, from a CUDA graph).
            None: none has been recorded yet.
        contestant: NAME, "flash_decoding" or "fa2".
        device: what to start from, if not the record's GPU as listed in `kernels.devices`.

    Returns:
        The fit; None if there is no record, if it has fewer than four times, or if its kernels ran
        interpreted.

    Raises:
        ValueError: another contestant, or a GPU without known figures if no device is given.
    """
    if contestant not in PREDICT:
        raise ValueError(f"contestant must be one of {', '.join(PREDICT)}; got {contestant!r}")
    gpu = (record or {}).get("gpu", "")
    rows = [r for r in (record or {}).get("rows", []) if f"{contestant}_ms" in r]
    if len(rows) < FEWEST_ROWS or gpu.startswith("none"):
        return None
    device = device or recognise(gpu)
    if device is None:
        raise ValueError(f"no figures for {gpu}: pass device=Device(name=…, sms=…, …)")
    pairs = [_predict(row, contestant, device) for row in rows]
    reachable, launch_us = solve(p for p in pairs if p[0].memory_us >= p[0].arithmetic_us)
    fitted = dataclasses.replace(device, reachable=reachable, launch_us=launch_us)
    before, after = _errors(pairs, device), _errors(pairs, fitted)
    return Fit(
        fitted=fitted,
        assumed=device,
        rows=len(pairs),
        fitted_error=statistics.median(after),
        assumed_error=statistics.median(before),
        fitted_worst=max(after),
        contestant=contestant,
    )


def solve(pairs: Iterable[Pair]) -> tuple[float, float]:
    """Return reachable (above 0, at most 1) and launch_us (not negative) by least squares.

    These solve the two normal equations of the sum at the top of this module, each row divided by
    its measured time. A negative launch becomes 0, and a share above 1 becomes 1; the other figure
    is then fitted alone.
    """
    mm = mn = nn = m1 = n1 = 0.0
    for said, measured_us in pairs:
        m = (said.time_us - said.launch_us) * said.device.reachable / measured_us
        n = said.launches / measured_us
        mm, mn, nn, m1, n1 = mm + m * m, mn + m * n, nn + n * n, m1 + m, n1 + n
    if not mm:
        raise ValueError("no row is bound by memory: nothing to fit")
    determinant = mm * nn - mn * mn
    inverse, launch_us = m1 / mm, -1.0
    if determinant > 1e-9 * mm * nn:  # otherwise all rows have the same mix of the two
        inverse = (m1 * nn - n1 * mn) / determinant
        launch_us = (n1 * mm - m1 * mn) / determinant
    if launch_us < 0:
        inverse, launch_us = m1 / mm, 0.0
    if inverse < 1:
        inverse, launch_us = 1.0, max(0.0, (n1 - mn) / nn)
    return 1 / inverse, launch_us


def status(record: Mapping[str, Any] | None) -> str:
    """Say what the model's figures rest on: the fit, or that no GPU run is recorded yet.

    >>> print(status(None))
    a model: no GPU run is recorded yet, so its assumptions are not fitted
    """
    found = fit(record)
    if found is None:
        return "a model: no GPU run is recorded yet, so its assumptions are not fitted"
    return str(found)


def _predict(row: Row, contestant: str, device: Device) -> Pair:
    said = PREDICT[contestant](
        batch=row["B"],
        heads=(row["Hq"], row["Hkv"]),
        head_dim=HEAD_DIM,
        length=row["Lk"],
        device=device,
    )
    return said, row[f"{contestant}_ms"] * 1e3


def _errors(pairs: Iterable[Pair], device: Device) -> list[float]:
    """Return |predicted / measured − 1| for every row, as predicted for this device."""
    return [abs(dataclasses.replace(said, device=device).time_us / us - 1) for said, us in pairs]

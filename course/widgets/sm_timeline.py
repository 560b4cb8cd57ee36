"""Every SM of a GPU over time, for one decode step: which are busy, and which are idle."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets

from course.figures.why_decode_starves import sm_timelines
from course.hardware import DEVICES, Run, predict_flash_decoding, timeline_of, utilisation
from course.widgets.explorer import Choice, Steps, View, explorer
from kernels.devices import Device
from kernels.explain.model import Explanation

HEADS = ("32/32", "32/8", "64/8", "16/2", "8/1")
BATCHES = (1, 2, 3, 4, 6, 8, 12, 13, 14, 16)
LENGTHS = tuple(2**i for i in range(9, 18))
SPLITS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 13, 14, 16, 20, 24, 26, 27, 28, 32)
HEAD_DIM = 128


def sm_timeline_view(*, device: str, batch: int, heads: str, length: int, splits: int) -> View:
    """Draw stage 1 of one decode step as the model sees it, and say how long it takes.

    device: a name of `kernels.devices.DEVICES`. heads: query and KV heads, "32/8"; a program
    takes all query heads of a KV head. length: keys per user. splits: 1 is FlashAttention-2.

    >>> view = sm_timeline_view(
    ...     device="A100 80GB SXM", batch=1, heads="32/32", length=65536, splits=1)
    >>> print(view.sentence)
    32 programs on 108 SMs: 30% of the SM time is used, and 76 SMs never get a program. The model \
predicts 1,985 µs, 10 of them for launching; with no SM idle, K and V alone would take 585 µs.

    Raises ValueError for an unknown device or an impossible pair of heads.
    """
    said = predict_flash_decoding(
        batch=batch,
        heads=_pair(heads),
        head_dim=HEAD_DIM,
        length=length,
        dtype="fp16",
        num_splits=splits,
        device=device,
    )
    unit = _unit(said.device)
    shown = f"{said.device.name}: {batch} × {heads} heads, {length:,} keys, " + (
        "not split" if splits == 1 else f"{splits} splits"
    )
    runs = timeline_of(said)
    with_keys = said.busy * splits // said.programs  # splits of a KV head, except empty ones
    drawn = sm_timelines({shown: runs}, said.device.sms, [with_keys], unit)
    return View(drawn, _sentence(said, runs, unit))


def sm_timeline() -> ipywidgets.VBox:
    """The timeline with controls for the GPU, the users, their heads and keys, and the splits."""
    return explorer(
        sm_timeline_view,
        device=Choice("GPU", tuple(device.name for device in DEVICES), "A100 80GB SXM"),
        batch=Steps("users", BATCHES, 1),
        heads=Choice("query/KV heads", HEADS, "32/32"),
        length=Steps("keys each", LENGTHS, 65536),
        splits=Steps("splits", SPLITS, 1),
    )


def _sentence(said: Explanation, runs: Sequence[Run], unit: str) -> str:
    """Say how many programs work and for how long."""
    sms = said.device.sms
    without = sms - len({run.sm for run in runs})
    idle = f"{without} {unit}s never get a program" if without else f"every {unit} gets a program"
    programs = f"{said.busy:,} program{'s' * (said.busy != 1)}"
    programs += f" with keys (of {said.programs:,})" if said.busy < said.programs else ""
    alone = said.kv_bytes / (said.device.bandwidth * said.device.reachable * 1e3)
    digits = 0 if alone >= 10 else 1
    return (
        f"{programs} on {sms} {unit}s: {utilisation(runs, sms):.0%} of the {unit} time is used, "
        f"and {idle}. The model predicts {said.time_us:,.0f} µs, {said.launch_us:.0f} of them for "
        f"launching; with no {unit} idle, K and V alone would take {alone:,.{digits}f} µs."
    )


def _pair(heads: str) -> tuple[int, int]:
    try:
        query, kv = (int(count) for count in heads.split("/"))
    except ValueError:
        raise ValueError(f'heads must be query/KV heads such as "32/8"; got {heads!r}') from None
    return query, kv


def _unit(device: Device) -> str:
    """Return what the maker calls an SM."""
    return "CU" if (device.arch or "").startswith("gfx") else "SM"

"""Two dots under a roof: where a model's prefill and decode are on a GPU."""

from __future__ import annotations

import ipywidgets

from course.figures.decode_phase_limits import rooflines
from course.hardware import DEVICES, Device, decode_intensity, prefill_intensity, ridge_point
from course.widgets.explorer import Choice, Steps, View, explorer

ARITHMETIC = {"fp32": "fp32", "fp16": "fp16", "fp8": "fp16"}  # an 8-bit cache is widened first
DTYPES = ("fp32", "fp16", "fp8")


def intensities(group: int, queries: int, dtype: str, prompt: int) -> tuple[float, float]:
    """Return the operations per byte of decode and of prefill."""
    prefill = prefill_intensity(prompt, group, dtype=ARITHMETIC[dtype])
    return decode_intensity(group, queries, dtype), prefill


def roofline_sentence(
    device: Device | str, group: int, queries: int, dtype: str, prompt: int
) -> str:
    """Say which side of the ridge decode and prefill are on.

    >>> roofline_sentence("A100 80GB SXM", 8, 1, "fp16", 8192)  # doctest: +NORMALIZE_WHITESPACE
    'Decode does 8 operations per byte, 5.2 % of the 153 where the roof of A100 80GB SXM levels off:
    it waits for memory. A prompt of 8,192 tokens does 3,641 and is limited by arithmetic.'
    """
    device = Device.named(device) if isinstance(device, str) else device
    decode, prefill = both = intensities(group, queries, dtype, prompt)
    ridge = ridge_point(device, ARITHMETIC[dtype])
    name = device.name.split(" (")[0]
    limits = ["waits for memory" if x < ridge else "is limited by arithmetic" for x in both]
    limits[1] += ", too" if limits[0] == limits[1] else ""
    part = _share(decode / ridge)
    return (
        f"Decode does {_count(decode)} operations per byte, {part} the {_count(ridge)} where the "
        f"roof of {name} levels off: it {limits[0]}. A prompt of {prompt:,} tokens does "
        f"{_count(prefill)} and {limits[1]}."
    )


def _share(share: float) -> str:
    return f"{100 * share:.2g} % of" if share < 1 else f"{_count(share)} times"


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def roofline_view(
    *, device: Device | str, group: int, queries: int, dtype: str, prompt: int
) -> View:
    """Decode and prefill under one roof.

    device: itself or its name. group: G, query heads per KV head. queries: Lq, new tokens per
    decode step. dtype: of the cache; fp8 is multiplied in fp16. prompt: tokens in the prefill.
    """
    found = Device.named(device) if isinstance(device, str) else device
    works = dict(
        zip(("decode", "prefill"), intensities(group, queries, dtype, prompt), strict=True)
    )
    figure = rooflines([found], works, ARITHMETIC[dtype])
    return View(figure, roofline_sentence(found, group, queries, dtype, prompt))


def roofline(*others: Device) -> ipywidgets.VBox:
    """Controls for `roofline_view`; others: devices to choose from besides those in the table."""
    devices = {device.name: device for device in (*DEVICES, *others)}

    def draw(*, device: str, **values: object) -> View:
        return roofline_view(device=devices[device], **values)

    return explorer(
        draw,
        device=Choice("device", tuple(devices), "A100 80GB SXM"),
        group=Steps("G", (1, 2, 4, 8, 16, 32, 64, 128), 8),
        queries=Steps("Lq in decode", (1, 2, 4, 8, 16, 32), 1),
        dtype=Choice("cache", DTYPES, "fp16"),
        prompt=Steps("prompt", tuple(2**i for i in range(4, 18)), 8192),
    )

"""Time against the number of splits, and what each rule chooses, for any GPU and shape."""

from __future__ import annotations

import ipywidgets

from course.figures.num_splits import split_curve as draw_curve
from course.hardware.launch import predict_flash_decoding
from course.widgets.explorer import Choice, Steps, View, explorer
from kernels.devices import DEVICES
from kernels.split_rules import (
    MAX_SPLITS,
    Rule,
    SplitShape,
    cost_model,
    splits_like_fa2,
    splits_like_fa3,
)

HEADS = {
    "Llama 3 8B: 32 on 8": (32, 8),
    "Llama 3 70B: 64 on 8": (64, 8),
    "no sharing: 32 on 32": (32, 32),
    "one KV head: 71 on 1": (71, 1),
}
RULES: dict[str, Rule] = {
    "FlashAttention-2": splits_like_fa2,
    "FlashAttention-3": splits_like_fa3,
    "ours": cost_model,
}
NAMES = tuple(device.name for device in DEVICES)


def split_curve_view(*, device: str, batch: int, heads: str, context: int) -> View:
    """Draw the model's time for 1 … 128 splits (no more than there are blocks), D = 128, bf16.

    device: as named in `kernels.devices`. heads: one of HEADS. context: tokens in every row.
    Raises ValueError for other names, and for numbers below 1.
    """
    if heads not in HEADS:
        raise ValueError(f"heads must be one of {', '.join(HEADS)}; got {heads!r}")
    if context < 1:
        raise ValueError(f"context must be at least 1; got {context}")
    call = {"batch": batch, "heads": HEADS[heads], "head_dim": 128, "length": context}
    said = {1: predict_flash_decoding(**call, num_splits=1, device=device)}
    shape = said[1].shape
    for S in range(2, min(MAX_SPLITS, shape.blocks) + 1):
        said[S] = predict_flash_decoding(**call, num_splits=S, device=device)
    times = {S: one.time_us for S, one in said.items()}
    choices = {name: rule(shape) for name, rule in RULES.items()}
    title = f"{device}: batch {batch}, {heads.split(': ')[1]} heads, {context:,} tokens (a model)"
    sentence = curve_sentence(times, choices, shape)
    return View(draw_curve(times, choices, title), sentence)


def curve_sentence(times: dict[int, float], choices: dict[str, int], shape: SplitShape) -> str:
    """Say where the minimum is, what it gains over one split, and whose choice loses most.

    >>> curve_sentence({1: 30.0, 2: 20.0}, {"a": 1, "b": 2}, SplitShape(4, 2, 9))
    '4 programs on 9 SMs unsplit; 2 splits take the least time, 1.5 times as fast as 1. The \
most time is lost by a: 1 split takes 50 % longer.'
    """
    best = min(times, key=lambda S: times[S])
    many = "" if shape.programs == 1 else "s"
    first = f"{shape.programs:,} program{many} on {shape.num_sms} SMs unsplit; "
    if best == 1:
        first += "not splitting takes the least time."
    else:
        gain = times[1] / times[best]
        first += f"{best} splits take the least time, {gain:.3g} times as fast as 1."
    S = max(choices.values(), key=lambda S: times[S])
    rules = " and ".join(name for name, chosen in choices.items() if chosen == S)
    lost = times[S] / times[best] - 1
    if lost < 0.005:
        return f"{first} All rules come within 0.5 % of it."
    takes = "split takes" if S == 1 else "splits take"
    return f"{first} The most time is lost by {rules}: {S} {takes} {round(100 * lost)} % longer."


def split_curve() -> ipywidgets.VBox:
    """Controls for the GPU, the batch, the heads and the context, above the U-shaped curve."""
    return explorer(
        split_curve_view,
        device=Choice("GPU", NAMES, "H100 SXM"),
        batch=Steps("batch", (1, 2, 4, 8, 16, 22, 32, 64, 128), 1),
        heads=Choice("heads", tuple(HEADS), "Llama 3 8B: 32 on 8"),
        context=Steps("context", tuple(256 * 2**i for i in range(10)), 16384),
    )

"""Weights and caches side by side in a GPU's memory: how many users fit?"""

from __future__ import annotations

import ipywidgets

from course.figures.decode_phase_limits import kv_memory as kv_memory_figure
from course.hardware import MODELS, bytes_per_token, bytes_per_user, model_named, users_that_fit
from course.hardware.sizes import element_bytes
from course.widgets.explorer import Choice, Steps, View, explorer

USABLE = 0.9
MEMORIES = (16, 24, 40, 48, 80, 141, 160, 192, 320, 640)


def kv_memory_sentence(model: str, context: int, users: int, dtype: str, memory_gb: float) -> str:
    """Say what a user's cache takes, and how many fit.

    >>> kv_memory_sentence("Llama-3 8B", 8192, 64, "fp16", 80)  # doctest: +NORMALIZE_WHITESPACE
    'A token takes 128 KiB, a user with 8,192 tokens 1.07 GB. Beside 16.1 GB of weights, 52 users
    fit in the usable 72 GB, 12 fewer than asked for.'
    """
    found = model_named(model)
    token = bytes_per_token(found, dtype) / 1024
    user = bytes_per_user(found, context, dtype) / 1e9
    weights, limit = found.parameters * element_bytes("fp16"), memory_gb * USABLE
    tokens = f"{context:,} tokens"
    if context > found.longest:
        tokens += f" (the model was made for {found.longest:,})"
    start = f"A token takes {token:g} KiB, a user with {tokens} {user:.3g} GB. "
    if weights > limit:
        usable = f"the usable {limit:g} GB"
        return f"{start}The weights alone take {weights:.3g} GB, more than {usable}: nobody fits."
    fit = users_that_fit(found, context, memory_gb, dtype=dtype, usable=USABLE)
    end = f"{users - fit:,} fewer than asked for" if fit < users else "enough for those asked for"
    people = "user fits" if fit == 1 else "users fit"
    return (
        f"{start}Beside {weights:.3g} GB of weights, {fit:,} {people} in the usable {limit:g} GB, "
        f"{end}."
    )


def kv_memory_view(*, model: str, context: int, users: int, dtype: str, memory_gb: float) -> View:
    """A bar of weights (fp16) and users' caches.

    context: tokens of each user. dtype: of the cache. memory_gb: of all GPUs together, 10⁹ bytes.
    """
    figure = kv_memory_figure(
        [model], context=context, users=users, memory_gb=memory_gb, dtype=dtype, usable=USABLE
    )
    return View(figure, kv_memory_sentence(model, context, users, dtype, memory_gb))


def kv_memory() -> ipywidgets.VBox:
    """Controls for `kv_memory_view`."""
    return explorer(
        kv_memory_view,
        model=Choice("model", tuple(model.name for model in MODELS), "Llama-3 8B"),
        context=Steps("context", tuple(2**i for i in range(9, 18)), 8192),
        users=Steps("users", tuple(2**i for i in range(11)), 32),
        dtype=Choice("cache", ("fp16", "fp8", "int8", "fp32"), "fp16"),
        memory_gb=Steps("memory, GB", MEMORIES, 80, "{:g}"),
    )

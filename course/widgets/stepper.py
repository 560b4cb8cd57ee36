"""A slider and a play button through the states of the online softmax, key by key."""

from __future__ import annotations

import math
from collections.abc import Sequence

import ipywidgets
from torch import Tensor

from course.figures.online_softmax import state_step
from course.widgets.explorer import View, page


def step_sentence(scores: Tensor, states: Sequence, t: int) -> str:
    """What key t (counted from 1) did to the state, in one or two sentences; t = 0: the start.

    scores: (n,); states: n + 1 states of one row, `states[t]` after t keys.

    >>> import torch
    >>> from reference.online_softmax import init, update
    >>> scores, states = torch.tensor([3.0, 1.0]), [init(1, 1)]
    >>> for x in scores:
    ...     states.append(update(states[-1], x.view(1, 1), torch.ones(1, 1)))
    >>> step_sentence(scores, states, 2)
    'Score 1 is not larger than m = 3: the ruler stays. Key 2 gets weight exp(1 − 3) = 0.1353.'
    """
    if t == 0:
        return "No key seen: m = −∞, l = 0, acc = 0."
    score, old, new = float(scores[t - 1]), float(states[t - 1].m), float(states[t].m)
    if old == -math.inf:
        return f"The first score, {score:g}, is the largest so far. Its weight is exp(0) = 1."
    if new > old:
        return (
            f"Score {score:g} is larger than m = {old:g}: the ruler moves. l and acc are "
            f"multiplied by exp({old:g} − {new:g}) = {math.exp(old - new):.4f}, "
            f"and key {t} gets weight 1."
        )
    return (
        f"Score {score:g} is not larger than m = {old:g}: the ruler stays. "
        f"Key {t} gets weight exp({score:g} − {new:g}) = {math.exp(score - new):.4f}."
    )


def step_page(scores: Tensor, values: Tensor, states: Sequence, t: int) -> str:
    """The HTML of step t: its figure (`course.figures.state_step`) and its sentence."""
    return page(View(state_step(scores, values, states, t), step_sentence(scores, states, t)))


def stepper(scores: Tensor, values: Tensor, states: Sequence) -> ipywidgets.VBox:
    """A slider and a play button through the states of the online softmax, key by key.

    scores, values: (n,); states: n + 1 states of one row and D = 1, `states[t]` after t keys.
    Raises ValueError unless there is one more state than there are scores.
    """
    if len(states) != len(scores) + 1:
        raise ValueError(
            f"states must be one more than scores (the first: nothing seen); got {len(states)} "
            f"states and {len(scores)} scores"
        )
    last = len(scores)
    slider = ipywidgets.IntSlider(value=0, min=0, max=last, description="keys seen")
    play = ipywidgets.Play(value=0, min=0, max=last, interval=1500)
    ipywidgets.jslink((play, "value"), (slider, "value"))
    shown = ipywidgets.HTML(step_page(scores, values, states, 0))

    def show(change: dict) -> None:
        shown.value = step_page(scores, values, states, change["new"])

    slider.observe(show, names="value")
    return ipywidgets.VBox([ipywidgets.HBox([play, slider]), shown])

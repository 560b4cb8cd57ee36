"""One layer's attention over 8 to 1,024 GPUs: when does it pay to share the context?"""

from __future__ import annotations

import ipywidgets

from course.figures.beyond_one_gpu import time_over_gpus
from course.hardware.interconnects import CLUSTERS, Cluster, predict_step
from course.widgets.explorer import Choice, Steps, View, explorer

GPUS = (8, 16, 32, 64, 128, 256, 512, 1024)
HEADS, HEAD_DIM = (64, 8), 128


def many_gpus_view(*, cluster: str, gpus: int, context: int, users: int) -> View:
    """Draw time over GPUs for one context, and say what a number of GPUs gives.

    cluster: a name of `course.hardware.interconnects.CLUSTERS`. users: of `context` tokens each.
    The model has 64 query heads on 8 KV heads of 128 columns, in bf16.
    """
    where = Cluster.named(cluster)
    shape = {"batch": users, "heads": HEADS, "head_dim": HEAD_DIM, "length": context}
    steps = {n: predict_step(where, n, **shape) for n in GPUS}
    label = f"{context // 1024:,}k"
    attend = {label: [step.attend_us for step in steps.values()]}
    drawn = time_over_gpus(GPUS, attend, [step.merge_us for step in steps.values()], mark=gpus)
    here, best = steps[gpus], min(steps.values(), key=lambda step: step.time_us)
    how = f"a merge by {here.merge} of {here.merge_us:,.1f} µs" if here.merge else "no merge"
    others = (
        "No other number of GPUs is faster."
        if best.ranks == gpus
        else f"{best.ranks:,} GPUs would be fastest, with {best.time_us:,.1f} µs."
    )
    return View(
        drawn,
        f"{gpus:,} GPUs, {here.head_groups} ways over heads and {here.context} over the context: "
        f"{here.attend_us:,.1f} µs of attention and {how}. {others}",
    )


def many_gpus() -> ipywidgets.VBox:
    """Controls for `many_gpus_view`."""
    names = tuple(cluster.name for cluster in CLUSTERS)
    return explorer(
        many_gpus_view,
        cluster=Choice("cluster", names, names[0]),
        gpus=Steps("GPUs", GPUS, 64),
        context=Steps("context", tuple(2**i for i in range(13, 24)), 2**20),
        users=Steps("users", (1, 2, 4, 8, 16, 32, 64), 1),
    )

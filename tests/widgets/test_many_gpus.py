"""The widget of lesson 16: the sentence follows the model, at both ends of every control."""

from course.hardware.interconnects import CLUSTERS, Cluster, predict_step
from course.widgets import many_gpus
from course.widgets.explorer import page
from course.widgets.many_gpus import GPUS, HEAD_DIM, HEADS, many_gpus_view

START = {"cluster": CLUSTERS[0].name, "gpus": 64, "context": 2**20, "users": 1}


def test_every_end_of_every_control_draws():
    for control, name in zip(many_gpus().children[:-1], START, strict=True):
        values = [option[1] if isinstance(option, tuple) else option for option in control.options]
        for value in (values[0], values[-1]):
            assert many_gpus_view(**(START | {name: value})).figure.axes


def test_the_sentence_says_what_the_model_does():
    for gpus in GPUS:
        for users in (1, 64):
            state = START | {"gpus": gpus, "users": users}
            said = many_gpus_view(**state).sentence
            shape = {"batch": users, "heads": HEADS, "head_dim": HEAD_DIM, "length": 2**20}
            steps = [predict_step(Cluster.named(state["cluster"]), n, **shape) for n in GPUS]
            here = steps[GPUS.index(gpus)]
            best = min(steps, key=lambda step: step.time_us)
            assert f"{here.attend_us:,.1f} µs of attention" in said
            assert ("no merge" in said) == (here.context == 1)
            assert ("No other number" in said) == (best.ranks == gpus)
            assert best.ranks == gpus or f"{best.ranks:,} GPUs would be fastest" in said


def test_moving_a_control_changes_the_page():
    *made, shown = many_gpus().children
    assert shown.value == page(many_gpus_view(**START))
    made[1].value = 8
    assert shown.value == page(many_gpus_view(**(START | {"gpus": 8})))
    assert "no merge" in shown.value

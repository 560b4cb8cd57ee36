"""course.check.variants: right answers with one thing changed, and checks that name the change."""

import pytest
import torch
from doubling import DOUBLE, told

from course.check import Seen, judge, variants
from course.check.spec import Exercise, also_right, holds, one_step_off, right

SOURCE = """
def f(x, n):
    'A docstring stays out of it.'
    y = torch.exp(x) * 2
    if n < 3 and not x:
        y += g(x, n, mode=1)
    y = y if n else -y
    return y, n
"""


def test_each_part_of_a_line_is_changed_in_turn():
    found = {variant.what: variant for variant in variants.of(SOURCE)}
    for what in (
        "y = torch.exp(x) * 2 → y = torch.exp2(x) * 2",
        "y = torch.exp(x) * 2 → y = torch.exp(x) + 2",
        "y = torch.exp(x) * 2 → y = torch.exp(x) * 3",
        "y = torch.exp(x) * 2 → y = torch.exp(x) * 0",
        "if n < 3 and (not x): → if n <= 3 and (not x):",
        "if n < 3 and (not x): → if n < 3 or not x:",
        "if n < 3 and (not x): → if n < 3 and x:",
        "y += g(x, n, mode=1) → y -= g(x, n, mode=1)",
        "y += g(x, n, mode=1) → y += g(n, x, mode=1)",
        "y += g(x, n, mode=1) → y += g(x, n)",
        "y = y if n else -y → y = -y if n else y",
        "y = y if n else -y → nothing",
        "return (y, n) → return (n, y)",
    ):
        assert what in found, what
    assert not any("docstring" in what for what in found)


def test_each_method_of_a_class_is_changed_in_turn():
    source = """
class Tally:
    'A docstring stays out of it.'
    unit = 1

    def __init__(self):
        'So does this one.'
        self.n = 0

    def add(self, m):
        self.n += 2 * m
        return self.n
"""
    found = {variant.what: variant.source for variant in variants.of(source)}
    names = {}
    exec(found["self.n += 2 * m → self.n -= 2 * m"], names)
    assert names["Tally"]().add(3) == -6
    assert "self.n = 0 → self.n = 1" in found and "self.n += 2 * m → nothing" in found
    assert not any("docstring" in what or "unit" in what for what in found)


def test_indices_in_another_order_are_not_told_as_values():
    found = variants.of("def f(x):\n    return x[..., None], 1")
    told_of = {variant.what.partition(" → ")[2]: variant.says for variant in found}
    assert "two indices in square brackets" in told_of["return (x[None, ...], 1)"]
    assert "two values" in told_of["return (1, x[..., None])"]


def test_a_first_assignment_is_not_left_out():
    """Without it a name would be missing, which anybody notices."""
    assert "y = torch.exp(x) * 2 → nothing" not in [x.what for x in variants.of(SOURCE)]


def test_every_variant_is_another_program_and_the_original_stays():
    sources = [variant.source for variant in variants.of(SOURCE)]
    assert len({*sources}) == len(sources)
    assert sources == [variant.source for variant in variants.of(SOURCE)]


@right
def weighted(x, w):
    total = (w * x).sum(-1)
    return total / w.sum(-1)


@also_right
def weighted_by_shares(x, w):
    return (w / w.sum(-1, keepdim=True) * x).sum(-1)


@holds("any weights")
def any_weights(answer, rng):
    x, w = torch.randn(3, 4, generator=rng), torch.rand(3, 4, generator=rng)
    return Seen.of(answer, (x, w), wanted=weighted(x, w))


WEIGHTED = Exercise.of(__name__, "9.9 weighted", title="A mean", section="1 · Means")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda x, w: (w * x).sum(-1) * w.sum(-1), "when somewhere `*` takes the place of `/`."),
        (lambda x, w: (x + w).sum(-1) / w.sum(-1), "when somewhere `+` takes the place of `*`."),
        (
            lambda x, w: (w * x).amax(-1) / w.sum(-1),
            "when somewhere `amax` takes the place of `sum`.",
        ),
    ],
)
def test_one_change_is_named_in_other_words(answer, says):
    text = told(judge(WEIGHTED, answer))
    assert f"Your answer does what the right one does {says}" in text


def test_what_is_more_than_one_step_off_is_not_named():
    assert judge(WEIGHTED, lambda x, w: x.mean(-1) + 7).mistake is None


def test_a_mistake_of_the_exercise_comes_first():
    assert judge(DOUBLE, lambda x: x / 2).mistake is DOUBLE.mistakes[0]


def test_an_answer_without_source_has_no_variants():
    assert one_step_off(Exercise(**{**vars_of(DOUBLE), "right": 3})) == ()


def vars_of(exercise):
    names = ("id", "name", "title", "section", "also_right", "properties", "mistakes")
    return {name: getattr(exercise, name) for name in names}

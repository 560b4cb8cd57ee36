"""How good a split rule is: its regret, relative to the best number of splits.

    regret = time with the rule's number of splits / time with the best number − 1

A rule is scored on the curves of `course.hardware.split_curves`: recorded ones if there is a record
of `python -m benchmarks splits`, otherwise the model's, in several worlds. Every score says which.
A rule is good if it does well in all worlds, since nobody knows in advance which one they are in.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from course.hardware.split_curves import Curve
from kernels.split_rules import (
    Costs,
    Rule,
    cost_model,
    fixed_count,
    fixed_size,
    splits_like_fa2,
    splits_like_fa3,
)

CANDIDATES = tuple(
    Costs(merge * 1024, fill * 1024, alone)
    for merge in (32, 64, 128, 256)
    for fill in (0, 8, 16, 32)
    for alone in (0.7, 0.8, 0.9, 1.0)
)
RULES: Mapping[str, Rule] = {
    "never split": fixed_count(1),
    "always 16": fixed_count(16),
    "512 keys each": fixed_size(512),
    "FlashAttention-2": splits_like_fa2,
    "FlashAttention-3": splits_like_fa3,
    "cost model": cost_model,
}


def regret(rule: Rule, curve: Curve) -> float:
    """Return how much longer the rule's number of splits takes than the best: 0.1 is 10 % longer.

    >>> from course.hardware.split_curves import modelled
    >>> curve = modelled("H100 SXM", [(1, (32, 8), 65536)])[0]
    >>> [round(regret(RULES[name], curve), 2) for name in ("never split", "FlashAttention-2")]
    [12.33, 0.14]
    """
    return curve.time_us(rule(curve.shape)) / curve.best[1] - 1


@dataclass(frozen=True)
class Score:
    """A rule's regrets over curves: their median, 90th percentile, worst and mean."""

    rule: str
    source: str
    curves: int
    median: float
    ninetieth: float
    worst: float
    mean: float


def score(name: str, rule: Rule, curves: Sequence[Curve]) -> Score:
    """Score a rule on those curves that tried the number of splits it chooses.

    Raises ValueError if there are none.
    """
    fair = [curve for curve in curves if curve.tried(rule(curve.shape))]
    if not fair:
        raise ValueError(f"a rule must be scored on at least one curve; got none of {len(curves)}")
    regrets = sorted(regret(rule, curve) for curve in fair)
    sources = sorted({curve.source for curve in fair})
    return Score(
        rule=name,
        source=sources[0] if len(sources) == 1 else f"{len(sources)} worlds or devices",
        curves=len(fair),
        median=statistics.median(regrets),
        ninetieth=regrets[math.ceil(0.9 * len(regrets)) - 1],
        worst=regrets[-1],
        mean=statistics.fmean(regrets),
    )


def compare(curves: Sequence[Curve], rules: Mapping[str, Rule] = RULES) -> list[Score]:
    """Score rules on the same curves, in the order given."""
    return [score(name, rule, curves) for name, rule in rules.items()]


def as_text(scores: Sequence[Score]) -> str:
    """Return scores as aligned text, below a line that says what they rest on."""
    wide = max(len(score.rule) for score in scores)
    most = max(score.curves for score in scores)
    lines = [f"regret on {most:,} curves, {scores[0].source}"]
    lines += [f"{'rule':<{wide}}{'median':>9}{'90 %':>9}{'worst':>9}{'mean':>9}"]
    for each in scores:
        figures = (each.median, each.ninetieth, each.worst, each.mean)
        left = "" if each.curves == most else f"   on {each.curves:,} of them"
        lines.append(f"{each.rule:<{wide}}" + "".join(f"{100 * x:>7.1f} %" for x in figures) + left)
    return "\n".join(lines)


def fit_costs(curves: Sequence[Curve], candidates: Iterable[Costs] = CANDIDATES) -> Costs:
    """Return the costs with which `cost_model` has the least mean regret; in a tie, the first.

    Over `worlds` of several GPUs, `kernels.split_rules.ASSUMED` is next to the result; on a
    recorded run, the result is what the kernel should assume on that GPU.
    """

    def mean(costs: Costs) -> float:
        return score("", lambda shape: cost_model(shape, costs), curves).mean

    return min(candidates, key=mean)

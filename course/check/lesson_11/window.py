"""Exercise 11.3: a museum piece, mended: two stages that disagree about a window."""

import math

import torch

import course.check.lesson_11.window_mistakes  # noqa: F401 — marks the mistakes
from course.check.draw import integer
from course.check.observe import ChangedInput
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right

EPS = torch.finfo(torch.float32).eps
MUSEUM = "8 · A museum of bugs"


@right
def mended(scores, v, S, window, o, lse):
    n = len(scores)
    chunk = math.ceil(n / S)
    for s in range(S):  # stage 1
        o[s], lse[s] = 0.0, -torch.inf  # what a split without keys leaves behind
        start, stop = max(s * chunk, n - window), min((s + 1) * chunk, n)
        if start < stop:
            m = scores[start:stop].max()
            p = torch.exp(scores[start:stop] - torch.where(m == -torch.inf, 0.0, m))
            l = p.sum()
            o[s] = p @ v[start:stop] / torch.where(l == 0, 1.0, l)
            lse[s] = m + l.log()
    m = lse.max()  # stage 2
    w = torch.exp(lse - torch.where(m == -torch.inf, 0.0, m))
    total = w.sum()
    return (w[:, None] * o).sum(0) / torch.where(total == 0, 1.0, total), m + total.log()


@also_right
def cut_the_window(scores, v, S, window, o, lse):
    """Cut the window instead of the row, and use none of the scratch."""
    first = max(0, len(scores) - window)
    scores, v = scores[first:], v[first:]
    parts = []
    for s, x in zip(scores.tensor_split(S), v.tensor_split(S), strict=True):
        if len(s) and s.max() > -math.inf:
            parts.append((torch.softmax(s, 0) @ x, torch.logsumexp(s, 0)))
    if not parts:
        return torch.zeros(v.shape[1]), torch.tensor(-math.inf)
    found, sizes = (torch.stack(x) for x in zip(*parts, strict=True))
    return torch.softmax(sizes, 0) @ found, torch.logsumexp(sizes, 0)


def truth(scores, v, window):
    """Return o (D,) and lse () of the last `window` keys, from fp64."""
    first = max(0, len(scores) - window)
    scores, v = scores[first:].double(), v[first:].double()
    if not (scores > -math.inf).any():
        return torch.zeros(v.shape[1]), torch.tensor(-math.inf)
    return (torch.softmax(scores, 0) @ v).float(), torch.logsumexp(scores, 0).float()


def ask(answer, scores, v, S, window, left, given):
    """Call the answer with scratch that holds `left`; a number, or one for o and one for lse.

    A sum of n terms is off by at most n roundings of the size of a value, and a weight by about
    |lse| roundings.
    """
    left = left if isinstance(left, tuple) else (left, left)
    o, lse = torch.full((S, v.shape[1]), left[0]), torch.full((S,), left[1])
    wanted = truth(scores, v, window)
    in_window = v[max(0, len(v) - window) :].abs()
    size = max(1.0, in_window.max().item() if in_window.numel() else 0.0)
    lse_size = wanted[1].abs().item() if wanted[1].isfinite() else 0.0
    near = EPS * (len(v) + 2 * lse_size) * size
    kept = {"scores": scores.clone(), "v": v.clone()}
    seen = Seen.of(
        answer,
        (scores, v, S, window, o, lse),
        wanted=wanted,
        given=f"{given}; {len(v)} keys, S = {S}, window {window}, scratch full of {left[0]:g}",
        names=("o", "lse"),
        atol=near,
        rtol=near,
    )
    for name, now in {"scores": scores, "v": v}.items():  # the scratch may change, these may not
        if not torch.equal(now.view(torch.int32), kept[name].view(torch.int32)):
            raise ChangedInput(name)
    return seen


def row(rng, n):
    """Return random scores (n,) and values (n, D), with 1 to 7 columns."""
    D = integer(rng, 1, 7)
    return 2 * torch.randn(n, generator=rng), torch.randn(n, D, generator=rng)


@holds("a window as long as the row, clean scratch")
def no_window(answer, rng):
    n, S = integer(rng, 40, 60), integer(rng, 2, 5)
    return ask(answer, *row(rng, n), S, n, 0.0, "every key is seen")


@holds("a window that begins in the first split")
def long_window(answer, rng):
    return ask(answer, *row(rng, 64), 4, 64 - integer(rng, 3, 12), math.nan, "no split is empty")


@holds("splits before the window, and old results in the scratch")
def old_results(answer, rng):
    """As finite as real ones: nothing tells them from partials."""
    S, window = integer(rng, 4, 8), integer(rng, 5, 15)
    return ask(answer, *row(rng, 96), S, window, (4.0, 5.0), "some splits see no key")


@holds("the same, and NaN in the scratch")
def nan_in_scratch(answer, rng):
    S, window = integer(rng, 4, 8), integer(rng, 5, 15)
    cases = math.nan, (math.nan, 0.0), (math.inf, -math.inf)
    return [ask(answer, *row(rng, 96), S, window, x, "some splits see no key") for x in cases]


@holds("more splits than keys")
def more_splits_than_keys(answer, rng):
    n = integer(rng, 3, 6)
    return ask(answer, *row(rng, n), n + integer(rng, 2, 6), n, 4.0, "splits after the row's end")


@holds("a window longer than the row; of one key", name="very long, very short")
def longest_and_shortest(answer, rng):
    return [
        ask(answer, *row(rng, 32), 4, 32 + integer(rng, 1, 50), 4.0, "the window covers all"),
        ask(answer, *row(rng, 32), 4, 1, 4.0, "only the last key is seen"),
        ask(answer, torch.zeros(1), row(rng, 1)[1], 1, 1, 4.0, "one key in all, its score is 0"),
    ]


@holds("what lies before the window is NaN, and is not read")
def only_the_window(answer, rng):
    scores, v = row(rng, 80)
    window = integer(rng, 10, 30)
    scores[:-window], v[:-window] = math.nan, math.nan
    return ask(answer, scores, v, 5, window, 4.0, "NaN in all scores and values before the window")


@holds("scores around ±300 and −60,000; −150 and 150 in one split")
def far_from_zero(answer, rng):
    scores, v = row(rng, 64)
    wide = scores.clone()
    wide[-6:-4] = torch.tensor([-150.0, 150.0])
    return [
        ask(answer, scores - 300, v, 4, 40, 4.0, "scores around −300"),
        ask(answer, scores + 300, v, 4, 40, 4.0, "scores around 300"),
        ask(answer, scores - 60_000, v, 4, 40, 4.0, "scores around −60,000"),
        ask(answer, wide, v, 4, 40, 4.0, "one score of −150 and one of 150"),
    ]


@holds("a split whose keys are all masked, and one with some")
def masked(answer, rng):
    scores, v = row(rng, 64)
    scores[32:48] = -math.inf  # the third of four splits
    scores[[48, 55, 56, 63]] = -math.inf  # the first of the fourth, those in the middle, the last
    return ask(answer, scores, v, 4, 40, 4.0, "keys 32 to 48, 55, 56 and 63 are masked")


@holds("a window of 0, and a row that is masked altogether")
def nothing_seen(answer, rng):
    scores, v = row(rng, 32)
    hidden = torch.full((32,), -math.inf)
    return [
        ask(answer, scores, v, 4, 0, 4.0, "no key is seen"),
        ask(answer, hidden, v, 4, 32, 4.0, "every score is −∞"),
    ]


WINDOW = Exercise.of(
    __name__,
    "11.3 mended",
    title="Repair a museum piece",
    section=MUSEUM,
    changes_inputs=True,
)

"""Exercise 3.3: merge many partials at once, some of them empty."""

import torch

from course.check.draw import integer
from course.check.lesson_03.merge import partial, tolerance
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, mistake, right, slip
from reference import online_softmax as reference

HALVES = "3 · Two halves make a whole"


@right
def merge_all(m, l, acc):
    m_max = m.amax(0)  # (rows,)
    safe = torch.where(m_max == -torch.inf, 0.0, m_max)
    c = torch.exp(m - safe)  # (S, rows); 0 for whoever saw nothing
    return m_max, (c * l).sum(0), (c[..., None] * acc).sum(0)


@also_right
def merge_all_one_by_one(m, l, acc):
    """A fold in which an empty partial is skipped row by row."""
    total = [m[0], l[0], acc[0]]
    for i in range(1, len(m)):
        top = torch.maximum(total[0], m[i])
        c = torch.where(total[1] > 0, torch.exp(total[0] - top), torch.zeros_like(top))
        d = torch.where(l[i] > 0, torch.exp(m[i] - top), torch.zeros_like(top))
        total = [top, c * total[1] + d * l[i], c[:, None] * total[2] + d[:, None] * acc[i]]
    return tuple(total)


def seen(answer, states, given, **near):
    wanted = states[0]
    for state in states[1:]:
        wanted = reference.merge(wanted, state)
    stacked = [torch.stack(parts) for parts in zip(*states, strict=True)]
    return Seen.of(
        answer, stacked, wanted=wanted, given=given, **(near or tolerance(states, wanted))
    )


@holds("one worker alone, and beside an empty one; a NaN in acc")
def by_hand(answer, rng):
    """Within a few roundings: here nothing may be added to l, not even 1e-6."""
    rows = [5.0, 1.0, 3.0], [-torch.inf, 0.0, 0.0], [5.0, 1.0, torch.nan]
    one, nothing, spoilt = (torch.tensor([x]) for x in rows)
    options = {"names": ("m", "l", "acc"), "atol": 0.0, "rtol": 5e-7}
    found = []
    for parts in ([one], [nothing, one], [nothing, spoilt]):
        x, wanted = (y.tensor_split((1, 2), -1) for y in (torch.stack(parts), parts[-1]))
        args, wanted = ((y[0][..., 0], y[1][..., 0], y[2]) for y in (x, wanted))
        found.append(Seen.of(answer, args, wanted=wanted, **options))
    return found


@holds("S partials at once, none empty", see=HALVES)
def many_workers(answer, rng):
    found = []
    for S in (2 ** integer(rng, 1, 3) + 1, integer(rng, 130, 150)):  # pairs don't come out even
        D = integer(rng, 1, 5)
        states = [partial(rng, rows=3, D=D) for _ in range(S)]
        found.append(seen(answer, states, f"S = {S}, 3 rows, D = {D}"))
    return found


@holds("an empty partial changes nothing")
def some_are_empty(answer, rng):
    states = [partial(rng, rows=3, D=2) for _ in range(2)]
    states.insert(integer(rng, 0, 2), reference.init(3, 2))
    return seen(answer, states, "S = 3, one worker saw nothing")


@holds("nothing and nothing is nothing: (-inf, 0, 0)")
def all_are_empty(answer, rng):
    return seen(answer, [reference.init(1, 2)] * 3, "S = 3, no worker saw any key", atol=0, rtol=0)


@holds("one row without keys, one with")
def one_row_is_empty(answer, rng):
    states = [partial(rng, rows=2, D=2) for _ in range(3)]
    for m, l, acc in states:
        m[0], l[0], acc[0] = -torch.inf, 0.0, 0.0
    mixed = [partial(rng, rows=4, D=2) for _ in range(4)]
    for row, (m, l, acc) in enumerate(mixed[:3]):  # row 3 has keys everywhere
        m[row], l[row], acc[row] = -torch.inf, 0.0, 0.0
    return [
        seen(answer, states, "S = 3, 2 rows; row 0 has no key anywhere"),
        seen(answer, mixed, "S = 4, 4 rows; in each of rows 0, 1, 2 another worker saw nothing"),
    ]


@holds("near -200, ±2000 and -60000, one empty")
def very_low_scores(answer, rng):
    """Even in fp64, exp overflows above 709 and underflows below -745."""
    return [
        seen(
            answer,
            [*(partial(rng, around, rows=2, D=2) for _ in range(2)), reference.init(2, 2)],
            f"S = 3, scores near {around:.0f}, one empty",
        )
        for around in (-2e2, -2e3, 2e3, -6e4)
    ]


slip(
    "-inf minus -inf",
    "Where no worker saw a key, this computes **-inf - (-inf)**, which is NaN. Subtract a safe "
    "copy of the maximum, one that is finite.",
    ("m - safe", "m - m_max"),
)
slip(
    "m lost its -inf",
    "The sums are right, but a row without keys gets **m = 0**: that claims a largest score of 0. "
    "Use the safe copy in the subtraction only; the state keeps its -inf.",
    ("return m_max", "return safe"),
)
slip(
    "maximum never below a floor",
    "The exponentials are measured **from a floor**, such as max(m, 0): with scores near -2000 all "
    "of them underflow. Only -inf needs replacing.",
    ("torch.where(m_max == -torch.inf, 0.0, m_max)", "m_max.clamp(min=0.0)"),
)
slip(
    "safe copy for every m",
    "Every -inf became 0, **even in the m of each worker** and not only in what is subtracted. "
    "Near -2000 an empty worker's factor is then exp(2000), which overflows; from -inf it would be "
    "0.",
    ("m - safe", "torch.where(m == -torch.inf, 0.0, m) - safe"),
)
slip(
    "nothing subtracted",
    "The factors are exp(m), with **no common maximum subtracted**: they move the sums to a ruler "
    "that starts at 0, while the m you return is the largest.",
    ("m - safe", "m"),
    see=HALVES,
)
slip(
    "just added",
    "l and acc are summed over the workers **without any factor**: each worker measured from its "
    "own maximum.",
    ("c * l", "l"),
    ("c[..., None] * acc", "acc"),
    see=HALVES,
)
slip(
    "l not rescaled",
    "acc is right, but l is summed **without the factors**: both are sums of the same "
    "exponentials.",
    ("c * l", "l"),
    see=HALVES,
)
slip(
    "acc not rescaled",
    "l is right, but acc is summed **without the factors**; c needs one more dimension there, "
    "nothing else.",
    ("c[..., None] * acc", "acc"),
    see=HALVES,
)
slip(
    "softmax as factors",
    "The factors are a **softmax of m**, so they add up to 1. A factor moves a sum to the common "
    "ruler: the worker whose maximum is the largest keeps a factor of exactly 1.",
    ("torch.exp(m - safe)", "torch.softmax(m, 0)"),
    see=HALVES,
)
slip(
    "one maximum for all rows",
    "One maximum is taken **over all workers and rows**; take it over the workers only, since "
    "every query row has its own ruler.",
    ("m.amax(0)", "m.max().expand_as(m[0])"),
    see="2 · One pass: carry the weighted sum along",
)
slip(
    "acc already divided",
    "acc comes out **divided by l**. A state stays unnormalised, so that it can be merged again; "
    "the division is the very last step.",
    ("acc).sum(0)", "acc).sum(0) / (c * l).sum(0).clamp(min=1e-30)[:, None]"),
)
slip(
    "the odd one left out",
    "The partials are merged in pairs, and **the odd one at the end is lost**.",
    ("range(1, len(m))", "range(1, len(m) // 2 * 2)"),
    of=merge_all_one_by_one,
)
for floor in (-1e4, -6e4, -65504.0, -1e5, -1e9, -1e30, torch.finfo(torch.float32).min):
    slip(
        f"-inf became {floor:,.5g}",
        f"A row without keys gets **m = {floor:,.5g}** instead of -inf. That claims a score which "
        "nobody saw: return the -inf.",
        ("m.amax(0)", f"m.amax(0).clamp(min={floor})"),
    )
slip(
    "each m kept above -10,000",
    "Every m below **-10,000** is raised to that number, and so are those near -60000: their sums "
    "are then measured from a number that they don't belong to. Only -inf needs replacing.",
    ("    m_max", "    m = m.clamp(min=-1e4)\n    m_max"),
)
slip(
    "a floor far down",
    "The exponentials are measured from the maximum or a floor **such as -10,000**: near -60000 "
    "all of them underflow. Only -inf needs replacing.",
    ("torch.where(m_max == -torch.inf, 0.0, m_max)", "m_max.clamp(min=-1e4)"),
)
slip(
    "a NaN repaired",
    "NaN is **replaced by a number at the end**. That also hides a NaN that came in with the "
    "values, and a wrong answer looks healthy. Don't let -inf - (-inf) arise at all.",
    ("acc).sum(0)", "acc).nan_to_num(0.0).sum(0)"),
)
slip(
    "safe copy for all rows or none",
    "The maximum is replaced only if **all rows** are empty: with one empty row among others, "
    "-inf - (-inf) is still NaN. Decide row by row.",
    (
        "torch.where(m_max == -torch.inf, 0.0, m_max)",
        "m_max if (m_max > -torch.inf).any() else torch.zeros_like(m_max)",
    ),
)
slip(
    "one empty row empties all",
    "As soon as one row is empty, **every row** of the result is 0. Decide row by row; with a "
    "factor of 0 there is nothing to decide.",
    ("    return", "    c = c * (m_max > -torch.inf).all()\n    return"),
)
slip(
    "safe copy where anyone is empty",
    "The maximum is replaced wherever **any** worker saw nothing. The others may have seen keys "
    "there: only where all saw nothing is the maximum -inf.",
    ("m_max == -torch.inf", "(m == -torch.inf).any(0)"),
)
slip(
    "two exponentials",
    "exp(m) and exp of the maximum are computed **separately** and then divided: near -2000 both "
    "are 0. Subtract first, then take one exponential.",
    ("torch.exp(m - safe)", "torch.exp(m) / torch.exp(safe)"),
)
slip(
    "two exponentials in fp64",
    "Two exponentials are divided, **in fp64**. That only moves the limit: below -745 it is 0 / 0 "
    "again. Subtract first, then take one exponential.",
    ("torch.exp(m - safe)", "(m.double().exp() / safe.double().exp()).float()"),
)
slip(
    "a small number added",
    "A small number such as 1e-6 is **added to l**. Nothing is divided here that it could protect, "
    "and an empty row no longer has l = 0.",
    ("(c * l).sum(0)", "(c * l).sum(0) + 1e-6"),
)
slip(
    "l has a floor",
    "l is kept **above a small number**. An empty row has l = 0, and whoever merges next relies on "
    "that.",
    ("(c * l).sum(0)", "(c * l).sum(0).clamp(min=1e-6)"),
)
slip(
    "averaged",
    "l and acc are **averaged** over the workers. They are sums: add them.",
    (".sum(0)", ".mean(0)"),
    see=HALVES,
)
slip(
    "the first worker's ruler",
    "Everything is measured from **the first worker's maximum**, which need not be the largest.",
    ("m.amax(0)", "m[0].clone()"),
    see=HALVES,
)
slip(
    "the smallest maximum",
    "The common ruler is **the smallest** maximum. Then factors exceed 1, and beside an empty "
    "worker it is -inf.",
    ("m.amax(0)", "m.amin(0)"),
    see=HALVES,
)
slip(
    "m of all together",
    "m comes out as a **logsumexp**. l and acc are measured from the largest maximum, so that is "
    "the m to return.",
    ("return m_max", "return torch.logsumexp(m, 0)"),
    see=HALVES,
)
slip(
    "acc times l",
    "acc is multiplied by l **as well**, as one would weight a mean. But acc is not divided by l "
    "yet: it needs the same factor as l, and nothing more.",
    ("c[..., None]", "(c * l)[..., None]"),
    see=HALVES,
)
slip(
    "powers of 2",
    "The factors are **powers of 2**, but l and acc are sums of powers of e.",
    ("torch.exp(", "torch.exp2("),
    see=HALVES,
)
slip(
    "m and l swapped",
    "The parts come **in another order**: m first, then l, then acc.",
    ("return m_max, (c * l).sum(0)", "return (c * l).sum(0), m_max"),
)
slip(
    "half precision",
    "The factors are rounded to **fp16**, which keeps three digits: all here is fp32.",
    ("torch.exp(m - safe)", "torch.exp(m - safe).half().float()"),
)
slip(
    "the last one left out",
    "**The last partial** is not merged: `range` ends before its second number.",
    ("range(1, len(m))", "range(1, len(m) - 1)"),
    of=merge_all_one_by_one,
)


@mistake(
    "As soon as one row of a partial is empty, **the whole partial is skipped**, and its other "
    "rows are lost. Decide row by row; with exp(-inf - m) = 0 there is nothing to decide.",
)
def empty_as_a_whole(m, l, acc):
    full = (m > -torch.inf).all(1)
    return merge_all(m[full], l[full], acc[full]) if full.any() else merge_all(m, l, acc)


MERGE_ALL = Exercise.of(
    __name__,
    "3.3 merge all",
    title="Merge many, some of them empty",
    section="5 · The worker that saw nothing",
)

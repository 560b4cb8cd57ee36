"""Exercise 13.4: the smallest cache whose perplexity stays within a budget."""

import itertools
from typing import NamedTuple

import torch

import course.check.lesson_13.choose_mistakes  # noqa: F401 — marks the mistakes
from course.check.draw import integer
from course.check.lesson_13.choose_mistakes import BYTES, MEASURED, OUTLIERS
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, mistake, right


class Measured(NamedTuple):
    """Perplexity through a cache in these formats, divided by that through an fp32 cache."""

    k: str
    v: str
    ratio: float
    low: float
    high: float
    bytes_per_token: int


@right
def choose(measured, budget):
    fits = [row for row in measured if row.high <= 1 + budget]
    return min(fits, key=lambda row: (row.bytes_per_token, row.high), default=None)


@also_right
def one_by_one(measured, budget):
    """Keep the best so far."""
    best = None
    for row in measured:
        if row.high - 1 > budget:
            continue
        smaller = best is None or row.bytes_per_token < best.bytes_per_token
        if smaller or (row.bytes_per_token == best.bytes_per_token and row.high < best.high):
            best = row
    return best


@also_right
def sorted_twice(measured, budget):
    """Sort by the second criterion, then by the first; the first that fits."""
    rows = sorted(sorted(measured, key=lambda row: row.high), key=lambda row: row.bytes_per_token)
    return next((row for row in rows if row.high <= 1.0 + budget), None)


FORMATS = [
    f"{dtype} per {per}"
    for dtype, per in itertools.product(("int8", "e4m3", "e5m2"), ("tensor", "head", "token"))
]


def row(bytes_per_token, ratio, width=0.0, k="int8 per token", v="int8 per token"):
    """Return a Measured whose interval is `width` to either side of the ratio."""
    return Measured(k, v, ratio, ratio - width, ratio + width, bytes_per_token)


def table(rng, count):
    """Return `count` random rows; some have equally many bytes, and none the same upper bound.

    No upper bound is as near to 1 + a multiple of 0.001 as rounding could matter. One row has the
    most bytes and nearly no loss, so that something fits every budget.
    """
    rows = [row(1024, 1.0, 6e-4, "bf16", "bf16")]
    for i in range(count):
        cost, width, skew = (0.06 * torch.rand(3, generator=rng)).tolist()
        k, v = (FORMATS[integer(rng, 0, 8)] for _ in "kv")
        ratio = round(1.0 - 0.005 + cost, 5)
        high, low = round(ratio + width / 2, 3) + 6e-4 + 1e-6 * i, round(ratio - skew / 2, 5)
        rows.append(Measured(k, v, ratio, low, high, 8 * integer(rng, 40, 60)))
    return _shuffled(rng, rows)


def ask(answer, measured, budget, given=""):
    """Ask for a choice from a copy of the list."""
    told = f"budget {budget:g}{given}; {_short(measured)}"
    return Seen.of(answer, ([*measured], budget), wanted=choose(measured, budget), given=told)


def left_behind(answer, measured, budget):
    """Ask for a choice, and look at the list afterwards."""

    def afterwards(rows, budget):
        answer(rows, budget)
        same = sorted(rows) == sorted(measured)
        return AS_IT_WAS if rows == measured else REORDERED if same else "with other rows"

    told = f"budget {budget:g}; {_short(measured)}"
    return Seen.of(afterwards, ([*measured], budget), wanted=AS_IT_WAS, given=told)


class NoNone(Exception):
    """An error where None is wanted. Which one it was is its cause, and no matter."""


def _or_an_error(answer):
    """Return the answer with its errors made one, so that all are recognised as a mistake."""

    def asked(rows, budget):
        try:
            return answer(rows, budget)
        except Exception as error:
            raise NoNone from error

    return asked


AS_IT_WAS, REORDERED = "as it was", "in another order"


def _short(measured):
    shown = [
        f"{x.bytes_per_token} B: {x.ratio:.7g} ({x.low:.7g} to {x.high:.7g})" for x in measured
    ]
    more = f"; and {len(measured) - 5} more" if len(measured) > 5 else ""
    return ("; ".join(shown[:5]) or "no rows") + more


BY_HAND = (
    Measured("bf16", "bf16", 1.0, 0.999, 1.001, 1024),
    Measured("int8 per token", "int8 per token", 1.004, 1.001, 1.007, 544),
    Measured("int8 per tensor", "int8 per tensor", 1.009, 1.002, 1.016, 512),
    Measured("e5m2 per tensor", "int8 per token", 1.06, 1.04, 1.08, 528),
)


@holds("four rows, and a budget of 1 %, 2 %, 10 % and 0.2 %")
def by_hand(answer, rng):
    return [ask(answer, [*BY_HAND], budget) for budget in (0.01, 0.02, 0.1, 0.002)]


@holds("of those that fit the smallest, not the one nearest to 1", see=BYTES)
def fewest_bytes(answer, rng):
    rows = [row(900, 1.001, 0.001), row(544, 1.006, 0.002), row(546, 1.001, 0.0015)]
    return ask(answer, _shuffled(rng, rows), 0.01)


@holds("the upper bound decides: within the interval the truth may lie anywhere")
def upper_bound(answer, rng):
    """The lower bound of the smallest row fits, the next one's middle, then a ratio, then all."""
    rows = [
        Measured("int8 per head", "int8 per head", 1.012, 1.008, 1.016, 500),
        Measured("int8 per head", "int8 per token", 1.011, 1.001, 1.017, 510),
        Measured("int8 per token", "int8 per head", 1.008, 1.006, 1.018, 520),
        Measured("int8 per token", "int8 per token", 1.009, 1.0075, 1.0096, 640),
    ]
    return ask(answer, _shuffled(rng, rows), 0.01)


@holds("an upper bound of exactly 1 + budget still fits")
def to_the_bound(answer, rng):
    rows = [row(640, 1.0, 0.0), Measured("bf16", "int8 per head", 1.0, 1.0, 1.25, 512)]
    return ask(answer, _shuffled(rng, rows), 0.25)


@holds("an upper bound a hair above 1 + budget does not: it is compared unrounded")
def a_hair_above(answer, rng):
    rows = [row(512, 1.008004, 0.002), row(640, 1.004, 0.003), row(900, 1.0, 0.001)]
    return ask(answer, _shuffled(rng, rows), 0.01)


@holds("with equally many bytes, the smaller upper bound")
def equal_bytes(answer, rng):
    """In both orders. Others have the smallest ratio, lowest bound, first name, least width.

    The best row has neither the fewest nor the most bytes.
    """
    rows = _shuffled(rng, [
        Measured("int8 per head", "e4m3 per head", 1.003, 1.001, 1.006, 512),
        Measured("int8 per tensor", "int8 per tensor", 1.002, 1.0, 1.008, 512),
        Measured("e5m2 per head", "int8 per tensor", 1.004, 0.99, 1.009, 512),
        Measured("bf16", "int8 per tensor", 1.006, 1.003, 1.01, 512),
        Measured("int8 per token", "int8 per token", 1.007, 1.001, 1.012, 512),
        Measured("int8 per tensor", "int8 per token", 1.0075, 1.007, 1.0085, 512),
        *(row(700, 1.003), row(680, 0.998)),
    ])  # fmt: skip
    return [ask(answer, rows, 0.02), ask(answer, rows[::-1], 0.02)]


@holds("nothing fits: None")
def nothing_fits(answer, rng):
    rows = [row(512, 1.03, 0.01), row(900, 1.02, 0.005), row(640, 1.04, 0.01)]
    return ask(_or_an_error(answer), _shuffled(rng, rows), 0.01)


@holds("there are no rows: None")
def no_rows(answer, rng):
    return ask(_or_an_error(answer), [], 0.5)


@holds("the list that it is given stays as it is")
def the_list_itself(answer, rng):
    """In no order that a sort could leave: neither by bytes nor by any bound, up or down."""
    rows = [row(600, 1.004, 0.001), row(900, 1.03, 0.002), row(512, 1.02, 0.004), row(640, 1.001)]
    return left_behind(answer, rows, 0.01)


@holds("K and V in different formats, and in the same", see=OUTLIERS)
def two_formats(answer, rng):
    mixed = row(520, 1.004, 0.002, "bf16", "int8 per head")
    rows = [mixed, row(600, 1.001, 0.001), row(512, 1.05, 0.01, "e5m2 per head", "e5m2 per head")]
    return ask(answer, _shuffled(rng, rows), 0.01)


@holds("a wide interval around 1 says nothing, a narrow one beside it does")
def noise(answer, rng):
    """The first contains 1 and is smaller; the second does not, and costs less than the budget."""
    rows = [row(512, 1.001, 0.05), row(600, 1.004, 0.001), row(900, 1.0, 0.001)]
    return ask(answer, _shuffled(rng, rows), 0.01)


@holds("a budget of 0, and rows that are better than fp32")
def no_budget(answer, rng):
    """Far better than the budget is wide, or perhaps: that is no reason against them."""
    rows = [row(600, 0.99, 0.004), row(512, 1.0, 0.003), row(900, 0.97, 0.01)]
    return [
        ask(answer, _shuffled(rng, rows), 0.0),
        ask(answer, [row(640, 0.9, 0.01)], 0.005),
        ask(answer, [Measured("bf16", "int8 per head", 0.998, 0.99, 1.003, 640)], 0.005),
    ]


@holds("long tables at random, and several budgets")
def any_table(answer, rng):
    return [
        ask(answer, table(rng, integer(rng, 6, 30)), budget) for budget in (0.005, 0.02, 0.04, 2.0)
    ]


def _shuffled(rng, rows):
    return [rows[i] for i in torch.randperm(len(rows), generator=rng).tolist()]


@mistake(
    "It returns the **place** of the row in the list. Asked for is the row itself.",
    name="a place in the list",
)
def place(measured, budget):
    chosen = choose(measured, budget)
    return None if chosen is None else measured.index(chosen)


@mistake(
    "It **sorts the list that it is given**: the caller's table is in another order afterwards. "
    "`sorted` makes a new one.",
    name="sorts the table",
)
def sorts(measured, budget):
    measured.sort(key=lambda row: (row.bytes_per_token, row.high))
    return next((row for row in measured if row.high <= 1 + budget), None)


@mistake(
    "It **removes rows from the list that it is given**: they are missing from the caller's table "
    "afterwards. Put what fits into a new list.",
    name="removes rows",
)
def removes(measured, budget):
    for row in [*measured]:
        if row.high > 1 + budget:
            measured.remove(row)
    return choose(measured, budget)


@mistake(
    "It removes rows from the caller's list, and **while it goes through that list**: after each "
    "one removed, the next is passed over. Put what fits into a new list.",
    name="removes rows while it goes through them",
)
def removes_meanwhile(measured, budget):
    for row in measured:
        if row.high > 1 + budget:
            measured.remove(row)
    return min(measured, key=lambda row: (row.bytes_per_token, row.high), default=None)


@mistake(
    "It removes rows from a list **while it goes through it**: after each one removed, the next is "
    "passed over. Put what fits into a new list.",
    name="removes rows of a copy while it goes through them",
)
def removes_of_a_copy(measured, budget):
    return removes_meanwhile([*measured], budget)


@mistake(
    "It looks for the fewest bytes first, and **asks afterwards whether that row fits**. If it "
    "does not, another one may. Ask first.",
    name="the smallest, then tested",
)
def tested_afterwards(measured, budget):
    smallest = min(measured, key=lambda row: (row.bytes_per_token, row.high), default=None)
    return smallest if smallest and smallest.high <= 1 + budget else None


@mistake(
    "It takes **the first row that does not fit** for the end of the table. The rows are in no "
    "particular order: look at all.",
    name="stops too early",
)
def stops(measured, budget):
    fits = itertools.takewhile(lambda row: row.high <= 1 + budget, measured)
    return choose(list(fits), budget)


@mistake(
    "It looks for the fewest bytes first, and **asks afterwards whether that row fits**; of equals "
    "it takes the first. If that one does not fit, another may. Ask first.",
    name="the first of the smallest, then tested",
)
def first_tested_afterwards(measured, budget):
    smallest = min(measured, key=lambda row: row.bytes_per_token)
    return smallest if smallest.high <= 1 + budget else None


@mistake(
    "As soon as **one row does not fit**, it returns None. Another may fit: look at all.",
    name="None too early",
)
def too_early(measured, budget):
    return None if any(row.high > 1 + budget for row in measured) else choose(measured, budget)


@mistake(
    "It returns **None for every table**. Is the `return` missing?",
    name="always None",
)
def always_none(measured, budget):
    choose(measured, budget)


CHOOSE = Exercise.of(
    __name__,
    "13.4 choose",
    title="Choose the format under a budget",
    section=MEASURED,
    returns_none=True,
)

"""Mistakes people make in exercise 8.1, and what the check says about them."""

from course.check.lesson_08_answers import fault
from course.check.spec import Mistake

RAGGED = "6 · Ragged rows, and splits with nothing in them"
TOLD = (
    (
        "not normalised",
        "o is still the plain weighted sum: it has to be divided by the sum of the weights. lse "
        "says how much this split counts; o must be its mean, or that amount counts twice.",
        "",
    ),
    (
        "lse without max",
        "lse is only the log of the sum, measured from this split's own maximum. Other splits "
        "measure from theirs, so the maximum has to be added back.",
        "",
    ),
    (
        "no max",
        "The exponentials are taken without subtracting the maximum first: scores around "
        "200 overflow, scores around −200 vanish.",
        "",
    ),
    (
        "base 2",
        "lse is in base 2. Outside a kernel it is always the natural logarithm.",
        "",
    ),
    (
        "no scale",
        "The scores are not multiplied by 1/√D.",
        "",
    ),
    (
        "whole row",
        "All keys of the row were attended to. This worker owns only the cells from start to "
        "stop; the others belong to other workers.",
        "2 · Split",
    ),
    (
        "1/D",
        "The scores are divided by D. The scale is 1/√D.",
        "",
    ),
    (
        "lse is m",
        "lse is only the largest score. It lacks the logarithm of the sum: lse = m + log l.",
        "",
    ),
    (
        "lse is l",
        "What you return as lse is the sum of the exponentials itself. Take its logarithm, and "
        "add the maximum back.",
        "",
    ),
    (
        "stop included",
        "One key too many: the key at `stop` belongs to the next split, where it is counted "
        "a second time. As everywhere in Python, `stop` is excluded.",
        "2 · Split",
    ),
    (
        "stop ignored",
        "Your split runs from `start` to the end of the row: it must end at `stop`.",
        "2 · Split",
    ),
    (
        "softmax first",
        "The softmax runs over the whole row, and the split is cut out of it afterwards. A worker "
        "doesn't know the other scores: softmax and lse are taken over its own keys alone.",
        "",
    ),
    (
        "masked, not cut",
        "o is NaN only when cells outside the split are NaN: you gave them weight 0, but that "
        "doesn't save you, since 0 · NaN is NaN. Cut k and v first.",
        RAGGED,
    ),
    (
        "-1e9",
        "Hidden scores are −1e9, not −∞. A query that sees no key in this split then gets the "
        "mean of values it must not see, and reports an lse of −1e9.",
        RAGGED,
    ),
    (
        "no mask",
        "`causal` makes no difference in your answer: a query may see keys only up to its own "
        "position.",
        RAGGED,
    ),
    (
        "top left",
        "The mask is aligned top-left: query i is taken to be at position i. It is at length − Lq "
        "+ i, after everything cached before.",
        RAGGED,
    ),
    (
        "split's end",
        "The mask is aligned to the end of the split, as if the last query were at stop − 1. "
        "Positions are counted in the row: the last query is at length − 1, whichever split you "
        "are in.",
        RAGGED,
    ),
    (
        "capacity",
        "The mask is aligned to the end of the cache's memory. The row ends at `length`; after "
        "that there are only unused cells.",
        RAGGED,
    ),
    (
        "local index",
        "The keys are numbered from 0 within the split when they are compared with the query's "
        "position. Key j of the split is at position start + j in the row.",
        RAGGED,
    ),
    (
        "masked row",
        "A query that sees no key in this split gets NaN in o and lse: its maximum is −∞, and −∞ "
        "− (−∞) is not a number. Subtract a safe copy of the maximum.",
        RAGGED,
    ),
    (
        "0 / 0",
        "A query that sees no key in this split gets NaN in o: its weights sum to 0, and 0 / 0 is "
        "not a number (torch.softmax of a row of −∞ does exactly that). Its o should be 0.",
        RAGGED,
    ),
    (
        "empty lse 0",
        "An empty split has lse = 0 here. That is the log of a sum of 1, so it would count as "
        "much as a key with score 0. Where there are no keys, the sum is 0 and its log −∞.",
        RAGGED,
    ),
    (
        "empty raises",
        "An empty split (start equal to stop) raises an error in your answer: there is no maximum "
        "of no scores. Handle that case first: return (0, −∞).",
        RAGGED,
    ),
)

MISTAKES = tuple(Mistake(name, says, fault(name), see) for name, says, see in TOLD)

"""What people do wrong in exercise 8.1, and what the check says to it."""

from course.check.lesson_08_answers import fault
from course.check.spec import Mistake

RAGGED = "6 · Ragged rows, and splits with nothing in them"
TOLD = (
    (
        "not normalised",
        "o is still the plain weighted sum: it has to be divided by the sum of the "
        "weights. lse says how much this split counts; o must be its mean, or the size "
        "counts twice.",
        "",
    ),
    (
        "lse without max",
        "lse is the log of the sum only, measured from this split's own maximum. Other "
        "splits measure from theirs, so the maximum has to be added back.",
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
        "lse is in base 2. Everywhere outside a kernel it is the natural logarithm.",
        "",
    ),
    (
        "no scale",
        "The scores are not multiplied by 1/√D.",
        "",
    ),
    (
        "whole row",
        "All keys of the row were attended to. This worker owns the cells from start to "
        "stop only; the others are somebody else's work.",
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
        "What comes back as lse is the sum of the exponentials itself. Take its logarithm, "
        "and add the maximum back.",
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
        "Your split runs from `start` to the end of the row: it has to end at `stop`.",
        "2 · Split",
    ),
    (
        "softmax first",
        "The softmax runs over the whole row, and the split is cut out of it afterwards. A "
        "worker doesn't know the other scores: softmax and lse are over its own keys alone.",
        "",
    ),
    (
        "masked, not cut",
        "o is NaN only when cells outside the split are NaN: you gave them weight 0, and that "
        "does not save you, since 0 · NaN is NaN. Cut k and v first.",
        RAGGED,
    ),
    (
        "-1e9",
        "Hidden scores are −1e9 and not −∞. A query that sees no key of this split then gets "
        "the mean of the values that it must not see, and says that its lse is −1e9.",
        RAGGED,
    ),
    (
        "no mask",
        "`causal` makes no difference in your answer: a query may see keys up to its own "
        "position only.",
        RAGGED,
    ),
    (
        "top left",
        "The mask is aligned top-left: query i is taken to stand at position i. It stands"
        " at length − Lq + i, behind everything cached before.",
        RAGGED,
    ),
    (
        "split's end",
        "The mask is aligned to the end of the split, as if the last query stood at stop "
        "− 1. Positions count in the row: the last query stands at length − 1, whichever "
        "split you are in.",
        RAGGED,
    ),
    (
        "capacity",
        "The mask is aligned to the end of the cache's memory. The row ends at `length`; "
        "behind it there are only unused cells.",
        RAGGED,
    ),
    (
        "local index",
        "The keys are numbered from 0 within the split when they are compared with the "
        "query's position. Key j of the split stands at start + j in the row.",
        RAGGED,
    ),
    (
        "masked row",
        "A query that sees no key of this split gets NaN in o and lse: its maximum is −∞, and "
        "−∞ − (−∞) is not a number. Subtract a safe copy of the maximum.",
        RAGGED,
    ),
    (
        "0 / 0",
        "A query that sees no key of this split gets NaN in o: its weights sum to 0, and 0 / 0 is "
        "not a number (torch.softmax of a row of −∞ does just that). Its o should be 0.",
        RAGGED,
    ),
    (
        "empty lse 0",
        "An empty split says lse = 0. That is a log-sum of 1, so it would count as much "
        "as a key of score 0. Nothing has the log-sum −∞.",
        RAGGED,
    ),
    (
        "empty raises",
        "An empty split (start equal to stop) is an error in your answer: the maximum of "
        "no scores does not exist. Answer it first: (0, −∞).",
        RAGGED,
    ),
)

MISTAKES = tuple(Mistake(name, says, fault(name), see) for name, says, see in TOLD)

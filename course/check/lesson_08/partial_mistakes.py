"""Exercise 8.1's mistakes: the right answer of `partial.py` with some of its text replaced."""

from course.check.spec import slip

SPLIT = "2 · Split"
REDUCTION = "4 · Reduction"
RAGGED = "6 · Ragged rows, and splits with nothing in them"


slip(
    "not normalised",
    "o is still the plain weighted sum: it has to be divided by the sum of the weights. lse "
    "says how much this split counts; o must be its mean, or that amount counts twice.",
    (" / torch.where(total == 0, 1.0, total)", ""),
)
slip(
    "lse without max",
    "lse is only the log of the sum, measured from this split's own maximum. Other splits "
    "measure from theirs, so the maximum has to be added back.",
    ("(safe + ", "("),
)
slip(
    "no max",
    "The exponentials are taken without subtracting the maximum first: scores around "
    "1000 overflow, scores around −1000 vanish, in fp64 as well.",
    ("torch.where(m == -torch.inf, 0.0, m)", "torch.zeros_like(m)"),
    see=REDUCTION,
)
slip(
    "not the largest",
    "What is subtracted before the exponential is **not the largest** score of a query, but a "
    "smaller one. A score far above it then overflows, and o is NaN.",
    ("amax", "amin"),
    see=REDUCTION,
)
slip(
    "first score as maximum",
    "What is subtracted before the exponential is the score of **the split's first key**. Another "
    "key's score may lie far above it, and overflows: subtract the largest.",
    ("scores.amax(-1, keepdim=True)", "scores[:, :1]"),
    see=REDUCTION,
)
slip(
    "one maximum",
    "**One maximum** is taken for all queries. A query whose scores all lie far below it gets "
    "weights of 0, as if it had no key: each query needs its own.",
    ("scores.amax(-1, keepdim=True)", "scores.amax()"),
    see=REDUCTION,
)
slip(
    "maximum over the queries",
    "The maximum is taken along **the wrong dimension**: for each key over the queries. Each "
    "query needs the largest of its own scores, over the keys.",
    ("amax(-1", "amax(0"),
    see=REDUCTION,
)
slip(
    "base 2",
    "lse is in base 2. Outside a kernel it is always the natural logarithm.",
    ("(safe + total.log())", "((safe + total.log()) / math.log(2))"),
)
slip(
    "powers of 2",
    "The weights are **powers of 2**. Attention takes powers of e; exp2 does that only if the "
    "scores are multiplied by log₂ e before.",
    ("torch.exp(", "torch.exp2("),
    ("total.log()", "total.log2()"),
)
slip("no scale", "The scores are not multiplied by 1/√D.", (" / D**0.5", ""))
slip(
    "whole row",
    "All keys of the row were attended to. This worker owns only the cells from start to "
    "stop; the others belong to other workers.",
    ("    scores = q", "    start, stop = 0, length\n    scores = q"),
    see=SPLIT,
)
slip(
    "start ignored",
    "Your split begins **at the first key of the row**: it must begin at `start`. The keys before "
    "belong to other workers.",
    ("[start:stop]", "[:stop]"),
    ("arange(start, stop)", "arange(stop)"),
    see=SPLIT,
)
slip(
    "last key left out",
    "**The last key is left out**: `stop` is excluded already, so the split ends with the key at "
    "stop − 1.",
    ("[start:stop]", "[start : stop - 1]"),
    ("arange(start, stop)", "arange(start, stop - 1)"),
    see=SPLIT,
)
slip(
    "values not cut",
    "The keys are those of the split, but **the values are the first of the row**. Cut v where you "
    "cut k.",
    ("v[start:stop]", "v[: stop - start]"),
    see=SPLIT,
)
slip(
    "K for V",
    "The weights are applied to **the keys**. They tell how to average the values.",
    ("v[start:stop]", "k[start:stop]"),
)
slip("1/D", "The scores are divided by D. The scale is 1/√D.", ("D**0.5", "D"))
slip(
    "lse is m",
    "lse is only the largest score. It lacks the logarithm of the sum: lse = m + log l.",
    ("safe + total.log()", "m"),
)
slip(
    "lse is the safe m",
    "lse is only **the safe copy of the maximum**: it lacks the logarithm of the sum, and a query "
    "that sees no key reports 0, as if it had found something.",
    ("safe + total.log()", "safe"),
)
slip(
    "m + l",
    "lse adds **the sum itself** to the maximum. Only its logarithm belongs there.",
    ("safe + total.log()", "safe + total"),
)
slip(
    "empty row lse 0",
    "A query that sees no key in this split reports **lse = 0**: the logarithm is taken of the sum "
    "that was made safe for the division. Of the true sum, 0, it is −∞.",
    ("total.log()", "torch.where(total == 0, 1.0, total).log()"),
    see=RAGGED,
)
slip(
    "1e-6 in the denominator",
    "A small number is **added to the sum** before dividing by it, so every mean comes out a "
    "little too small. Only a sum of 0 needs help.",
    ("torch.where(total == 0, 1.0, total)", "(total + 1e-6)"),
)
slip(
    "lse is l",
    "What you return as lse is the sum of the exponentials itself. Take its logarithm, and "
    "add the maximum back.",
    ("safe + total.log()", "total"),
)
slip(
    "stop included",
    "One key too many: the key at `stop` belongs to the next split, where it is counted "
    "a second time. As everywhere in Python, `stop` is excluded.",
    ("[start:stop]", "[start : stop + 1]"),
    ("arange(start, stop)", "arange(start, stop + 1)"),
    see=SPLIT,
)
slip(
    "stop ignored",
    "Your split runs from `start` to the end of the row: it must end at `stop`.",
    ("[start:stop]", "[start:length]"),
    ("arange(start, stop)", "arange(start, length)"),
    see=SPLIT,
)
slip(
    "softmax first",
    "The softmax runs over the whole row, and the split is cut out of it afterwards. A worker "
    "doesn't know the other scores: softmax and lse are taken over its own keys alone.",
    ("k[start:stop]", "k[:length]"),
    ("arange(start, stop)", "arange(length)"),
    ("p @ v", "p[:, start:stop] @ v"),
)
slip(
    "masked, not cut",
    "o is NaN only when cells outside the split are NaN: you gave them weight 0, but that "
    "doesn't save you, since 0 · NaN is NaN. Cut k and v first.",
    ("[start:stop]", ""),
    ("torch.arange(start, stop)", "j"),
    (
        "    if causal:",
        "    j = torch.arange(len(k))\n"
        "    scores = scores.masked_fill((j < start) | (j >= stop), -torch.inf)\n"
        "    if causal:",
    ),
    see=RAGGED,
)
slip(
    "-1e9",
    "Hidden scores are −1e9, not −∞. A query that sees no key in this split then gets the "
    "mean of values it must not see, and reports an lse of −1e9.",
    ("> position, -torch.inf", "> position, -1e9"),
    see=RAGGED,
)
slip(
    "lowest number",
    "Hidden scores are **the lowest finite number**, not −∞. A query that sees no key in this "
    "split then gets the mean of values it must not see, and its lse is that number.",
    ("> position, -torch.inf", "> position, torch.finfo(torch.float32).min"),
    see=RAGGED,
)
slip(
    "no mask",
    "`causal` makes no difference in your answer: a query may see keys only up to its own "
    "position.",
    ("if causal:", "if False:"),
    see=RAGGED,
)
slip(
    "always causal",
    "The mask is applied **always**: with `causal=False`, every query sees all keys of the split.",
    ("if causal:", "if True:"),
    see=RAGGED,
)
slip(
    "causal inverted",
    "`causal` is taken **the wrong way round**: the mask is there without it, and missing with it.",
    ("if causal:", "if not causal:"),
    see=RAGGED,
)
slip(
    "mask inverted",
    "The mask is **inverted**: the keys that a query may see are hidden from it, and those after "
    "its own position are not.",
    ("stop) > position", "stop) <= position"),
    see=RAGGED,
)
slip(
    "own key hidden",
    "A query does not see **the key at its own position**. Only the keys after it are hidden.",
    ("stop) > position", "stop) >= position"),
    see=RAGGED,
)
slip(
    "one key too late",
    "Every query stands **one position too late**: it sees one key of its future. The first is at "
    "length − Lq, the last at length − 1.",
    ("stop) > position", "stop) > position + 1"),
    see=RAGGED,
)
slip(
    "one position for all",
    "All queries stand **at the first one's position**, length − Lq. Each query stands one "
    "further than the one before it.",
    ("torch.arange(length - Lq, length)[:, None]", "length - Lq"),
    see=RAGGED,
)
slip(
    "hidden score 0",
    "Hidden scores are **set to 0**, and so have the weight e⁰, not none. Only a score of −∞ has "
    "no weight.",
    ("> position, -torch.inf", "> position, 0.0"),
    see=RAGGED,
)
slip(
    "masked after the softmax",
    "The mask is applied **to the weights, after their sum was taken**: the hidden keys still "
    "count in the sum, so the weights left don't add up to 1. Hide the scores instead.",
    ("    if causal:", "    hidden = torch.zeros_like(scores) > 0\n    if causal:"),
    ("scores = scores.masked_fill(torch", "hidden = (torch"),
    ("stop) > position, -torch.inf)", "stop) > position)"),
    ("o = p @", "o = p.masked_fill(hidden, 0.0) @"),
    see=RAGGED,
)
slip(
    "top left",
    "The mask is aligned top-left: query i is taken to be at position i. It is at length − Lq "
    "+ i, after everything cached before.",
    ("arange(length - Lq, length)", "arange(Lq)"),
    see=RAGGED,
)
slip(
    "both from 0",
    "Queries and keys are **both counted from 0**, as if the row began with this split and the "
    "first query stood there. Both have a position in the row.",
    ("arange(length - Lq, length)", "arange(Lq)"),
    ("arange(start, stop)", "arange(stop - start)"),
    see=RAGGED,
)
slip(
    "split's end",
    "The mask is aligned to the end of the split, as if the last query were at stop − 1. Positions "
    "are counted in the row: the last query is at length − 1, whichever split you are in.",
    ("arange(length - Lq, length)", "arange(stop - Lq, stop)"),
    see=RAGGED,
)
slip(
    "capacity",
    "The mask is aligned to the end of the cache's memory. The row ends at `length`; after "
    "that there are only unused cells.",
    ("arange(length - Lq, length)", "arange(len(k) - Lq, len(k))"),
    see=RAGGED,
)
slip(
    "local index",
    "The keys are numbered from 0 within the split when they are compared with the query's "
    "position. Key j of the split is at position start + j in the row.",
    ("arange(start, stop)", "arange(stop - start)"),
    see=RAGGED,
)
slip(
    "masked row",
    "A query that sees no key in this split gets NaN in o and lse: its maximum is −∞, and −∞ "
    "− (−∞) is not a number. Subtract a safe copy of the maximum.",
    ("torch.where(m == -torch.inf, 0.0, m)", "m"),
    see=RAGGED,
)
slip(
    "0 / 0",
    "A query that sees no key in this split gets NaN in o: its weights sum to 0, and 0 / 0 is "
    "not a number (torch.softmax of a row of −∞ does exactly that). Its o should be 0.",
    ("torch.where(total == 0, 1.0, total)", "total"),
    see=RAGGED,
)
slip(
    "empty lse 0",
    "An empty split has lse = 0 here. That is the log of a sum of 1, so it would count as "
    "much as a key with score 0. Where there are no keys, the sum is 0 and its log −∞.",
    ("torch.full((Lq,), -torch.inf)", "torch.zeros(Lq)"),
    see=RAGGED,
)
slip(
    "empty raises",
    "An empty split (start equal to stop) raises an error in your answer: there is no maximum "
    "of no scores. Handle that case first: return (0, −∞).",
    ("if start == stop:", "if False:"),
    see=RAGGED,
)

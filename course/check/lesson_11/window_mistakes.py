"""Exercise 11.3's mistakes."""

from course.check.spec import slip

WRITTEN = "        o[s], lse[s] = 0.0, -torch.inf  # what a split without keys leaves behind\n"
slip(
    "as it was shipped",
    "A split that sees no key still **writes nothing**, and stage 2 merges what lay in the "
    "scratch: old partials, as finite as the new ones.",
    (WRITTEN, ""),
)
slip(
    "lse of zero",
    "A split without keys leaves lse = 0. That is **the lse of a key with score 0**, and it "
    "weighs as much. Only −∞ weighs nothing.",
    ("0.0, -torch.inf  #", "0.0, 0.0  #"),
)
slip(
    "a finite minus infinity",
    "A split without keys leaves a **large negative number** as its lse. While others see keys, "
    "that works; if nobody does, it becomes the answer's lse. Leave −∞.",
    ("0.0, -torch.inf  #", "0.0, -1e30  #"),
)
slip(
    "o not written",
    "A split without keys writes its lse, and **leaves o as it was**. Its weight is 0, but 0 · "
    "NaN is NaN.",
    ("o[s], lse[s] = 0.0, -torch.inf", "lse[s] = -torch.inf"),
)
slip(
    "lse not written",
    "A split without keys writes o = 0, and **leaves lse as it was**: an old lse gives a weight to "
    "that zero.",
    ("o[s], lse[s] = 0.0, -torch.inf", "o[s] = 0.0"),
)
slip(
    "zeros for NaN",
    "It replaces **NaN** in the scratch. Memory that nobody wrote need not be NaN: most often it "
    "is an old result, and looks like a new one.",
    (WRITTEN, "        o.nan_to_num_(0.0, 0.0, 0.0), lse.nan_to_num_(-torch.inf, -torch.inf)\n"),
)
slip(
    "window forgotten",
    "The **window** is gone: each split attends to all of its keys.",
    ("max(s * chunk, n - window)", "s * chunk"),
)
slip(
    "window one too long",
    "The window is **one key too long**: its first key is n − window.",
    ("n - window", "n - window - 1"),
)
slip(
    "window one too short",
    "The window is **one key too short**: its first key is n − window.",
    ("n - window", "n - window + 1"),
)
slip(
    "a window per split",
    "Each split takes a **window of its own**, at its end. There is one window, at the end of the "
    "row.",
    ("max(s * chunk, n - window)", "max(s * chunk, (s + 1) * chunk - window)"),
)
slip(
    "window at the start",
    "The window lies at the **start** of the row. A new token sees the newest keys, the last ones.",
    (
        "max(s * chunk, n - window), min((s + 1) * chunk, n)",
        "s * chunk, min((s + 1) * chunk, window, n)",
    ),
)
slip(
    "past the end",
    "The end of a split is not held back to **the row's end**: it is n at most, also where the "
    "chunks reach further.",
    ("start < stop", "stop <= n and start < stop"),
    ("min((s + 1) * chunk, n)", "(s + 1) * chunk"),
)
slip(
    "stage 1 without a safe maximum",
    "A split **whose keys all have score −∞** gives NaN: its maximum is −∞, and −∞ − (−∞) is not a "
    "number. Subtract a safe copy.",
    ("scores[start:stop] - torch.where(m == -torch.inf, 0.0, m)", "scores[start:stop] - m"),
)
slip(
    "stage 1 divides by zero",
    "A split whose keys all have score −∞ gives **0 / 0** in o: its l is 0. Divide by 1 there.",
    ("torch.where(l == 0, 1.0, l)", "l"),
)
slip(
    "stage 2 without a safe maximum",
    "If **no split sees a key**, the largest lse is −∞, and −∞ − (−∞) is not a number. Subtract a "
    "safe copy in stage 2.",
    ("lse - torch.where(m == -torch.inf, 0.0, m)", "lse - m"),
)
slip(
    "stage 2 divides by zero",
    "If no split sees a key, all weights are 0 and stage 2 divides **0 / 0**. The o of such a row "
    "is 0.",
    ("torch.where(total == 0, 1.0, total)", "total"),
)
slip(
    "no maximum in stage 2",
    "Stage 2 takes exp(lse) **as it is**: at 300 it overflows, and at −300 it is 0. Subtract the "
    "largest lse first.",
    ("lse - torch.where(m == -torch.inf, 0.0, m)", "lse"),
    ("m + total.log()", "total.log()"),
)
slip(
    "mean of the splits",
    "The splits are **averaged**. A split counts by exp of its lse.",
    ("w = torch.exp(lse - torch.where(m == -torch.inf, 0.0, m))", "w = (lse > -torch.inf).float()"),
    ("m + total.log()", "torch.logsumexp(lse, 0)"),
)
slip(
    "not normalised",
    "Stage 1 stores **acc**, not acc / l. The merge weighs finished answers, and the weight is in "
    "the lse already.",
    (" / torch.where(l == 0, 1.0, l)", ""),
)
slip(
    "lse without the maximum",
    "The lse of a split **lacks the maximum** that was subtracted: it is m + log l.",
    ("lse[s] = m + l.log()", "lse[s] = l.log()"),
)
slip(
    "lse of the largest split",
    "The lse that comes back is **the largest** of the splits', not that of their sum.",
    (", m + total.log()", ", m"),
)
slip(
    "base 2",
    "The lse of a split is in **base 2**, and stage 2 takes it for a natural logarithm.",
    ("m + l.log()", "(m + l.log()) / math.log(2)"),
)
slip(
    "a plain mean",
    "The splits are **averaged**, each with the same weight, and also those that see no key. A "
    "split counts by exp of its lse.",
    ("w = torch.exp(lse - torch.where(m == -torch.inf, 0.0, m))", "w = torch.ones(S)"),
    ("m + total.log()", "torch.logsumexp(lse, 0)"),
)
slip(
    "a masked key empties its split",
    "A split with **one masked key** is thrown away as a whole. It has no key only if all of its "
    "scores are −∞.",
    ("if start < stop:", "if start < stop and scores[start:stop].min() > -torch.inf:"),
)
slip(
    "zero as a mark",
    "Stage 2 takes **lse = 0** for the mark of a split without keys. It is a possible lse: a "
    "single key with score 0 has it. Mark an empty split with a number that none with keys can "
    "have.",
    ("0.0, -torch.inf  #", "0.0, 0.0  #"),
    ("m = lse.max()  #", "lse = torch.where(lse == 0, -torch.inf, lse); m = lse.max()  #"),
)
slip(
    "minus ten thousand",
    "A split without keys leaves **−10,000** as its lse. Scores may be lower than that: then the "
    "empty split outweighs all others. Leave −∞.",
    ("0.0, -torch.inf  #", "0.0, -1e4  #"),
)
slip(
    "minus ten thousand if masked",
    "A split without keys, or with masked ones only, leaves **−10,000** as its lse. That is the "
    "lse of real scores as well, of low ones. Only −∞ weighs nothing in every row.",
    ("0.0, -torch.inf  #", "0.0, -1e4  #"),
    ("lse[s] = m + l.log()", "lse[s] = torch.where(l == 0, -1e4, m + l.log())"),
)
slip(
    "minus a billion",
    "A split without keys leaves **−10⁹** as its lse. While others see keys, that works; if nobody "
    "does, it becomes the answer's lse. Leave −∞.",
    ("0.0, -torch.inf  #", "0.0, -1e9  #"),
)
slip(
    "a clamped maximum",
    "The maximum is held **above some finite number**. A row may lie below it: then all of its "
    "exponentials are 0. Replace −∞ only.",
    ("torch.where(m == -torch.inf, 0.0, m)", "m.clamp(min=-1e4)"),
)
slip(
    "a window of minus zero",
    "A **window of 0** sees every key. In Python `-0` is 0, so a slice that begins at `-window` "
    "begins at the start of the row.",
    ("n - window", "n - (window or n)"),
)
slip(
    "rounded down",
    "The keys of a split are n / S rounded **down**: the last keys belong to no split, and with "
    "more splits than keys nobody gets any. Round up.",
    ("math.ceil(n / S)", "n // S"),
)
slip(
    "rounded down, but not to zero",
    "The keys of a split are n / S rounded **down**: what is left over, the newest keys, belongs "
    "to no split. Round up.",
    ("math.ceil(n / S)", "max(1, n // S)"),
)
slip(
    "no maximum in stage 1",
    "Stage 1 takes exp of the scores **as they are**: at 300 it overflows, and at −300 it is 0. "
    "Subtract the split's largest score first.",
    ("scores[start:stop] - torch.where(m == -torch.inf, 0.0, m)", "scores[start:stop]"),
    ("lse[s] = m + l.log()", "lse[s] = l.log()"),
)
slip(
    "as many splits as keys",
    "With **more splits than keys**, stage 1 writes only as many partials as there are keys. "
    "Stage 2 merges the whole scratch, also what lay there before.",
    ("range(S)", "range(min(S, n))"),
)

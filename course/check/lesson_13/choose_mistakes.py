"""Exercise 13.4's mistakes."""

from course.check.spec import slip

MEASURED = "6 · What it costs: perplexity"
BYTES = "7 · What it buys: bytes and users"
OUTLIERS = "5 · Why keys are harder than values"

KEY = "key=lambda row: (row.bytes_per_token, row.high)"
FITS = "row.high <= 1 + budget"
CHOSEN = f"min(fits, {KEY}, default=None)"

slip(
    "the ratio decides",
    "What must stay within the budget is taken to be the **ratio**. It is measured on some text; "
    "the truth may lie anywhere in the interval, so its upper end has to fit.",
    ("row.high <=", "row.ratio <="),
)
slip(
    "the lower bound decides",
    "What must stay within the budget is taken to be the **lower** end of the interval. That is "
    "the best case; the upper end has to fit.",
    ("row.high <=", "row.low <="),
)
slip(
    "the middle decides",
    "What must stay within the budget is taken to be the **middle** of the interval. The truth may "
    "lie anywhere in it, so its upper end has to fit.",
    (FITS, "(row.low + row.high) / 2 <= 1 + budget"),
)
slip(
    "whatever contains 1",
    "A row is taken if **its interval contains 1**. That says that no loss was found, and a wide "
    "interval contains 1 whatever the loss. Ask for the upper end.",
    (FITS, "row.low <= 1 <= row.high"),
)
slip(
    "within the budget, and contains 1",
    "A row must also have **1 in its interval** to be taken. A loss that is certain but small is "
    "fine: that is what the budget is for.",
    (FITS, FITS + " and row.low <= 1 <= row.high"),
)
slip(
    "within the budget, and begins below 1",
    "A row must also **begin at 1 or below** to be taken. A loss that is certain but small is "
    "fine: that is what the budget is for.",
    (FITS, FITS + " and row.low <= 1"),
)
slip(
    "as near to 1 from below",
    "A row that is **better than fp32** by more than the budget is refused. Only a loss counts "
    "against it.",
    (FITS, "abs(row.high - 1) <= budget"),
)
slip(
    "the width of the interval",
    "What is compared with the budget is **how wide the interval is**. It says how well the ratio "
    "is known, not how large it is.",
    (FITS, "row.high - row.low <= budget"),
)
slip(
    "without the 1",
    "The upper end is compared with **the budget itself**. It is a ratio, near 1: compare with 1 + "
    "budget.",
    ("1 + budget", "budget"),
)
slip(
    "one minus the budget",
    "The upper end is compared with **1 - budget**, so only what is better than fp32 fits. A loss "
    "makes the ratio larger than 1, and the budget says how much larger it may be.",
    ("1 + budget", "1 - budget"),
)
slip(
    "the comparison turned around",
    "The comparison is **turned around**: the rows that fit are thrown away, and those that don't "
    "are kept.",
    ("row.high <=", "row.high >="),
)
slip(
    "both ends within the budget",
    "**Both ends** of the interval must be within the budget of 1 for a row to be taken. Only a "
    "loss counts against it: a low lower end is no reason to refuse a row.",
    (FITS, f"1 - budget <= row.low and {FITS}"),
)
slip(
    "in percent",
    "The budget is taken to be **in percent**. 0.01 is one percent: 1 + budget is the bound.",
    ("1 + budget", "1 + budget / 100"),
)
slip(
    "less, not at most",
    "A row whose upper end is **exactly 1 + budget** is refused. It stays within the budget.",
    ("row.high <=", "row.high <"),
)
slip(
    "rounded",
    "The upper end is **rounded** before it is compared, and what is a little above the bound "
    "comes down to it. Compare the number itself.",
    (FITS, "round(row.high, 3) <= 1 + budget"),
)
slip(
    "the best quality",
    "Of the rows that fit, the one with **the smallest loss** is chosen. The budget is there to be "
    "spent: take the fewest bytes.",
    (KEY, "key=lambda row: row.high"),
    see=BYTES,
)
slip(
    "the smallest ratio",
    "Of the rows that fit, the one with **the smallest ratio** is chosen. The budget is there to "
    "be spent: take the fewest bytes.",
    (KEY, "key=lambda row: row.ratio"),
    see=BYTES,
)
slip(
    "nearest to the budget",
    "Of the rows that fit, the one **nearest to the budget** is chosen. A larger loss is no gain "
    "in itself: take the fewest bytes.",
    (KEY, "key=lambda row: -row.high"),
    see=BYTES,
)
slip(
    "bytes times loss",
    "Of the rows that fit, the one with the smallest **product** of bytes and upper end is chosen. "
    "Bytes alone decide; the upper end only matters where they are equal.",
    (KEY, "key=lambda row: row.bytes_per_token * row.high"),
    see=BYTES,
)
slip(
    "rows compared as they are",
    "`min` is not told **what to compare**, so it compares the rows field by field, and the name "
    "of K's format decides. Give it a key that begins with the bytes.",
    (f"{KEY}, ", ""),
    see=BYTES,
)
slip(
    "max for min",
    "Of the rows that fit, the one with **the most bytes** is chosen: the largest where the "
    "smallest is wanted.",
    (CHOSEN, f"max(fits, {KEY}, default=None)"),
    see=BYTES,
)
slip(
    "the first that fits",
    "The **first** row that fits is chosen. The table is in no particular order: look at all.",
    (CHOSEN, "(fits or [None])[0]"),
)
slip(
    "the first of equals",
    "Of rows with equally many bytes, **the first** is chosen. The order says nothing: take the "
    "smaller upper end.",
    (KEY, "key=lambda row: row.bytes_per_token"),
)
slip(
    "the last of equals",
    "Of rows with equally many bytes, **the last** is chosen. The order says nothing: take the "
    "smaller upper end.",
    (CHOSEN, "min(fits[::-1], key=lambda row: row.bytes_per_token, default=None)"),
)
slip(
    "equals by their ratio",
    "Of rows with equally many bytes, the one with the smaller **ratio** is chosen. Here, too, it "
    "is the upper end that counts.",
    ("(row.bytes_per_token, row.high)", "(row.bytes_per_token, row.ratio)"),
)
slip(
    "equals by their lower bound",
    "Of rows with equally many bytes, the one with the smaller **lower** end is chosen. Here, too, "
    "it is the upper end that counts.",
    ("(row.bytes_per_token, row.high)", "(row.bytes_per_token, row.low)"),
)
slip(
    "equals by their width",
    "Of rows with equally many bytes, the one with the **narrower** interval is chosen. That says "
    "how well it is known, not how good it is: it is the upper end that counts.",
    ("(row.bytes_per_token, row.high)", "(row.bytes_per_token, row.high - row.low)"),
)
slip(
    "the worst of equals",
    "Of rows with equally many bytes, the one with the **larger** upper end is chosen. Take the "
    "smaller.",
    ("(row.bytes_per_token, row.high)", "(row.bytes_per_token, -row.high)"),
)
slip(
    "equals by their names",
    "Of rows with equally many bytes, the one whose **name comes first** is chosen. Take the "
    "smaller upper end.",
    ("(row.bytes_per_token, row.high)", "(row.bytes_per_token, row.k, row.v)"),
)
slip(
    "an error where nothing fits",
    "Where **nothing fits**, it raises an error. Return None.",
    (", default=None", ""),
)
slip(
    "a row of None",
    "Where **nothing fits**, it returns a row whose fields are None. Return None itself.",
    ("default=None", "default=Measured(*[None] * 6)"),
)
slip(
    "an error where nothing fits, though not for an empty table",
    "An empty table gives None, as it should. Where there are rows and **nothing fits**, it raises "
    "an error. Return None there, too.",
    ("return " + CHOSEN, f"return min(fits, {KEY}) if measured else None"),
)
slip(
    "an error where there is nothing",
    "Of **an empty table** it takes a row, which is an error. Return None.",
    ("return " + CHOSEN, f"measured[0]\n    return {CHOSEN}"),
)
slip(
    "an empty list",
    "Where **nothing fits**, it returns an empty list. Return None.",
    ("default=None", "default=[]"),
)
slip(
    "something where nothing fits",
    "Where **nothing fits**, it returns the row with the smallest upper end. It is outside the "
    "budget, and the caller would not know: return None.",
    ("default=None", "default=min(measured, key=lambda row: row.high, default=None)"),
)
slip(
    "the first row where nothing fits",
    "Where **nothing fits**, it returns the first row of the table. It is outside the budget, and "
    "the caller would not know: return None.",
    ("default=None", "default=measured[0] if measured else None"),
)
slip(
    "the first row where nothing fits, even if there is none",
    "Where **nothing fits**, it returns the first row of the table, and an error where the table "
    "has no rows. Return None in both cases.",
    ("default=None", "default=measured[0]"),
)
slip(
    "False where nothing fits",
    "Where **nothing fits**, it returns False. Return None.",
    ("default=None", "default=False"),
)
slip(
    "the smallest where nothing fits",
    "Where **nothing fits**, it returns the row with the fewest bytes. It is outside the budget, "
    "and the caller would not know: return None.",
    ("min(fits, ", "min(fits or measured, "),
)
slip(
    "no budget",
    "The row with the fewest bytes is chosen, **whatever it costs**. The upper end must be within "
    "1 + budget.",
    (" if row.high <= 1 + budget", ""),
)
slip(
    "one format for both",
    "Only rows in which K and V have **the same format** are looked at. Keys are harder than "
    "values, so two formats may be the better choice.",
    (FITS, FITS + " and row.k == row.v"),
    see=OUTLIERS,
)
slip(
    "two formats only",
    "Only rows in which K and V have **different formats** are looked at. Rows with one for both "
    "count as well.",
    (FITS, FITS + " and row.k != row.v"),
    see=OUTLIERS,
)
slip(
    "all that fit",
    "It returns a **list** of all rows that fit. Asked for is one row, or None.",
    ("return " + CHOSEN, "return fits"),
)
slip(
    "in a list",
    "The row comes **in a list**. Asked for is the row, or None.",
    ("return " + CHOSEN, f"return sorted(fits, {KEY})[:1]"),
)
slip(
    "the formats alone",
    "Only the **formats of K and V** come back. Asked for is the whole row.",
    (CHOSEN, f"next((row[:2] for row in sorted(fits, {KEY})), None)"),
)
slip(
    "the bytes alone",
    "Only the **bytes per token** come back. Asked for is the whole row.",
    (CHOSEN, f"next((row.bytes_per_token for row in sorted(fits, {KEY})), None)"),
)
slip(
    "two numbers",
    "Only **two numbers** come back, bytes and upper end. Asked for is the whole row.",
    (CHOSEN, f"next((({KEY.split('row: ')[1]}) for row in sorted(fits, {KEY})), None)"),
)

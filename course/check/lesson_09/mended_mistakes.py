"""Exercise 9.4's mistakes, beside those in `mended.py`: (name, says, *changes)."""

from course.check.spec import slip

CHUNK = "tl.cdiv(length, tl.num_programs(0))"
START, STOP = "tl.minimum(split * chunk, length)", "tl.minimum((split + 1) * chunk, length)"
REST = "tl.where(split + 1 == tl.num_programs(0), length, (split + 1) * chunk)"
FINALIZE = "o, lse = finalize(m_log2, l, acc)"
DIVIDED = "o, lse = acc / tl.where(l == 0.0, 1.0, l)[:, None]"
LN_2 = "0.6931471805599453"
MASK, TO_THE_END = "mask=mask", "mask=offs_n[:, None] < length"
SCORES = ("where(mask", "where(offs_n[:, None] < length")

WHOLE_BLOCKS = "tl.cdiv(length, BLOCK_N)"
LEFT_OUT = (
    "Whole blocks are a good idea, but their number **per split** is rounded down, so the last "
    "blocks of the row belong to no split."
)
LONG_LAST = (
    "A split's share is rounded down, and **the last takes all the rest**: the others wait for it. "
    "Round up, and the last ones get less."
)
TWO_BASES = (
    "lse is the sum of two numbers in **different bases**, one of them in base 2. Bring both to "
    "natural logarithms."
)

MORE = (
    (
        "only K mended",
        "Only the load of **K** stops at the split's end: the keys after it get a score of 0, but "
        "are counted as before, with their V.",
        SCORES,
        (f"v_ptr + offs_kv, {MASK}", f"v_ptr + offs_kv, {TO_THE_END}"),
    ),
    (
        "only V mended",
        "Only the load of **V** stops at the split's end: the keys after it add nothing to acc, "
        "but their weights still add to l.",
        SCORES,
        (f"k_ptr + offs_kv, {MASK}", f"k_ptr + offs_kv, {TO_THE_END}"),
    ),
    ("chunk cut to whole blocks", LEFT_OUT, (CHUNK, f"{CHUNK} // BLOCK_N * BLOCK_N")),
    (
        "blocks divided down",
        f"{LEFT_OUT} Round up twice.",
        (CHUNK, f"{WHOLE_BLOCKS} // tl.num_programs(0) * BLOCK_N"),
    ),
    (
        "a block too many",
        "The blocks per split are rounded up by **+ 1**. Where they can be divided evenly, each "
        "split takes one too many, and the last ones go short.",
        (CHUNK, "(length // BLOCK_N // tl.num_programs(0) + 1) * BLOCK_N"),
    ),
    (
        "in blocks",
        "A split's share is a **number of blocks**: multiply it by BLOCK_N to get keys.",
        (CHUNK, f"tl.cdiv({WHOLE_BLOCKS}, tl.num_programs(0))"),
    ),
    (
        "one block each",
        "Each split takes **one block**, and what is left over belongs to none.",
        (CHUNK, "BLOCK_N"),
    ),
    (
        "stop past the end",
        "stop is **not pulled back to the length**: the last splits read on past the last key.",
        (STOP, "(split + 1) * chunk"),
    ),
    (
        "chunk for stop",
        "The mask compares with **chunk**, the number of keys of a split. That is where split 0 "
        "ends; the others end later.",
        ("[:, None] < stop", "[:, None] < chunk"),
    ),
    (
        "start + chunk for stop",
        "The mask compares with **start + chunk**. In the last splits that is past the end of the "
        "row: stop is cut there.",
        ("[:, None] < stop", "[:, None] < start + chunk"),
    ),
    (
        "only whole blocks",
        "The loop leaves out a split's **last block if it is not full**: its keys belong to the "
        "split as well.",
        ("range(start, stop, BLOCK_N)", "range(start, stop - BLOCK_N + 1, BLOCK_N)"),
    ),
    (
        "the whole row",
        "Every split takes **the whole row**: each key is counted once per split.",
        (f"{START}, {STOP}", "0, length"),
    ),
    (
        "from the beginning",
        "Each split ends where it should, but **starts at key 0**: it takes the keys of all splits "
        "before it as well.",
        (f"{START}, {STOP}", f"0, {STOP}"),
    ),
    (
        "to the end of the row",
        "Each split begins at its own start, but runs on **to the end of the row**, through the "
        "keys of all splits after it.",
        (STOP, "length"),
    ),
    ("the rest to the last", LONG_LAST, (CHUNK, "length // tl.num_programs(0)"), (STOP, REST)),
    (
        "the rest of the blocks to the last",
        f"{LONG_LAST} Here that can be most of the row.",
        (CHUNK, "length // BLOCK_N // tl.num_programs(0) * BLOCK_N"),
        (STOP, REST),
    ),
    (
        "log of l in base e",
        f"{TWO_BASES} m_log2 is not natural.",
        (FINALIZE, f"{DIVIDED}, m_log2 + tl.log(tl.where(l == 0.0, 1.0, l))"),
    ),
    (
        "log of l in base 2",
        f"{TWO_BASES} m is natural here, log2(l) is not.",
        (FINALIZE, f"{DIVIDED}, m_log2 * {LN_2} + tl.log2(tl.where(l == 0.0, 1.0, l))"),
    ),
    (
        "lse is m",
        "What is stored as lse is **the maximum**. It says nothing about how many keys there were: "
        "add the logarithm of l.",
        ("tl.arange(0, 1), lse)", f"tl.arange(0, 1), m_log2 * {LN_2})"),
    ),
    (
        "lse without m",
        "lse is **the logarithm of l alone**, and l is measured from this split's own maximum. "
        "Other splits measure from theirs: add m.",
        ("tl.arange(0, 1), lse)", "tl.arange(0, 1), tl.log(l))"),
    ),
    (
        "V without other",
        "The masked load of V has **no `other`**: its masked lanes hold anything, here NaN, and "
        "0 · NaN is NaN.",
        (f"v_ptr + offs_kv, {MASK}, other=0.0", f"v_ptr + offs_kv, {MASK}"),
    ),
)

for name, says, *changes in MORE:
    slip(name, says, *changes)

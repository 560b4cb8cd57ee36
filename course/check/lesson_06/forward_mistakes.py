"""Exercise 6.4's mistakes, beside those in `forward.py`: (name, says, where, *changes)."""

from course.check.spec import slip

LOOP = "3 · The loop over the keys"
CAUSAL = "5 · Causal, in two stages"
HEADS = "4 · Heads, batches, strides"

SHIFTED = "offs_m[:, None] + (Lk - Lq)"
LAST = "(tile + 1) * BLOCK_M + (Lk - Lq)"
STOP = f"tl.minimum({LAST}, Lk)"
NEW = "tl.maximum(m, tl.max(scores, 1))"
START = 'm = tl.full((BLOCK_M,), float("-inf"), tl.float32)'
RULER = 'tl.where(m_new == float("-inf"), 0.0, m_new)'
MASKED = 'tl.where(seen, scores, float("-inf"))'
DOT = 'tl.dot(p, v, input_precision="ieee")'
ROW = "(b * Lq + offs_m) * tl.num_programs(1) + head"
E = "1.4426950408889634"
Q_STRIDES = "b * stride_qb + head * stride_qh + offs_m[:, None] * stride_qm"

NO_MAXIMUM = (
    "The exponentials are taken **without subtracting the maximum**: of a score of 200 it is inf, "
    "of −200 it is 0. Measured from the row's largest score, no exponential is above 1."
)
DIVIDED = (
    "acc is **divided by l in every turn** of the loop. It has to stay an undivided sum: the only "
    "division comes after the last tile."
)
NO_STAND_IN = (
    "A row that sees no key is **not provided for**: −inf − (−inf) is NaN while it has seen "
    "nothing, and 0 / 0 is NaN at the end. Both need something finite instead."
)
HALF_BASE_2 = (
    "exp2 is applied to **natural** scores. 2ˣ is eˣ only if the scores are multiplied by log2(e) "
    "first; or stay with exp and log."
)
LARGE = (
    "A **large negative number** stands for −inf. As long as a row has seen nothing, a key that it "
    "must not see has the same score as its maximum, and so the weight e⁰; and lse is not −inf."
)
ONE_POINTER = "**{}** is always that of {} 0: its pointer must move by the head and by the batch."

LATER = "        m = m_new\n"
SAFE_L = "tl.where(l == 0.0, 1.0, l)"
ONCE = ("acc / l_safe[:, None]", "acc")
IN_THE_LOOP = (LATER, f"{LATER}        acc = acc / {SAFE_L}[:, None]\n")
UNSAFE = (LATER, f"{LATER}        acc = acc / l[:, None]\n")
LOG = "m + tl.log(l_safe)"
NO_RULER = (NEW, "tl.zeros((BLOCK_M,), tl.float32)")

MORE = (
    (
        "mask aligned top left",
        "The loop stops where it should, but the mask lets query i see the keys up to **i**. The "
        "queries are the newest tokens: query i stands at position i + Lk − Lq.",
        CAUSAL,
        (SHIFTED, "offs_m[:, None]"),
    ),
    (
        "stop aligned top left",
        "The mask is right, but the loop stops at the **number of the tile's last query**. That "
        "query stands at position i + Lk − Lq, and so far it sees.",
        CAUSAL,
        (LAST, "(tile + 1) * BLOCK_M"),
    ),
    (
        "lengths swapped",
        "The shift is **Lq − Lk**; it should be the other way round: the more keys there are, the "
        "more each query sees.",
        CAUSAL,
        ("Lk - Lq", "Lq - Lk"),
    ),
    (
        "a later key seen",
        "A query sees **one key too many**: the last that it sees is its own, at i + Lk − Lq.",
        CAUSAL,
        (SHIFTED, f"{SHIFTED} + 1"),
    ),
    (
        "rows counted from 0 in each tile",
        "The mask takes the query's **place in its tile** for its number: in tile 1, row 0 is "
        "query BLOCK_M.",
        CAUSAL,
        (SHIFTED, "tl.arange(0, BLOCK_M)[:, None] + (Lk - Lq)"),
    ),
    (
        "mask upside down",
        "The mask is **the wrong way round**: a query sees what comes before it, not what follows.",
        CAUSAL,
        ("offs_n[None, :] <= offs_m", "offs_n[None, :] >= offs_m"),
    ),
    (
        "no mask",
        "The scores are **not masked at all**: a query sees the keys that come after it, and a key "
        "past the end scores 0, which weighs e⁰.",
        CAUSAL,
        (f"        scores = {MASKED}\n", ""),
        (LAST, "Lk"),
    ),
    (
        "no mask in the loop",
        "The loop stops where the tile's last row stops, but inside it the scores are **not masked "
        "at all**: rows see keys that come after them, and keys past the end score 0.",
        CAUSAL,
        (f"        scores = {MASKED}\n", ""),
    ),
    (
        "a tile too few",
        "The loop stops **one tile too early**: the last keys are never reached.",
        CAUSAL,
        ("range(0, stop,", "range(0, stop - BLOCK_N,"),
    ),
    (
        "only whole tiles",
        "The loop stops at the **last whole tile** of keys: what is left over is never reached.",
        CAUSAL,
        ("range(0, stop,", "range(0, stop // BLOCK_N * BLOCK_N,"),
    ),
    (
        "stops at Lq",
        "The loop stops at **Lq**, the number of queries, or is cut there. It walks over the keys: "
        "there are Lk.",
        CAUSAL,
        (STOP, "Lq"),
    ),
    (
        "BLOCK_N rows",
        "The end of the loop is computed as if the tile had **BLOCK_N rows**: it has BLOCK_M.",
        CAUSAL,
        (LAST, "tile * BLOCK_M + BLOCK_N + (Lk - Lq)"),
    ),
    (
        "no maximum",
        NO_MAXIMUM,
        LOOP,
        NO_RULER,
        (LOG, "tl.log(l_safe)"),
    ),
    ("no maximum, m 0", f"{NO_MAXIMUM} As m you keep 0.", LOOP, NO_RULER),
    (
        "no maximum, lse of l",
        f"{NO_MAXIMUM} And lse is log l alone.",
        LOOP,
        NO_RULER,
        (LOG, "tl.log(l)"),
    ),
    (
        "no maximum, plain division",
        f"{NO_MAXIMUM} And 0 / 0 is NaN.",
        LOOP,
        NO_RULER,
        (LOG, "tl.log(l)"),
        (SAFE_L, "l"),
    ),
    (
        "V without other",
        "The masked load of V has **no `other`**: its lanes past the last key hold anything, here "
        "NaN, and 0 · NaN is NaN.",
        LOOP,
        ("stride_vn + offs_d, mask=inside, other=0.0", "stride_vn + offs_d, mask=inside"),
    ),
    (
        "nothing rescaled",
        "Neither l nor acc moves to the new ruler. If you did compute the factor, m was "
        "**overwritten beforehand**, so the difference is 0.",
        LOOP,
        ("acc * alpha[:, None] +", "acc +"),
        ("l * alpha +", "l +"),
    ),
    (
        "wrong sign",
        "The factor for what came before has the **wrong sign**: it must shrink the old sums when "
        "the maximum rises, and it is 0 where the old maximum is −inf.",
        LOOP,
        ("tl.exp(m - ruler)", "tl.exp(ruler - m)"),
    ),
    (
        "acc not carried",
        "acc is **set, not added to**: only the last tile's values are left.",
        LOOP,
        ("acc * alpha[:, None] + ", ""),
    ),
    (
        "l not carried",
        "l is **set, not added to**: only the last tile's sum is left.",
        LOOP,
        ("l * alpha + ", ""),
    ),
    (
        "new values rescaled too",
        "In acc, the factor multiplies the **sum of old and new**. What this tile adds is already "
        "measured from the new maximum: only the old part moves.",
        LOOP,
        (f"acc * alpha[:, None] + {DOT}", f"(acc + {DOT}) * alpha[:, None]"),
    ),
    (
        "one ruler for all rows",
        "The maximum is taken over **the whole tile**, so all rows get the same ruler: each row "
        "has its own maximum.",
        LOOP,
        ("tl.max(scores, 1)", "tl.max(scores)"),
    ),
    ("divided in every turn", DIVIDED, LOOP, IN_THE_LOOP, ONCE),
    (
        "divided in every turn, and after",
        f"{DIVIDED} That one is there as well.",
        LOOP,
        IN_THE_LOOP,
    ),
    ("divided in every turn, by 0 too", f"{DIVIDED} And 0 / 0 is NaN.", LOOP, UNSAFE, ONCE),
    ("no stand-ins", NO_STAND_IN, CAUSAL, (RULER, "m_new"), (SAFE_L, "l")),
    (
        "scale twice",
        "The scores are scaled **twice**, such as once in q and once after the product.",
        LOOP,
        ("scale * tl.dot", "scale * scale * tl.dot"),
    ),
    ("exp2 of natural", HALF_BASE_2, LOOP, ("tl.exp(", "tl.exp2(")),
    (
        "exp2 and log2 of natural",
        f"{HALF_BASE_2} And lse is in neither base.",
        LOOP,
        ("tl.exp(", "tl.exp2("),
        ("tl.log(", "tl.log2("),
    ),
    (
        "log2(e) without exp2",
        "The scores are multiplied by **log2(e)**, but exp is applied to them. In base 2 the "
        "function that goes with it is exp2.",
        LOOP,
        ("scale * tl.dot", f"scale * {E} * tl.dot"),
    ),
    (
        "lse in two bases",
        "lse adds a **natural logarithm** to a maximum in base 2. Bring both to natural "
        "logarithms.",
        LOOP,
        (LOG, f"m * {E} + tl.log(l_safe)"),
    ),
    (
        "empty lse 0",
        "A row that sees no key gets **lse = 0**, as if it saw a key of score 0: it must be −inf.",
        CAUSAL,
        (LOG, "tl.where(l == 0.0, 0.0, m + tl.log(l_safe))"),
    ),
    (
        "m starts at a large negative number",
        "The running maximum starts at **a finite number**. A row without keys then leaves that "
        "number as its lse; it has to be −inf.",
        CAUSAL,
        (START, START.replace('float("-inf")', "-1e9")),
    ),
    ("a large negative score", LARGE, CAUSAL, (MASKED, "tl.where(seen, scores, -1e9)")),
    (
        "a large negative number, no ruler",
        f"{LARGE} m starts there as well.",
        CAUSAL,
        (START, START.replace('float("-inf")', "-1e9")),
        (RULER, "m_new"),
        (MASKED, "tl.where(seen, scores, -1e9)"),
    ),
    ("K of the first row", ONE_POINTER.format("K", "batch row"), HEADS, ("b * stride_kb + ", "")),
    ("V of the first row", ONE_POINTER.format("V", "batch row"), HEADS, ("b * stride_vb + ", "")),
    ("q of the first head", ONE_POINTER.format("q", "head"), HEADS, (" + head * stride_qh", "")),
    (
        "K of the first KV head",
        ONE_POINTER.format("K", "KV head"),
        HEADS,
        (" + head // G * stride_kh", ""),
    ),
    (
        "V of the first KV head",
        ONE_POINTER.format("V", "KV head"),
        HEADS,
        (" + head // G * stride_vh", ""),
    ),
    (
        "the first KV head",
        "All programs read **the first KV head**: K and V don't depend on the head.",
        HEADS,
        (" + head // G * stride_kh", ""),
        (" + head // G * stride_vh", ""),
    ),
    (
        "no batch at all",
        "All three pointers stay in **batch row 0**: the program's batch is never used.",
        HEADS,
        ("b * stride_qb + ", ""),
        ("b * stride_kb + ", ""),
        ("b * stride_vb + ", ""),
    ),
    (
        "modulo",
        "The KV head is the **remainder** modulo G. A group is G adjacent heads: divide by G.",
        HEADS,
        ("head // G", "head % G"),
    ),
    (
        "KV head for q",
        "q_ptr is moved by the **KV head**, but only K and V are shared.",
        HEADS,
        ("head * stride_qh", "head // G * stride_qh"),
    ),
    (
        "V moved by K's strides",
        "V's pointer is moved by **the strides of K**. It has its own.",
        HEADS,
        ("stride_vb + head // G * stride_vh", "stride_kb + head // G * stride_kh"),
    ),
    (
        "o without the batch",
        "Where a row of o and lse goes **does not depend on the batch**: all batch rows are stored "
        "in the same place.",
        HEADS,
        (ROW, "offs_m * tl.num_programs(1) + head"),
    ),
    (
        "o without the head",
        "Where a row of o and lse goes **does not depend on the head**: all heads are stored "
        "in the same place.",
        HEADS,
        (ROW, "(b * Lq + offs_m) * tl.num_programs(1)"),
    ),
    (
        "o head by head",
        "o and lse are stored **(B, Hq, Lq)**, head by head. Asked for is (B, Lq, Hq).",
        HEADS,
        (ROW, "(b * tl.num_programs(1) + head) * Lq + offs_m"),
    ),
    (
        "G for Hq",
        "In o, tokens are taken to be **G rows** apart. There are Hq heads, all query heads.",
        HEADS,
        (ROW, "(b * Lq + offs_m) * G + head"),
    ),
    (
        "o by the strides of q",
        "o is stored by **the strides of q**. It is contiguous, whatever q is.",
        HEADS,
        ("o_ptr + row[:, None] * D", f"o_ptr + {Q_STRIDES}"),
    ),
)

for name, says, where, *changes in MORE:
    slip(name, says, *changes, see=where)

"""Exercise 9.2's mistakes, beside those in `combine_kernel.py`: (name, says, *changes)."""

from course.check.spec import slip

MASK_O = "mask=mask_s[:, None] & mask_d[None, :],"
OTHER_O = "\n        other=0.0"
LSE = ', mask=mask_s, other=float("-inf")'
LOG = "m + tl.log(l_safe)"

LOW = (
    "The lanes past the last split get a **large negative number** as their lse. Where all splits "
    "are empty, or lower still, that number is the maximum. A lane without a split is like an "
    "empty split: −inf."
)

MORE = (
    (
        "lse without other",
        "The masked load of lse has **no `other`**: its lanes past the last split hold anything, "
        "here NaN. Like an empty split, such a lane should have an lse of −inf.",
        (LSE, ", mask=mask_s"),
    ),
    (
        "lse not masked",
        "lse is loaded **without a mask**: the lanes past the last split read what lies after it. "
        "They should look like empty splits.",
        (LSE, ""),
    ),
    (
        "no mask on the splits",
        "**Neither load is masked by the splits**: the lanes past the last one read what lies "
        "after it. They should look like empty splits.",
        (LSE, ""),
        (MASK_O, "mask=mask_d[None, :],"),
    ),
    (
        "o without other",
        "The masked load of o has **no `other`**: its lanes past the last split hold anything, "
        "here NaN. Their weight is 0, but 0 · NaN is NaN.",
        (f"{MASK_O}{OTHER_O}", MASK_O.rstrip(",")),
    ),
    (
        "o not masked by split",
        "The load of o has **no mask on the splits**: lanes past the last one read what lies after "
        "it. Their weight is 0, but 0 · NaN is NaN, and on a GPU the read itself may end the "
        "program.",
        (MASK_O, "mask=mask_d[None, :],"),
    ),
    (
        "o not masked",
        "o is loaded **without a mask**, or its two masks are joined by *or*. A lane counts only "
        "if its split and its dimension exist: others read what lies behind.",
        (f"        {MASK_O}{OTHER_O},\n", ""),
    ),
    (
        "o not masked by dimension",
        "The load of o has **no mask on D**: in the last row, the lanes after it read past the end "
        "of the tensor.",
        (MASK_O, "mask=mask_s[:, None],"),
    ),
    ("low, not -inf", LOW, ('other=float("-inf")', "other=-1e9")),
    (
        "not low enough",
        f"{LOW} Here it is not even very low.",
        ('other=float("-inf")', "other=-100.0"),
    ),
    (
        "a little added",
        "A **small number is added** to the sum of the weights. That changes every result: only "
        "where the sum is 0 does it need a stand-in.",
        ("tl.where(l == 0.0, 1.0, l)", "l + 1e-6"),
    ),
    (
        "lse taken for base 2",
        "The partial lse are taken for **logarithms in base 2**. They are natural ones: their "
        "weights are powers of e.",
        ("tl.exp(", "tl.exp2("),
        (LOG, "(m + tl.log2(l_safe)) * 0.6931471805599453"),
    ),
    (
        "converted twice",
        "lse is **multiplied by ln 2**, but the maximum in it is a natural logarithm already.",
        (LOG, "(m + tl.log2(l_safe)) * 0.6931471805599453"),
    ),
    (
        "lse as weight",
        "The splits are weighted by **lse itself**. It is a logarithm: the weight is its "
        "exponential.",
        ("tl.exp(lse_s - ruler)", "lse_s"),
    ),
    (
        "plain sum",
        "o is the plain **sum** of the splits. Each split must count by the total weight of its "
        "keys, and that is what its lse tells you.",
        ("tl.sum(w[:, None] * o_s, 0) / l_safe", "tl.sum(o_s, 0)"),
    ),
    (
        "wrong sign",
        "The weights have the **wrong sign** in their exponent: the larger a split's lse, the more "
        "it counts.",
        ("lse_s - ruler", "ruler - lse_s"),
    ),
    (
        "the mean's lse",
        "lse is that of the **mean** weight. Asked for is the logarithm of their sum.",
        (LOG, "m + tl.log(l_safe / num_splits)"),
    ),
    (
        "rows forgotten",
        "Two splits of a row are taken to be **one number** apart. Between them lie all the other "
        "rows.",
        ("offs_s * rows + row", "offs_s + row"),
    ),
    (
        "always row 0",
        "Every program merges **row 0**: where a row lies depends on the program's number.",
        ("offs_s * rows + row", "offs_s * rows"),
    ),
    (
        "num_splits for rows",
        "Two splits of a row are taken to be **num_splits** numbers apart. It is rows, since each "
        "split holds one number a row.",
        ("offs_s * rows + row", "offs_s * num_splits + row"),
    ),
    (
        "o read too wide",
        "In `o_partial`, rows are taken to be **BLOCK_D** numbers apart: it is D.",
        ("offs[:, None] * D", "offs[:, None] * BLOCK_D"),
    ),
    (
        "o written too wide",
        "In the o that is stored, rows are taken to be **BLOCK_D** numbers apart: it is D.",
        ("row * D", "row * BLOCK_D"),
    ),
    (
        "o stored without D",
        "The o of row i is stored at element **i**. Each row has D numbers: it begins at i · D.",
        ("row * D", "row"),
    ),
    (
        "o stored in row 0",
        "Every program stores o **in row 0**: where it goes depends on the program's number.",
        ("o_ptr + row * D", "o_ptr"),
    ),
    (
        "lse stored in row 0",
        "Every program stores lse **in row 0**: where it goes depends on the program's number.",
        ("lse_ptr + row", "lse_ptr"),
    ),
)

for name, says, *changes in MORE:
    slip(name, says, *changes)

"""Exercise 13.3's mistakes."""

from course.check.spec import slip

FOLDING = "3 · Fold the scale"
SHAPES = "2 · Which numbers share a scale?"

TOKENS = "b * stride_sb + offs_n * stride_sn + kv_head * stride_sh"
OF_K = "k_scale = tl.load(k_scale_ptr + tokens, mask=mask_n, other=0.0)"
OF_V = "v_scale = tl.load(v_scale_ptr + tokens, mask=mask_n, other=0.0)"
SCORES = "dot(q, tl.trans(k), no_scores) * scale_log2 * k_scale[None, :]"
HIDDEN = '        scores_log2 = tl.where(mask_n[None, :], scores_log2, float("-inf"))\n'
STEP = "m_log2, l, acc, p = online_softmax_step(m_log2, l, acc, scores_log2)\n"
WEIGHED = "acc = dot(p * v_scale[None, :], v, acc)"
L_WITH_V_SCALE = (
    "old, l_old = m_log2, l\n"
    f"        {STEP}"
    "        l = l_old * tl.exp2(old - m_log2) + tl.sum(p * v_scale[None, :], 1)\n"
)  # not l += Σ (p · v_scale - p): where v_scale is small, that loses what it should add
IN_POWERS_OF_E = """m_new = tl.maximum(m_log2, tl.max(scores_log2, 1))
        alpha, p = tl.exp(m_log2 - m_new), tl.exp(scores_log2 - m_new[:, None])
        m_log2, l, acc = m_new, l * alpha + tl.sum(p, 1), acc * alpha[:, None]
"""

slip(
    "no k_scale",
    "The scores are those of the **stored whole numbers**: multiply each key's by its k_scale.",
    (" * k_scale[None, :]", ""),
)
slip(
    "no v_scale",
    "The values are the **stored whole numbers**: multiply the weights of each key by its v_scale.",
    ("p * v_scale[None, :]", "p"),
)
slip(
    "no scales at all",
    "Neither scale appears: this attends to **the stored whole numbers**.",
    (" * k_scale[None, :]", ""),
    ("p * v_scale[None, :]", "p"),
)
slip(
    "the two scales swapped",
    "The scales are **swapped**: k_scale belongs to the scores, v_scale to the weights.",
    ("tl.load(k_scale_ptr", "tl.load(w_scale_ptr"),
    ("tl.load(v_scale_ptr", "tl.load(k_scale_ptr"),
    ("tl.load(w_scale_ptr", "tl.load(v_scale_ptr"),
)
slip(
    "k_scale for both",
    "The scales of the values are read **from those of the keys**.",
    ("tl.load(v_scale_ptr", "tl.load(k_scale_ptr"),
)
slip(
    "v_scale for both",
    "The scores are multiplied by **v_scale** in place of k_scale.",
    ("tl.load(k_scale_ptr", "tl.load(v_scale_ptr"),
)
slip(
    "v_scale in l as well",
    "The weights are multiplied by v_scale **before they are summed up** to l. l counts the "
    "weights themselves; the scales belong to the values, so to acc alone.",
    (STEP, L_WITH_V_SCALE),
)
slip(
    "k_scale after the softmax",
    "k_scale meets **the weights, after the softmax**. It belongs to the scores.",
    (" * k_scale[None, :]", ""),
    ("p * v_scale[None, :]", "p * (k_scale * v_scale)[None, :]"),
)
slip(
    "v_scale on the scores",
    "Both scales multiply **the scores**. v_scale belongs to the weights, after the softmax.",
    (" * k_scale[None, :]", " * (k_scale * v_scale)[None, :]"),
    ("p * v_scale[None, :]", "p"),
)
slip(
    "v_scale on scores and weights",
    "v_scale multiplies **the scores as well**. It belongs to the weights alone.",
    (" * k_scale[None, :]", " * (k_scale * v_scale)[None, :]"),
)
slip(
    "v_scale on the scores alone",
    "v_scale multiplies **the scores**, and k_scale does not appear. k_scale belongs to the "
    "scores, v_scale to the weights.",
    (" * k_scale[None, :]", " * v_scale[None, :]"),
    ("p * v_scale[None, :]", "p"),
)
slip(
    "p times v_scale added to l",
    "The weights times v_scale are **added to l**. `online_softmax_step` has added the weights "
    "already, and the scales belong to acc alone.",
    (WEIGHED, f"l += tl.sum(p * v_scale[None, :], 1)\n        {WEIGHED}"),
)
slip(
    "p added to l again",
    "The weights of a block are added to l **twice**: `online_softmax_step` has done it already.",
    (WEIGHED, f"l += tl.sum(p, 1)\n        {WEIGHED}"),
)
slip(
    "divided by l in the loop",
    "The weights are divided by l **in the loop**. l is not complete yet, and `finalize` divides "
    "by it after the last block.",
    ("p * v_scale[None, :]", "p / l[:, None] * v_scale[None, :]"),
)
slip(
    "k_scale twice",
    "The scores are multiplied by k_scale **twice**.",
    (" * k_scale[None, :]", " * (k_scale * k_scale)[None, :]"),
)
slip(
    "v_scale twice",
    "The weights are multiplied by v_scale **twice**.",
    ("p * v_scale[None, :]", "p * (v_scale * v_scale)[None, :]"),
)
slip(
    "divided by k_scale",
    "The scores are **divided** by k_scale. A stored number times its scale is the key.",
    ("* k_scale[None, :]", "/ k_scale[None, :]"),
)
slip(
    "divided by v_scale",
    "The weights are **divided** by v_scale. A stored number times its scale is the value.",
    ("p * v_scale[None, :]", "p / v_scale[None, :]"),
)
slip(
    "k_scale down the rows",
    "k_scale is laid along **the query heads**, [:, None]. It belongs to the keys, the columns of "
    "the scores. Where BLOCK_M is BLOCK_N, nothing but wrong numbers shows it.",
    ("k_scale[None, :]", "k_scale[:, None]"),
)
slip(
    "v_scale down the rows",
    "v_scale is laid along **the query heads**, [:, None]. It belongs to the keys, the columns of "
    "p. Where BLOCK_M is BLOCK_N, nothing but wrong numbers shows it.",
    ("v_scale[None, :]", "v_scale[:, None]"),
)
slip(
    "both down the rows",
    "Both scales are laid along **the query heads**, [:, None]. They belong to the keys, the "
    "columns of scores and p.",
    ("_scale[None, :]", "_scale[:, None]"),
)
slip(
    "K by channels",
    "K is multiplied by its scales **along D**. A key has one scale for all its channels, and the "
    "keys are the rows of `k`. Where D is BLOCK_N, nothing but wrong numbers shows it.",
    (SCORES, "dot(q, tl.trans(k * k_scale[None, :]), no_scores) * scale_log2"),
)
slip(
    "V by channels",
    "V is multiplied by its scales **along D**. A value has one scale for all its channels, and "
    "the values are the rows of `v`. Where D is BLOCK_N, nothing but wrong numbers shows it.",
    (WEIGHED, "acc = dot(p, v * v_scale[None, :], acc)"),
)
slip(
    "the largest v_scale of the block",
    "All values of a block get **its largest v_scale**. Each has its own.",
    ("p * v_scale[None, :]", "p * tl.max(v_scale, 0)"),
    see=SHAPES,
)
slip(
    "the largest k_scale of the block",
    "All keys of a block get **its largest k_scale**. Each has its own.",
    ("k_scale[None, :]", "tl.max(k_scale, 0)"),
    see=SHAPES,
)
slip(
    "v_scale on the whole of acc",
    "**All of acc** is multiplied by a v_scale, what earlier blocks have left in it, too. Multiply "
    "p, before the product with V.",
    (WEIGHED, "acc = dot(p, v, acc) * tl.max(v_scale, 0)"),
)
slip(
    "v_scale after the product, by rows",
    "acc is multiplied by v_scale **after the product with V**, [:, None]: along the query heads. "
    "By then the keys have been added up, and their scales come too late.",
    (WEIGHED, "acc = dot(p, v, acc) * v_scale[:, None]"),
)
slip(
    "v_scale after the product, by columns",
    "acc is multiplied by v_scale **after the product with V**, [None, :]: along D. By then the "
    "keys have been added up, and their scales come too late.",
    (WEIGHED, "acc = dot(p, v, acc) * v_scale[None, :]"),
)
slip(
    "v_scale relative to the largest",
    "v_scale is divided by the block's largest, so that p stays near 1, and **the largest never "
    "comes back**.",
    ("p * v_scale[None, :]", "p * (v_scale / tl.max(v_scale, 0))[None, :]"),
)
slip(
    "k_scale added",
    "k_scale is **added** to the scores. It is a factor.",
    (" * k_scale[None, :]", " + k_scale[None, :]"),
)
slip(
    "scale_log2 forgotten",
    "**scale_log2** does not appear: the scores need the scale of the softmax and log2(e) as well "
    "as k_scale.",
    (" * scale_log2", ""),
)
slip(
    "scale_log2 twice",
    "The scores are multiplied by **scale_log2 twice**.",
    (" * scale_log2", " * scale_log2 * scale_log2"),
)
slip(
    "q multiplied anew in each block",
    "q is multiplied by scale_log2 **in the loop**, so once more in each block. Multiply the "
    "scores, or q before the loop.",
    ("        scores_log2 = dot(", "        q *= scale_log2\n        scores_log2 = dot("),
    ("no_scores) * scale_log2", "no_scores)"),
)
slip(
    "powers of e",
    "The weights are **powers of e**, by `tl.exp`. The scores are in base 2: `tl.exp2`.",
    (STEP, IN_POWERS_OF_E),
)
slip(
    "no base 2",
    "The scores are in **natural units**. `online_softmax_step` takes powers of 2: scale_log2 is "
    "the whole factor, log2(e) included.",
    (" * scale_log2", " * scale_log2 * 0.6931471805599453"),
)
slip(
    "log2(e) twice",
    "The scores are multiplied by **log2(e) twice**: it is in scale_log2 already.",
    (" * scale_log2", " * scale_log2 * 1.4426950408889634"),
)
slip(
    "the wrong keys hidden",
    "The scores of keys **that exist** become -∞. `tl.where` takes first what holds where the mask "
    "is true.",
    ('scores_log2, float("-inf"))\n', 'float("-inf"), scores_log2)\n'),
)
slip(
    "no number for keys that do not exist",
    "Where a block is not full, everything is **NaN**. Either a hidden score is multiplied "
    "afterwards, and -∞ times a scale of 0 is NaN; or it is +∞, and ∞ - ∞ is NaN. Put -∞ in place "
    "of the finished score.",
    (SCORES, "dot(q, tl.trans(k), no_scores) * scale_log2"),
    ('float("-inf"))\n', 'float("-inf")) * k_scale[None, :]\n'),
)
slip(
    "scores carried over",
    "The scores of a block are **added to those of the blocks before**: what `dot` adds to is no "
    "longer 0. Other keys, other scores: nothing is carried over.",
    ("scores_log2 = dot(", "no_scores = dot("),
    ("no_scores) * scale", "no_scores)\n        scores_log2 = no_scores * scale"),
)
slip(
    "K not transposed",
    "K is **not transposed**: keys are the rows of `k`, and must be the columns of the scores. "
    "Where D is BLOCK_N, nothing but wrong numbers shows it.",
    ("tl.trans(k)", "k"),
)
slip(
    "acc begun anew",
    "acc holds **the last block alone**: what was in it before is not added. Pass acc to the dot.",
    (WEIGHED, "acc = dot(p * v_scale[None, :], v, tl.zeros_like(acc))"),
)
slip(
    "acc added twice",
    "What is in acc already **counts twice**: `dot` adds it, and it is added once more.",
    (WEIGHED, "acc += dot(p * v_scale[None, :], v, acc)"),
)
slip(
    "acc and p exchanged",
    "`online_softmax_step` returns four things, and **acc and p** are taken for each other. Look "
    "at their order.",
    ("m_log2, l, acc, p =", "m_log2, l, p, acc ="),
)
slip(
    "m and l exchanged",
    "`online_softmax_step` returns four things, and **m_log2 and l** are taken for each other. "
    "Look at their order.",
    ("m_log2, l, acc, p =", "l, m_log2, acc, p ="),
)
slip(
    "p expected first",
    "`online_softmax_step` returns four things, and **p** is not the first of them. Look at their "
    "order.",
    ("m_log2, l, acc, p =", "p, m_log2, l, acc ="),
)
slip(
    "the state not carried",
    "The maximum and l are **those of the last block**: `online_softmax_step` needs the state so "
    "far, and returns the new one.",
    ("step(m_log2, l, acc,", 'step(tl.full((BLOCK_M,), float("-inf"), tl.float32), l, acc,'),
)
slip(
    "acc not rescaled",
    "acc is **not rescaled** to the new maximum: go on with the acc that `online_softmax_step` "
    "returns.",
    (STEP, "m_log2, l, _, p = online_softmax_step(m_log2, l, acc, scores_log2)\n"),
)
slip(
    "l not carried",
    "l is **that of the last block**: what came before is not in it. Pass l to the step.",
    ("step(m_log2, l, acc,", "step(m_log2, tl.zeros_like(l), acc,"),
)
slip(
    "in TF32",
    "On a GPU, a **`tl.dot` of fp32 tiles** rounds its inputs to TF32, unless it is given "
    'input_precision="ieee". `dot` does that. (No number shows it here.)',
    ("dot(q, tl.trans(k), no_scores)", "tl.dot(q, tl.trans(k))"),
)
slip(
    "keys and values exchanged",
    "Keys and values are **exchanged**: the scores are q · k, the weights multiply v.",
    ("dot(q, tl.trans(k)", "dot(q, tl.trans(w)"),
    ("[None, :], v, acc)", "[None, :], k, acc)"),
    ("tl.trans(w)", "tl.trans(v)"),
)
slip(
    "K for V",
    "The weights multiply **K**, not V.",
    ("[None, :], v, acc)", "[None, :], k, acc)"),
)
slip(
    "V for K",
    "The scores are those of q and **V**. They belong to K.",
    ("tl.trans(k)", "tl.trans(v)"),
)
slip(
    "q in eight bits",
    "q is **cast to int8** to meet K: what is after the point is lost.",
    ("dot(q,", "dot(q.to(tl.int8).to(tl.float32),"),
)
slip(
    "q and K in 16 bits",
    "q is **cast to fp16** to be multiplied by K: 11 bits are left of 24. int8 fits into 16 "
    "bits, a query does not.",
    ("dot(q, tl.trans(k), no", "dot(q.to(tl.float16), tl.trans(k).to(tl.float16), no"),
)
slip(
    "p and V in fp16",
    "p is **cast to fp16** to be multiplied by V: 11 bits are left of 24, fewer still where "
    "v_scale is small. int8 fits into 16 bits, p times a scale does not.",
    (WEIGHED, "acc = dot((p * v_scale[None, :]).to(tl.float16), v.to(tl.float16), acc)"),
)
slip(
    "hidden by multiplying",
    "Everything is **NaN**, even where all keys of a block exist. If you multiply the mask by -∞ "
    "and add it to the scores, keys that exist get 0 · -∞, which is NaN. Choose with `tl.where`.",
    (
        "tl.where(mask_n[None, :], scores_log2,",
        "scores_log2 + (1 - mask_n[None, :].to(tl.float32)) * (",
    ),
)

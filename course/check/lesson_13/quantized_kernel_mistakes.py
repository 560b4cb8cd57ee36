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
    "The scales of the keys are read **from those of the values**.",
    ("tl.load(k_scale_ptr", "tl.load(v_scale_ptr"),
)
slip(
    "v_scale in l as well",
    "The weights are multiplied by v_scale **before they are summed up** to l. l counts the "
    "weights themselves; the scales belong to the values, so to acc alone.",
    (STEP, STEP + "        l += tl.sum(p * v_scale[None, :] - p, 1)\n"),
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
    "rows of the batch forgotten",
    "All rows use the scales of **row 0**. Row b begins b · stride_sb entries later.",
    ("b * stride_sb + ", ""),
    see=SHAPES,
)
slip(
    "the first KV head's scales",
    "All programs read the scales of **the first KV head**.",
    (" + kv_head * stride_sh", ""),
    see=SHAPES,
)
slip(
    "the strides of the keys",
    "The scales are looked up with **the strides of K and V**. A scale serves D numbers, so theirs "
    "lie closer together: stride_sb, stride_sn, stride_sh.",
    (TOKENS, "b * stride_b + offs_n * stride_n + kv_head * stride_h"),
    see=SHAPES,
)
slip(
    "scales side by side",
    "The scales of neighbouring tokens are taken to be **neighbours**. Between them are other "
    "heads, or gaps: use stride_sn.",
    ("offs_n * stride_sn", "offs_n"),
    see=SHAPES,
)
slip(
    "heads closely packed",
    "The scales of neighbouring heads are taken to be **neighbours**. In another layout they are "
    "not: use stride_sh.",
    ("kv_head * stride_sh", "kv_head"),
    see=SHAPES,
)
slip(
    "closely packed",
    "The scales are taken to lie **closely packed**, (B, Lk, Hkv). There may be gaps, or another "
    "order: use the strides.",
    ("offs_n * stride_sn", "offs_n * Hkv"),
    ("kv_head * stride_sh", "kv_head"),
    see=SHAPES,
)
slip(
    "strides of token and head swapped",
    "The strides are **swapped**: stride_sn leads from token to token, stride_sh from head to "
    "head.",
    ("offs_n * stride_sn", "offs_n * stride_so"),
    ("kv_head * stride_sh", "kv_head * stride_sn"),
    ("stride_so", "stride_sh"),
    see=SHAPES,
)
slip(
    "counted from the block",
    "Every block reads the scales of **the first tokens of the row**. offs_n are the places in "
    "the row; what a block counts for itself begins at 0.",
    ("offs_n * stride_sn", "tl.arange(0, BLOCK_N) * stride_sn"),
)
slip(
    "counted from the split",
    "The scales are counted **from the start of the split**. They lie by their place in the row, "
    "as the keys do.",
    ("offs_n * stride_sn", "(offs_n - start) * stride_sn"),
)
slip(
    "a scale per block",
    "Each block has **one scale**, that of its first token. Each token has its own.",
    ("offs_n * stride_sn", "(start_n + 0 * offs_n) * stride_sn"),
    see=SHAPES,
)
slip(
    "a scale per head",
    "All tokens have the scale of **the first token** of their head. Each has its own.",
    ("offs_n * stride_sn", "0 * offs_n"),
    see=SHAPES,
)
slip(
    "v_scale not masked",
    "The scales of V are loaded **past the end**, or with a mask and no `other`. p is 0 there, but "
    "a scale that nobody has written may be NaN, and 0 · NaN is NaN.",
    (OF_V, "v_scale = tl.load(v_scale_ptr + tokens)"),
)
slip(
    "k_scale not masked",
    "The scales of K are loaded **past the end of the tensor**, where a GPU may refuse to read. "
    "Mask the load.",
    (OF_K, "k_scale = tl.load(k_scale_ptr + tokens)"),
)
slip(
    "keys that do not exist",
    "Keys past the end **take part, with a score of 0**: a power of 2 of it is 1, so they weigh as "
    "much as others. Their score must be -∞.",
    (HIDDEN, ""),
)
slip(
    "hidden before the scale",
    "The scores are set to -∞ **before k_scale**, which is 0 for keys that do not exist: -∞ · 0 is "
    "NaN. Multiply first, then hide.",
    (SCORES, "dot(q, tl.trans(k), no_scores) * scale_log2"),
    ('float("-inf"))\n', 'float("-inf")) * k_scale[None, :]\n'),
)
slip(
    "acc begun anew",
    "acc holds **the last block alone**: what was in it before is not added. Pass acc to the dot.",
    (WEIGHED, "acc = dot(p * v_scale[None, :], v, tl.zeros_like(acc))"),
)
slip(
    "the state not carried",
    "The maximum and l are **those of the last block**: `online_softmax_step` needs the state so "
    "far, and returns the new one.",
    ("step(m_log2, l, acc,", 'step(tl.full((BLOCK_M,), float("-inf"), tl.float32), l, acc,'),
)
slip(
    "acc on the old ruler",
    "acc is **not rescaled**: `online_softmax_step` returns it on the new ruler, to go on with.",
    (STEP, "m_log2, l, _, p = online_softmax_step(m_log2, l, acc, scores_log2)\n"),
)
slip(
    "l not carried",
    "l is **that of the last block**: what came before is not in it. Pass l to the step.",
    ("step(m_log2, l, acc,", "step(m_log2, tl.zeros_like(l), acc,"),
)
slip(
    "in TF32",
    "The numbers are right here. But a **`tl.dot` of fp32 tiles** rounds its inputs to TF32 on a "
    'GPU, unless it is given input_precision="ieee". `dot` does that.',
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
    "q in eight bits",
    "q is **cast to int8** to meet K: what is after the point is lost.",
    ("dot(q,", "dot(q.to(tl.int8).to(tl.float32),"),
)

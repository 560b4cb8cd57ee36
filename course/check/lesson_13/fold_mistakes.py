"""What makes o wrong in exercise 13.2; `fold` has the mistakes where o is right."""

from course.check.lesson_13.fold_narrow import NARROW, NUMERATOR, SCORES
from course.check.spec import slip

FOLDING = "3 · Fold the scale"
FORMATS = "1 · Three ways to spend eight bits"
SHAPES = "2 · Which numbers share a scale?"

RETURNED = "return o, m + l.log()"

slip(
    "v_scale in l as well",
    "The weights are multiplied by v_scale **before they are summed up** to l. l counts the "
    "weights themselves; the scales belong to the values, so to the numerator alone.",
    ("    l =", "    p = p * v_scale\n    l ="),
    ("(p * v_scale)", "p"),
)
slip(
    "o divided by another l",
    "o is divided by the sum of the weights **times v_scale**, though the lse has the right l. "
    "v_scale belongs to the numerator alone.",
    ("/ l[:, None]", "/ (p * v_scale).sum(-1)[:, None]"),
)
slip(
    "o divided by the sum of v_scale",
    "o is divided by **the sum of v_scale**. Where all weights are alike, that is a mean of the "
    "values; but what a key counts is its weight. Divide by l.",
    (" / l[:, None]", " / v_scale.sum()"),
)
slip(
    "the sum of v_scale as l",
    "**l is the sum of v_scale**, in o and in the lse. l counts the weights p, and nothing else: "
    "v_scale says how large a value is.",
    ("l = p.sum(-1)", "l = v_scale.sum().expand(len(q))"),
)
slip(
    "no k_scale",
    "**k_scale does not appear**: the scores are those of the stored whole numbers. Multiply the "
    "scores of each key by its scale.",
    (" * k_scale", ""),
)
slip(
    "no v_scale",
    "**v_scale does not appear**: the values are the stored whole numbers. Multiply the weights of "
    "each key by the scale of its value.",
    ("(p * v_scale)", "p"),
)
slip(
    "no scales at all",
    "Neither k_scale nor v_scale appears: this attends to **the stored whole numbers**.",
    (" * k_scale", ""),
    ("(p * v_scale)", "p"),
)
slip(
    "the two scales swapped",
    "The scales are **swapped**: k_scale belongs to the scores, v_scale to the weights that meet "
    "the values.",
    (" * k_scale", " * w_scale"),
    ("p * v_scale", "p * k_scale"),
    ("w_scale", "v_scale"),
)
slip(
    "k_scale for both",
    "**k_scale** is used for the values as well. They have scales of their own: v_scale.",
    ("p * v_scale", "p * k_scale"),
)
slip(
    "v_scale for both",
    "**v_scale** is used for the keys as well. They have scales of their own: k_scale.",
    (") * k_scale", ") * v_scale"),
)
slip(
    "k_scale after the softmax",
    "k_scale meets **the weights, after the softmax**. It belongs to the scores: exp of a product "
    "is not the product of the exps.",
    (" * k_scale", ""),
    ("p * v_scale", "p * k_scale * v_scale"),
)
slip(
    "k_scale on the exponentials",
    "k_scale multiplies **exp of the scores**. It belongs inside: the score itself is q · k times "
    "the key's scale.",
    (" * k_scale", ""),
    ("torch.exp(scores - m[:, None])", "torch.exp(scores - m[:, None]) * k_scale"),
)
slip(
    "k_scale on what exp gets",
    "k_scale multiplies **the scores less their maximum**, and the maximum is that of the scores "
    "without it. Multiply first: then the largest score is known.",
    (" * k_scale", ""),
    ("torch.exp(scores - m[:, None])", "torch.exp((scores - m[:, None]) * k_scale)"),
)
slip(
    "k_scale on the weights as well",
    "The weights meet **k_scale a second time**. It has done its work in the scores; what the "
    "weights have to meet belongs to the values.",
    ("p * v_scale", "p * v_scale * k_scale"),
)
slip(
    "v_scale in the scores",
    "**v_scale** multiplies the scores, as k_scale does. It says how large a value is, and not how "
    "much of it is taken.",
    (" * k_scale", " * k_scale * v_scale"),
    ("(p * v_scale)", "p"),
)
slip(
    "v_scale in the scores as well",
    "**v_scale** multiplies the scores, and then the weights as well. It says how large a value "
    "is, and not how much of it is taken.",
    (" * k_scale", " * k_scale * v_scale"),
)
slip(
    "k_scale twice",
    "The scores are multiplied by k_scale **twice**.",
    (" * k_scale", " * k_scale**2"),
)
slip(
    "v_scale twice",
    "The weights are multiplied by v_scale **twice**.",
    ("p * v_scale", "p * v_scale**2"),
)
slip(
    "divided by k_scale",
    "The scores are **divided** by k_scale. A stored number times its scale is the key: multiply.",
    (" * k_scale", " / k_scale"),
    see=FORMATS,
)
slip(
    "divided by v_scale",
    "The weights are **divided** by v_scale. A stored number times its scale is the value: "
    "multiply.",
    ("p * v_scale", "p / v_scale"),
    see=FORMATS,
)
slip(
    "the mean of v_scale",
    "o is multiplied by **the mean of v_scale**. Each value has its own scale, so it has to come "
    "in before the sum over the keys.",
    ("p * v_scale", "p * v_scale.mean()"),
    see=SHAPES,
)
slip(
    "the mean of k_scale",
    "The scores are multiplied by **the mean of k_scale**. Each key has its own.",
    (" * k_scale", " * k_scale.mean()"),
    see=SHAPES,
)
slip(
    "the largest v_scale",
    "All values get **the largest v_scale**. Each has its own.",
    ("p * v_scale", "p * v_scale.max()"),
    see=SHAPES,
)
slip(
    "the largest k_scale",
    "All keys get **the largest k_scale**. Each has its own.",
    (" * k_scale", " * k_scale.max()"),
    see=SHAPES,
)
slip(
    "the first k_scale",
    "All keys get the scale of **the first**. Each has its own.",
    (" * k_scale", " * k_scale[0]"),
    see=SHAPES,
)
slip(
    "the first v_scale",
    "All values get the scale of **the first**. Each has its own.",
    ("p * v_scale", "p * v_scale[0]"),
    see=SHAPES,
)
slip(
    "k_scale relative to the largest",
    "k_scale is divided by its largest, and **the largest never comes back**.",
    (" * k_scale", " * (k_scale / k_scale.max())"),
)
slip(
    "v_scale relative to the largest",
    "v_scale is divided by its largest, so that p stays near 1, and **the largest never comes "
    "back**: multiply o by it.",
    ("p * v_scale", "p * (v_scale / v_scale.max())"),
)
slip(
    "k_scale added",
    "k_scale is **added** to the scores. It is a factor.",
    (") * k_scale", ") + k_scale"),
)
slip(
    "k_scale down the rows",
    "k_scale is laid along **the query heads**. It belongs to the keys, the last dimension of the "
    "scores. With as many heads as keys, nothing but wrong numbers shows it.",
    (" * k_scale", " * k_scale[:, None]"),
)
slip(
    "v_scale down the rows",
    "v_scale is laid along **the query heads**. It belongs to the keys, the last dimension of p. "
    "With as many heads as keys, nothing but wrong numbers shows it.",
    ("p * v_scale", "p * v_scale[:, None]"),
)
slip(
    "v_scale on the columns",
    "v_scale multiplies **the columns of o**. After the sum over the keys it is too late: it "
    "belongs to p.",
    (NUMERATOR, "p @ v.float() * v_scale"),
)
slip(
    "v_scale after the sum",
    "o is multiplied by **the sum of v_scale**. After the sum over the keys it is too late: each "
    "weight has to meet its own scale first.",
    (NUMERATOR, "p @ v.float() * v_scale.sum()"),
)
slip(
    "a maximum before the scales",
    "The maximum is that of the scores **before k_scale**. What is then left after subtracting it "
    "can be anything: exp overflows, or all of it is 0.",
    ("m = scores.amax(-1)", "m = (scores / k_scale).amax(-1)"),
)
slip(
    "no maximum",
    "exp is taken of the scores **as they are**: at 200 it overflows, and at -200 all are 0. "
    "Subtract the largest first.",
    ("scores - m[:, None]", "scores"),
    (RETURNED, "return o, l.log()"),
)
slip(
    "a number in place of the maximum",
    "The number that is subtracted from the scores is **always the same**. Scores far above it "
    "overflow, and far below it all exponentials are 0. Subtract each row's own largest.",
    ("scores - m[:, None]", "scores - 20"),
    (RETURNED, "return o, 20 + l.log()"),
)
slip(
    "the maximum of another row",
    "One maximum serves **all query heads**. Subtract each row's own: where another's is far "
    "larger, all exponentials are 0.",
    ("m = scores.amax(-1)", "m = scores.amax().expand(len(q))"),
)
slip(
    "exp2",
    "The weights are **powers of 2** of the scores, and the logarithm is natural: the two do not "
    "belong together unless the scores are multiplied by log2(e).",
    ("torch.exp(", "torch.exp2("),
)
slip(
    "scale forgotten",
    "The softmax's own **scale** does not appear. It is a factor of the scores, like k_scale.",
    ("scale * (q", "(q"),
)
slip(
    "a scale of its own",
    "The scores are multiplied by **1/√D**, and not by the scale that was given.",
    ("scale * (q", "q.shape[1] ** -0.5 * (q"),
)
slip(
    "divided by the softmax's scale",
    "The scores are **divided** by the softmax's scale. It is a factor, like k_scale.",
    (SCORES, "(q @ k.float().T) / scale * k_scale"),
)
slip(
    "not normalised",
    "o is **not divided by l**.",
    (" / l[:, None]", ""),
)
slip(
    "a softmax over the heads",
    "The softmax runs **over the query heads**. It runs over the keys, the last dimension of the "
    "scores.",
    ("scores.amax(-1)", "scores.amax(0)"),
    ("scores - m[:, None]", "scores - m"),
    ("p.sum(-1)", "p.sum(0)"),
    ("/ l[:, None]", "/ l.mean()"),
)
slip(
    "weights over the heads, and the right lse",
    "The lse is right, but weights add up to 1 **over the query heads**. They must do so over the "
    "keys, the last dimension of the scores.",
    (f"{NUMERATOR} / l[:, None]", "(torch.softmax(scores, 0) * v_scale) @ v.float()"),
)
slip(
    "a softmax over the heads, and its lse",
    "Softmax and lse run **over the query heads**, dimension 0. Both run over the keys, the last "
    "dimension of the scores.",
    (f"{NUMERATOR} / l[:, None]", "(torch.softmax(scores, 0) * v_scale) @ v.float()"),
    (RETURNED, "return o, torch.logsumexp(scores, 0)"),
)
slip(
    "k or v not widened",
    "q and p are fp32, **k and v are int8**, and PyTorch multiplies no matrices of two dtypes. "
    "Widen k and v, as a kernel does in its registers.",
    ("k.float()", "k"),
)
for name, says, changes, see in NARROW:
    slip(name, says, *changes, see=see)
slip(
    "a dimension too many",
    "The lse has the shape **(G, 1)**. Asked for is (G,).",
    (RETURNED, "return o, (m + l.log())[:, None]"),
)
slip(
    "the lse comes first",
    "The two come **in the wrong order**: asked for is (o, lse).",
    (RETURNED, "return m + l.log(), o"),
)
slip(
    "no lse",
    "Only **o** comes back. The lse is what a merge needs: return both.",
    (RETURNED, "return o"),
)

"""What people get wrong in exercise 13.1; `quantize` has what is wrong at the edges."""

from course.check.lesson_13.quantize_narrow import (
    LARGEST,
    NARROW,
    QUOTIENT,
    RETURNED,
    SCALE,
    WHOLE,
)
from course.check.spec import slip

ROUNDING = "1 · Three ways to spend eight bits"
SCALES = "2 · Which numbers share a scale?"
EDGES = "8 · At the edges"

ROUNDED = "torch.round" + QUOTIENT

slip(
    "the largest becomes 128",
    "The scale is max|x| / **128**. int8 ends at 127, so the largest numbers do not fit: they are "
    "cut off.",
    ("largest / 127", "largest / 128"),
)
slip(
    "the largest becomes 255",
    "The scale is max|x| / **255**, the number of steps in eight bits. They are shared by both "
    "signs: one side has 127.",
    ("largest / 127", "largest / 255"),
)
slip(
    "the largest becomes 256",
    "The scale is max|x| / **256**. Eight bits have 256 values, and the two signs share them: one "
    "side has 127.",
    ("largest / 127", "largest / 256"),
)
slip(
    "e4m3's largest",
    "The scale is max|x| / **448**. That is the largest number of e4m3; int8 ends at 127.",
    ("largest / 127", "largest / 448"),
)
slip(
    "half of the steps",
    "The largest number becomes **63 or 64**: half of the steps that int8 has are never used.",
    ("largest / 127", "largest / 63.5"),
)
slip(
    "cut off, not rounded",
    "What is after the point is **cut off**; a cast to int8 does the same. That is off by up to a "
    "whole scale, and always towards 0. Round first.",
    ("torch.round(", "torch.trunc("),
    see=EDGES,
)
for name, does in {"trunc": "cuts off the fraction", "round": "comes too early"}.items():
    slip(
        f"{name}, and a cast to int32",
        f"A **cast to int32** {does}, and of a number beyond 2^31 it can make anything: -2^31 on "
        "many processors. Round, then clamp, and cast last.",
        # as x86 casts; where such numbers become the largest, nothing but the cutting off is wrong
        (ROUNDED, f"torch.{name}({QUOTIENT}).where({QUOTIENT}.abs() < 2**31, -(2.0**31))"),
        see=EDGES,
    )
slip(
    "rounded down",
    "The quotients are rounded **down**. Round them to the nearest whole number.",
    ("torch.round(", "torch.floor("),
)
slip(
    "divided by //",
    "`//` divides and **rounds down**, so that everything is off by half a scale on average. "
    "Divide by `/`, and round to the nearest whole number.",
    (ROUNDED, "x // scale[..., None]"),
)
slip(
    "rounded up",
    "The quotients are rounded **up**. Round them to the nearest whole number.",
    ("torch.round(", "torch.ceil("),
)
slip(
    "ties go up",
    "Halves are rounded **up**, as floor(x + ½) does. Half of them should go down: ties go to the "
    "even number.",
    (ROUNDED, "torch.floor(x / scale[..., None] + 0.5)"),
)
slip(
    "ties go away from zero",
    "Halves are rounded **away from zero**. Ties go to the even number, so that half of them go "
    "each way.",
    (ROUNDED, "torch.sign(x) * torch.floor((x / scale[..., None]).abs() + 0.5)"),
)
slip(
    "ties go towards zero",
    "Halves are rounded **towards zero**. Ties go to the even number, so that half of them go each "
    "way.",
    (ROUNDED, "torch.sign(x) * torch.ceil((x / scale[..., None]).abs() - 0.5)"),
)
slip(
    "half a step added",
    "½ is added **before rounding to the nearest**. Rounding knows where the middle is: everything "
    "comes out half a step too large.",
    ("x / scale[..., None])", "x / scale[..., None] + 0.5)"),
)
slip(
    "rounded before dividing",
    "x is rounded **before** it is divided by its scale. What is smaller than ½ is 0 by then.",
    (ROUNDED, "torch.round(torch.round(x) / scale[..., None])"),
)
slip(
    "rounded before dividing, and cut off",
    "x is rounded **before** it is divided by its scale, and the quotient is cut off by the cast. "
    "What has to be a whole number is the quotient: divide, then round.",
    (ROUNDED, "torch.round(x) / scale[..., None]"),
)
slip(
    "an offset, and no sign",
    "The numbers are stored as **uint8**, 128 higher. Asked for is int8, with zero at 0: then "
    "stored · scale is the number, and nothing has to be subtracted.",
    (WHOLE, "(y.clamp(-127, 127) + 128).to(torch.uint8)"),
)
slip(
    "no sign",
    "The numbers are stored as **uint8**, which has no negative ones. Asked for is int8.",
    (WHOLE, "y.clamp(-127, 127).to(torch.uint8)"),
)
slip(
    "still floats",
    "The numbers are rounded, but they come as **fp32**: four bytes each. Cast them to int8.",
    (WHOLE, "y.clamp(-127, 127)"),
)
slip(
    "whole numbers of 32 bits",
    "The numbers come as **int32**: four bytes each. Cast them to int8.",
    ("torch.int8", "torch.int32"),
)
slip(
    "read back already",
    "The numbers come **multiplied by their scale** again. What is stored is the whole number.",
    (WHOLE, "y.clamp(-127, 127) * scale[..., None]"),
)
slip(
    "one scale for all",
    "There is **one scale** for the whole tensor. Each token and head has its own: (B, Lk, Hkv).",
    (LARGEST, "x.abs().amax()"),
    ("scale[..., None]", "scale.expand(x.shape[:-1])[..., None]"),
    see=SCALES,
)
slip(
    "one scale for all, repeated",
    "Every token has the **same scale**, that of the largest number of all. Then one large token "
    "costs all others their digits.",
    (LARGEST, "x.abs().amax().expand(x.shape[:-1])"),
    see=SCALES,
)
slip(
    "a scale for each KV head",
    "There is one scale for **each KV head**, (Hkv,). Each token has its own as well: take the "
    "maximum over D alone.",
    (LARGEST, "x.abs().amax((0, 1, 3))"),
    see=SCALES,
)
slip(
    "a head's scale, repeated",
    "All tokens of a KV head have **the same scale**. Each token has its own: take the maximum "
    "over D alone.",
    (LARGEST, "x.abs().amax((0, 1, 3)).expand(x.shape[:-1])"),
    see=SCALES,
)
slip(
    "a row's scale, repeated",
    "All tokens of a row have **the same scale** in each head. Each token has its own: take the "
    "maximum over D alone.",
    (LARGEST, "x.abs().amax((1, 3), keepdim=True)[..., 0].expand(x.shape[:-1])"),
    see=SCALES,
)
slip(
    "a token's heads share a scale",
    "The KV heads of a token **share a scale**. Each head of it has its own.",
    (LARGEST, "x.abs().amax((2, 3), keepdim=True)[..., 0].expand(x.shape[:-1])"),
    see=SCALES,
)
slip(
    "a scale for each channel",
    "The maximum is taken **over the tokens**: a scale for each channel. Take it over D, the last "
    "dimension.",
    (LARGEST, "x.abs().amax(1)"),
    ("scale[..., None]", "scale[:, None]"),
    see=SCALES,
)
slip(
    "a maximum over the heads",
    "The maximum is taken **over the KV heads**. Take it over D, the last dimension.",
    (LARGEST, "x.abs().amax(2)"),
    ("scale[..., None]", "scale[:, :, None]"),
    see=SCALES,
)
for dim, named in enumerate(("rows", "tokens", "KV heads")):
    slip(
        f"a maximum over the {named}, and no more",
        f"The maximum is taken **over the {named}**, dimension {dim}, and the scales' shape no "
        "longer fits x. A scale serves one token and head: which dimension is left?",
        (LARGEST, f"x.abs().amax({dim})"),
        see=SCALES,
    )
slip(
    "no last dimension",
    "x is divided by a scale **without a last dimension**. (B, Lk, Hkv) against (B, Lk, Hkv, D) "
    "is matched from the right, so Hkv meets D: an error, or a head's scale on a channel.",
    ("scale[..., None]", "scale"),
    see=SCALES,
)
slip(
    "no absolute value",
    "The scale is made of the **largest number**, not of the largest magnitude: where the largest "
    "is negative, it does not fit.",
    ("x.abs().amax(-1)", "x.amax(-1)"),
)
slip(
    "the absolute value comes too late",
    "The scale is made of **the largest number's magnitude**, not of the largest magnitude: of 3 "
    "and -5 it takes 3. Take magnitudes first, then their maximum.",
    ("x.abs().amax(-1)", "x.amax(-1).abs()"),
)
slip(
    "from the smallest to the largest",
    "The scale is made of the **range**, from the smallest number to the largest. Zero lies in the "
    "middle of int8, so the larger side decides: max|x| / 127.",
    (SCALE, "torch.where(largest == 0, 1.0, (x.amax(-1) - x.amin(-1)) / 254)"),
)
slip(
    "the range, in 255 steps",
    "The scale is **the range divided by 255**, from the smallest number to the largest. That is "
    "for a format whose zero may lie anywhere. Here it lies in the middle, so the larger side "
    "decides: max|x| / 127.",
    (SCALE, "torch.where(largest == 0, 1.0, (x.amax(-1) - x.amin(-1)) / 255)"),
)
slip(
    "twice the largest, in 255 steps",
    "The scale is **2 max|x| / 255**: the largest becomes 127.5, which int8 does not have. There "
    "are 254 steps from -127 to 127.",
    ("largest / 127", "2 * largest / 255"),
)
slip(
    "a mean",
    "The scale is made of the **mean** of |x|. Whatever is larger than 127 of these does not fit; "
    "the largest one decides.",
    ("x.abs().amax(-1)", "x.abs().mean(-1)"),
)
for name, says, changes in NARROW:
    slip(name, says, *changes, see=EDGES)
slip(
    "the inverse of the scale",
    "What comes back is **127 / max|x|**, the inverse of the scale. The number that was stored "
    "times the scale must give x again.",
    (RETURNED, "return " + WHOLE + ", 1 / scale"),
)
slip(
    "multiplied by the inverse",
    "The scale is **127 / max|x|**, and x is multiplied by it, a given one too. It is the size of "
    "one step, max|x| / 127: divide by it.",
    ("largest / 127)", "127 / largest)"),
    ("x / scale", "x * scale"),
)
slip(
    "max|x| as the scale",
    "The scale that comes back is **max|x|** itself. The number that was stored times the scale "
    "must give x again, so it is max|x| / 127.",
    (RETURNED, "return " + WHOLE + ", scale * 127"),
)
slip(
    "max|x| as the scale, and 127 beside it",
    "The scale is **max|x|** itself, and what is stored is 127 · x / scale, also where a scale is "
    "given. The number that was stored times the scale must give x again, so it is max|x| / 127.",
    ("largest / 127)", "largest)"),
    ("x / scale", "127 * x / scale"),
)
slip(
    "max|x| as the scale if it is its own, and 127 beside it",
    "A token's own scale is **max|x|** itself, and what is stored is 127 · x / scale; but a given "
    "one is divided by. The number that was stored times the scale must give x again, so it is "
    "max|x| / 127.",
    ("    if scale is None:", "    own = scale is None\n    if own:"),
    ("largest / 127)", "largest)"),
    ("x / scale", "(127 if own else 1) * x / scale"),
)
slip(
    "divided by the maximum",
    "x is divided by **max|x|**: the quotients lie between -1 and 1, and hardly anything is left "
    "after rounding. The largest must become 127.",
    ("largest / 127)", "largest)"),
)
slip(
    "multiplied by the scale",
    "x is **multiplied** by its scale. Divide: the scale is the size of one step.",
    ("x / scale", "x * scale"),
)
slip(
    "a dimension too many",
    "The scale has the shape **(B, Lk, Hkv, 1)**. Asked for is (B, Lk, Hkv).",
    (RETURNED, RETURNED + "[..., None]"),
    see=SCALES,
)
slip(
    "a dimension too many, if it is its own",
    "The token's own scale comes with the shape **(B, Lk, Hkv, 1)**, as `keepdim` leaves it. Asked "
    "for is (B, Lk, Hkv), whether a scale is given or not.",
    ("    if scale is None:", "    own = scale is None\n    if own:"),
    (RETURNED, RETURNED + "[..., None] if own else scale"),
    see=SCALES,
)
slip(
    "keepdim, and a given scale without it",
    "The token's own scale is (B, Lk, Hkv, **1**), as `keepdim` leaves it, and a given one (B, Lk, "
    "Hkv) is divided by as it is. Give both the last dimension to divide, and return neither with "
    "it.",
    ("x.abs().amax(-1)", "x.abs().amax(-1, keepdim=True)"),
    ("scale[..., None]", "scale"),
    see=SCALES,
)
slip(
    "the scale comes first",
    "The two come **in the wrong order**: asked for is (stored, scale).",
    (RETURNED, "return scale, " + WHOLE),
)
slip(
    "without the scale",
    "Only the whole numbers come back. **Without the scale** nobody can read them: return both.",
    (RETURNED, "return " + WHOLE),
)
slip(
    "divides in place",
    "It divides **in place**: the cache of the caller holds whole numbers afterwards. Work on a "
    "copy.",
    (ROUNDED, "x.div_(scale[..., None]).round()"),
)
slip(
    "magnitudes in place",
    "It takes magnitudes **in place**, as every method does whose name ends in an underscore: the "
    "caller's numbers lose their signs. `.float()` makes no copy of what is fp32 already.",
    ("x.abs()", "x.abs_()"),
)

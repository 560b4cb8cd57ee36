"""Exercise 13.1: a cache in int8, with a scale for each token and head.

What people get wrong about zeros, tiny tokens and given scales is here, the rest beside it.
"""

import torch

import course.check.lesson_13.quantize_mistakes  # noqa: F401 — marks most of the mistakes
from course.check.draw import integer
from course.check.lesson_13.quantize_mistakes import EDGES, ROUNDING, SCALE, SCALES
from course.check.lesson_13.quantize_seen import ask, away_from_ties, cache
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip

EPS = torch.finfo(torch.float32).eps


@right
def quantize(x, scale=None):
    x = x.float()
    if scale is None:
        largest = x.abs().amax(-1)  # (B, Lk, Hkv)
        scale = torch.where(largest == 0, 1.0, largest / 127)
    y = torch.round(x / scale[..., None])
    return y.clamp(-127, 127).to(torch.int8), scale


@also_right
def by_one_factor(x, scale=None):
    """Multiply by 127 / max|x|, and find the zeros at the end."""
    x = x.to(torch.float32)
    if scale is not None:
        stored = (x / scale.unsqueeze(-1)).clamp(min=-127, max=127)
        return stored.round_().to(torch.int8), scale
    top = torch.maximum(x.amax(-1, keepdim=True), -x.amin(-1, keepdim=True))
    stored = torch.nan_to_num(x * (127 / top), nan=0.0).round().char()
    return stored, (top / 127).masked_fill(top == 0, 1.0).squeeze(-1)


@also_right
def token_by_token(x, scale=None):
    """One token of one head at a time, in fp64; the scale is rounded to fp32 in the end."""
    stored = torch.empty(x.shape, dtype=torch.int8)
    scales = torch.ones(x.shape[:-1])
    for place in torch.cartesian_prod(*map(torch.arange, x.shape[:-1])).tolist():
        place = tuple(place)
        token = x[place].double()
        if scale is not None:
            scales[place] = scale[place]
        elif token.any():
            scales[place] = (token.abs().max() / 127).float()
        ratio = torch.round(token / scales[place].double())
        stored[place] = torch.clip(ratio, -127, 127).to(torch.int8)
    return stored, scales


@holds("one token of four numbers, and its scale is 2")
def by_hand(answer, rng):
    x = torch.tensor([254.0, -127.0, 3.0, 1.0]).view(1, 1, 1, 4)
    return ask(answer, x, "[254, -127, 3, 1]")


@holds("every token and head has its own scale", see=SCALES)
def several_tokens(answer, rng):
    return [
        ask(answer, cache(rng), "each token of another size"),
        ask(answer, cache(rng, 1, 1, 3, 5), "one token, three heads"),
        ask(answer, cache(rng, 3, 3, 3, 3), "all dimensions alike"),
    ]


@holds("the largest number is a negative one")
def signs(answer, rng):
    x = cache(rng)
    x[..., 3] = -1.5 * x.abs().amax(-1)
    return [
        ask(answer, away_from_ties(x), "the largest |x| of each token is a negative number's"),
        ask(answer, away_from_ties(-cache(rng).abs()), "no number is positive"),
    ]


@holds("tokens that are all zeros, beside others", see=EDGES)
def zeros(answer, rng):
    x = cache(rng)
    x[0, 1], x[1, 2, 0] = 0.0, 0.0
    return [ask(answer, x, "some tokens are zeros"), ask(answer, 0 * x, "all of them zeros")]


@holds("halfway between two whole numbers: to the even one")
def ties(answer, rng):
    """The scale is a power of two: x / scale has no rounding, in whatever order it is found."""
    halves = torch.arange(-127, 127) + 0.5
    x = torch.cat([torch.tensor([127.0]), halves])
    sizes = torch.tensor([1.0, 0.5, 2.0 ** integer(rng, -9, 9)])
    return ask(answer, x * sizes[None, :, None, None], "127, and all halves from -126.5 to 126.5")


@holds("one channel is a hundred times as large as the others", see=SCALES)
def large_channel(answer, rng):
    x = cache(rng, 2, 5, 2, 8)
    x[..., integer(rng, 0, 7)] *= 100
    return ask(answer, away_from_ties(x), "one channel a hundred times as large")


@holds("fp16 and bf16 come in; what they hold is computed in fp32", see=EDGES)
def half_precision(answer, rng):
    found = []
    for dtype in (torch.float16, torch.bfloat16):
        x = away_from_ties(cache(rng, 2, 8, 2, 16).to(dtype))
        found.append(ask(answer, x, f"in {str(dtype).removeprefix('torch.')}"))
    return found


@holds("a token of 1e-30 beside one of 1e30", see=SCALES)
def far_apart(answer, rng):
    """What a token's neighbours are changes nothing for it."""
    x = cache(rng, 1, 4, 1, 8)
    x *= torch.tensor([1e-30, 1e30, 1.0, 1e-7]).view(1, 4, 1, 1)
    return ask(answer, x, "tokens of 1e-30, 1e30, 1 and 1e-7")


@holds("what is read back is off by half a scale at most")
def read_back(answer, rng):
    x = cache(rng, 2, 4, 2, 16)
    stored, scale = answer(x.clone())
    error = (x.double() - stored.double() * scale.double()[..., None]).abs()
    within = bool((error <= 0.501 * scale.double()[..., None]).all())
    return Seen(within, True, "whether |x - stored · scale| ≤ scale / 2 everywhere")


@holds("a scale is given: larger numbers become ±127, never -128", see=EDGES)
def a_given_scale(answer, rng):
    """None of x / scale lies near a tie here either."""
    x, scale = cache(rng), 0.02 + torch.rand(2, 3, 2, generator=rng)
    steps = torch.randint(-20, 21, x.shape, generator=rng) + 0.3
    wide = 8 * steps
    wide[..., 0], wide[..., 1], wide[..., 2] = 127.6, -127.6, -128.4
    zeros = steps.clone()
    zeros[0, 1] = 0.0
    return [
        ask(answer, steps * scale[..., None], "x / scale is from -20 to 21", scale),
        ask(answer, wide * scale[..., None], "x / scale is from -160 to 163", scale),
        ask(answer, 1e9 * x, "numbers around a billion", scale),
        ask(answer, zeros * scale[..., None], "a token is zeros; its scale is given, too", scale),
    ]


slip(
    "zeros divided by zero",
    "A token of zeros has the scale **0**, and 0 / 0 is not a number. Its scale must be 1.",
    (SCALE, "largest / 127"),
    see=EDGES,
)
slip(
    "a scale of 1/127",
    "A token of zeros has the scale **1/127**. Its largest number is 0, and its scale is 1.",
    (SCALE, "torch.where(largest == 0, 1.0, largest) / 127"),
    see=EDGES,
)
slip(
    "zeros only where all are zeros",
    "The scale 1 comes only where **the whole cache** is zeros. Among others, a token of zeros is "
    "still divided by 0. Each token is asked for itself.",
    (SCALE, "torch.ones_like(largest) if not largest.any() else largest / 127"),
    see=EDGES,
)
slip(
    "all scales 1 beside a token of zeros",
    "As soon as one token is zeros, **all tokens** have the scale 1. Replace the scale of that "
    "token alone.",
    (SCALE, "largest / 127 if largest.all() else torch.ones_like(largest)"),
    see=EDGES,
)
slip(
    "a threshold above 1e-30",
    "Tokens **as small as 1e-30** have the scale 1, as if they were zeros, and all that they hold "
    "is lost. Only what is exactly 0 needs another scale.",
    (SCALE, "torch.where(largest < 1e-12, 1.0, largest / 127)"),
    see=EDGES,
)
slip(
    "a threshold above 1e-7",
    "Tokens **as small as 1e-7** have the scale 1, as if they were zeros, and all that they hold "
    "is lost. Only what is exactly 0 needs another scale.",
    (SCALE, "torch.where(largest < 1e-5, 1.0, largest / 127)"),
    see=EDGES,
)
for small in (1e-5, 1e-6, EPS, 1e-8, 1e-9, 1e-10, 1e-12):
    slip(
        f"{small:.3g} added to the scale",
        f"**{small:.3g} is added** to the scale, so that it is never 0. It makes every scale too "
        "large, and a token of 1e-30 is lost. Ask for zeros instead.",
        (SCALE, f"largest / 127 + {small}"),
        see=EDGES,
    )
    slip(
        f"{small:.3g} added to the largest",
        f"**{small:.3g} is added** to max|x|, so that no scale is 0. It makes every scale too "
        "large, and a token of 1e-30 is lost. Ask for zeros instead.",
        (SCALE, f"(largest + {small}) / 127"),
        see=EDGES,
    )
    slip(
        f"no scale below {small:.3g}",
        f"The scale is held **above {small:.3g}**. It keeps the division from failing, but a token "
        "of 1e-30 is lost, and one of zeros has another scale than 1.",
        (SCALE, f"(largest / 127).clamp_min({small})"),
        see=EDGES,
    )
    slip(
        f"no largest below {small:.3g}",
        f"max|x| is held **above {small:.3g}**. It keeps the division from failing, but a token of "
        "1e-30 is lost, and one of zeros has another scale than 1.",
        (SCALE, f"largest.clamp_min({small}) / 127"),
        see=EDGES,
    )
    slip(
        f"the inverse, its maximum above {small:.3g}",
        "The scale is **127 / max|x|**, and x is multiplied by it, a given one too. It is the size "
        f"of one step: divide by it. And max|x| is held **above {small:.3g}**: a token of zeros "
        "has another scale than 1.",
        (SCALE, f"127 / largest.clamp_min({small})"),
        ("x / scale", "x * scale"),
    )
    slip(
        f"the inverse if it is its own, its maximum above {small:.3g}",
        "A scale that is given is divided by, but the token's own is **127 / max|x|**: the same "
        f"name for two things. And max|x| is held **above {small:.3g}**: a token of zeros has "
        "another scale than 1.",
        ("    if scale is None:", "    own = scale is None\n    if own:"),
        (SCALE, f"127 / largest.clamp_min({small})"),
        ("x / scale[..., None]", "x * (scale if own else 1 / scale)[..., None]"),
    )
slip(
    "clamped before dividing",
    "x is clamped to ±127 **before** it is divided by its scale. int8 holds the quotient: clamp "
    "that.",
    ("x / scale[..., None]", "x.clamp(-127, 127) / scale[..., None]"),
    (".clamp(-127, 127).to", ".to"),
    see=EDGES,
)
slip(
    "not clamped",
    "What is too large for int8 is **left to the cast**. What that makes of 200 is undefined: -56, "
    "for example. Clamp the quotient first.",
    (".clamp(-127, 127)", ""),
    see=EDGES,
)
slip(
    "clamped after the cast",
    "The numbers are clamped **after** the cast. By then 200 has become -56, or anything else. "
    "Clamp first, then cast.",
    (".clamp(-127, 127).to(torch.int8)", ".to(torch.int8).clamp(-127, 127)"),
    see=EDGES,
)
slip(
    "down to -128",
    "Some numbers become **-128**. int8 has it, but both signs end at 127 here: -128 is kept as "
    "the mark of what is no finite number.",
    ("clamp(-127, 127)", "clamp(-128, 127)"),
    see=EDGES,
)
slip(
    "only one side clamped",
    "Only **large positive** numbers are held back; large negative ones are left to the cast. "
    "Clamp both sides.",
    ("clamp(-127, 127)", "clamp(max=127)"),
    see=EDGES,
)
slip(
    "only the other side clamped",
    "Only **large negative** numbers are held back; large positive ones are left to the cast. "
    "Clamp both sides.",
    ("clamp(-127, 127)", "clamp(min=-127)"),
    see=EDGES,
)
slip(
    "negative numbers cut off",
    "All **negative numbers become 0**. int8 has a sign: clamp to -127 below, and to 127 above.",
    ("clamp(-127, 127)", "clamp(0, 127)"),
    see=EDGES,
)
slip(
    "the scale given is ignored",
    "A scale that is **given is not used**: the token's own is worked out instead. What has been "
    "given is what the reader of the cache will multiply by.",
    ("    if scale is None:\n", "    if True:\n"),
    see=EDGES,
)
slip(
    "whether the scale is true",
    "`scale or …` and `if not scale` ask whether a tensor **is true**, and PyTorch answers that "
    "only for a single number. Ask whether there is a scale: `is None`.",
    ("if scale is None:", "if not scale:"),
    see=EDGES,
)
slip(
    "the given scale widened",
    "A scale that is given is **made larger** where the token does not fit. It stays as it is: "
    "what is too large becomes ±127.",
    ("    y =", "    scale = torch.maximum(scale, x.abs().amax(-1) / 127)\n    y ="),
    see=EDGES,
)
slip(
    "a given scale replaced where there are zeros",
    "A token of zeros gets the scale 1 **even if a scale is given**. What has been given is what "
    "the reader of the cache will multiply by: return it as it is.",
    ("    y =", "    scale = torch.where(x.abs().amax(-1) == 0, 1.0, scale)\n    y ="),
    see=EDGES,
)
slip(
    "its own scale returned",
    "x is divided by the scale that is given, but what comes back is **the token's own**. Return "
    "the one that x was divided by.",
    ("    if scale is None:\n        largest", "    if True:\n        largest"),
    ("        scale = torch.where", "        own = torch.where"),
    ("    y =", "    scale = own if scale is None else scale\n    y ="),
    ("torch.int8), scale", "torch.int8), own"),
    see=EDGES,
)


QUANTIZE = Exercise.of(
    __name__,
    "13.1 quantize",
    title="Quantise a cache",
    section=ROUNDING,
)

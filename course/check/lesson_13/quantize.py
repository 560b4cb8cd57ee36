"""Exercise 13.1: a cache in int8, with a scale for each token and head."""

import torch

import course.check.lesson_13.quantize_mistakes  # noqa: F401 — marks the mistakes
from course.check.draw import integer
from course.check.lesson_13.quantize_mistakes import EDGES, ROUNDING, SCALES
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right
from reference import quantization as reference


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


def cache(rng, B=2, Lk=3, Hkv=2, D=8):
    """Return random tokens, each of its own size; none of x / scale lies near a tie."""
    x = torch.randn(B, Lk, Hkv, D, generator=rng)
    x *= torch.exp2(4 * torch.rand(B, Lk, Hkv, 1, generator=rng) - 2)
    return away_from_ties(x)


def away_from_ties(x):
    """Put 0 in place of what x / scale leaves within 0.02 of a half.

    There a right answer that computes in another order may round to the other side.
    """
    wide = x.double()
    y = 127 * wide / wide.abs().amax(-1, keepdim=True).clamp_min(1e-300)
    near = (y - y.floor() - 0.5).abs() < 0.02
    return x.masked_fill(near, 0.0)


def ask(answer, x, given, scale=None):
    """Ask for the cache x, and compare with the reference's: scales within 8 roundings."""
    if scale is None:
        args, wanted = (x,), reference.quantize(x, torch.int8, "token")
    else:
        args, wanted = (x, scale), (reference.round_to_cache(x, scale, torch.int8), scale)
    given = f"x {tuple(x.shape)}, {given}"
    names = ("stored", "scale")
    return Seen.of(answer, args, wanted=wanted, given=given, names=names, atol=0.0, rtol=1e-6)


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


@holds("tokens that are all zeros, beside others")
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


@holds("fp16 and bf16 come in; what they hold is computed in fp32")
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
    x *= torch.tensor([1e-30, 1e30, 1.0, 1e-8]).view(1, 4, 1, 1)
    return ask(answer, x, "tokens of 1e-30, 1e30, 1 and 1e-8")


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
    return [
        ask(answer, steps * scale[..., None], "x / scale is from -20 to 21", scale),
        ask(answer, wide * scale[..., None], "x / scale is from -160 to 163", scale),
        ask(answer, 1e9 * x, "numbers around a billion", scale),
    ]


QUANTIZE = Exercise.of(
    __name__,
    "13.1 quantize",
    title="Quantise a cache",
    section=ROUNDING,
)

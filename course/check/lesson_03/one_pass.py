"""Exercise 3.1: attention over a stream of tiles that can be read only once."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from course.check.observe import tensors_in
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, mistake, right, slip

EPS = torch.finfo(torch.float32).eps
EMPTY = "5 · The worker that saw nothing"


@right
def one_pass(tiles, rows, D):
    m = torch.full((rows,), -torch.inf)
    l, acc = torch.zeros(rows), torch.zeros(rows, D)
    for scores, v in tiles:
        m_new = torch.maximum(m, scores.amax(-1))
        correction = torch.exp(m - m_new)  # from the old ruler to the new
        p = torch.exp(scores - m_new[:, None])
        l = correction * l + p.sum(-1)
        acc = correction[:, None] * acc + p @ v
        m = m_new
    return acc / l[:, None], m + l.log()


@also_right
def by_lse(tiles, rows, D):
    """Carries a finished (o, lse) instead of (m, l, acc)."""
    o, lse = torch.zeros(rows, D), torch.full((rows,), -torch.inf)
    for scores, v in tiles:
        lse_tile = torch.logsumexp(scores, -1)
        lse_new = torch.logaddexp(lse, lse_tile)
        old, p = torch.exp(lse - lse_new), torch.exp(scores - lse_new[:, None])
        o, lse = old[:, None] * o + p @ v, lse_new
    return o, lse


def stream(scores, v, widths):
    """Yield the tiles one after another, all in the same memory, as in a GPU's fast memory.

    Asking for the next tile overwrites the previous one; a second loop gets nothing.
    """
    score_tile = torch.empty(scores.shape[0], max(widths))
    v_tile = torch.empty(max(widths), v.shape[1])
    start = 0
    for n in widths:
        score_tile[:, :n] = scores[:, start : start + n]
        v_tile[:n] = v[start : start + n]
        yield score_tile[:, :n], v_tile[:n]
        start += n


class Alive(TorchDispatchMode):
    """Counts the numbers in tensors that were made under it and are still referenced."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.made += [weakref.ref(tensor) for _, tensor in tensors_in((result,))]
        return result

    def numbers(self):
        """How many numbers are held now."""
        held = [tensor for ref in self.made if (tensor := ref()) is not None]
        once = {id(tensor): tensor.numel() for tensor in held}  # x.copy_() gives x again
        return sum(once.values())


def numbers_kept(answer, scores, v, widths):
    """How many numbers an answer holds after the last tile has gone by."""
    kept = 0

    def watched():
        nonlocal kept
        yield from stream(scores, v, widths)
        kept = alive.numbers()

    with Alive() as alive:
        answer(watched(), scores.shape[0], v.shape[1])
    return kept


def seen(answer, scores, v, widths):
    """Compare with the softmax of all keys at once, in fp64.

    Tolerance: n additions, and one rescaling per tile; its exponent is off by up to an ulp
    of the largest score if lse is kept instead of m and l.
    """
    rows, D = scores.shape[0], v.shape[1]
    lse = torch.logsumexp(scores.double(), -1)
    o = torch.softmax(scores.double(), -1) @ v.double()
    finite = scores[scores > -torch.inf]
    roundings = scores.shape[1] + len(widths) * (4 + finite.abs().max().item())
    given = f"{rows} row{'s' * (rows > 1)}, D = {D}, tiles of {', '.join(map(str, widths))} keys"
    if scores.numel() <= 6:
        given += f", scores {[round(x, 2) for x in scores.flatten().tolist()]}"
    got = answer(stream(scores, v, widths), rows, D)
    atol = 2 * EPS * roundings * max(1.0, v.abs().max().item())
    wanted = (o.float(), lse.float())
    return Seen(got, wanted, given, atol=atol, rtol=0.0, names=("o", "lse"), any_dtype=True)


def drawn(rng, rows, around, n, D=2):
    """Tiles of n keys each, with scores near the numbers in `around`."""
    scores = [x + torch.randn(rows, n, generator=rng) for x in around]
    return torch.cat(scores, 1), torch.randn(n * len(around), D, generator=rng), [n] * len(around)


@holds("all keys in a single tile")
def one_tile(answer, rng):
    return seen(answer, *drawn(rng, 1, [0.0], 4))


@holds("the largest score comes first")
def maxima_fall(answer, rng):
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.5]]) + torch.rand(1, generator=rng)
    return seen(answer, scores, torch.randn(4, 1, generator=rng), [2, 2])


@holds("the second tile has the larger maximum")
def maxima_rise(answer, rng):
    scores = torch.tensor([[0.5, 1.0, 2.0, 3.0]]) + torch.rand(1, generator=rng)
    return seen(answer, scores, torch.randn(4, 1, generator=rng), [2, 2])


@holds("five tiles, six rows, some keys hidden by -inf")
def uneven_tiles(answer, rng):
    widths = torch.randint(1, 8, (5,), generator=rng).tolist()
    n = sum(widths)
    scores = 2 * torch.randn(6, n, generator=rng)
    hidden = torch.rand(6, n, generator=rng) < 0.2
    hidden[:, 0] = False  # every row sees a key of the first tile
    scores = scores.masked_fill(hidden, -torch.inf)
    return seen(answer, scores, torch.randn(n, 4, generator=rng), widths)


@holds("scores near -200, 200, both, -60000")
def far_from_zero(answer, rng):
    around = ([-200.0], [-200.0, 200.0], [200.0, -200.0], [-60_000.0])
    one_row = [seen(answer, *drawn(rng, 1, numbers, 2)) for numbers in around]
    scores, v, widths = drawn(rng, 2, [0.0, 1.0], 2)
    return [*one_row, seen(answer, scores + torch.tensor([[-200.0], [200.0]]), v, widths)]


@holds("a long stream leaves D + 2 numbers per row")
def little_is_kept(answer, rng):
    """Keeping even one number from each of 100 tiles holds 100; otherwise it is some 20 at most."""
    little = "D + 2 numbers per row, and what one tile needs"
    few = numbers_kept(answer, *drawn(rng, 1, [0.0] * 100, 2)) < 100
    got = little if few else "something of every tile"
    return Seen(got, little, "100 tiles of 2 keys; what is still in memory after the last one")


slip(
    "nothing rescaled",
    "This is what you get if l and acc are carried over **without rescaling** when the maximum "
    "grows: the old keys are still measured from the old maximum.",
    ("torch.exp(m - m_new)", "torch.ones_like(m)"),
)
slip(
    "acc not rescaled",
    "lse is right but o is not: l is moved to the new maximum, but **acc is not**. Both are sums "
    "of the same exponentials, so both need the factor.",
    ("correction[:, None] * acc", "acc"),
)
slip(
    "l not rescaled",
    "acc is moved to the new maximum, but **l is not**. Both are sums of the same exponentials, so "
    "both need the factor.",
    ("correction * l", "l"),
)
slip(
    "divided in the loop",
    "acc is **divided by l inside the loop**, so the next round rescales and divides what was "
    "already divided. The division comes once, after the last tile.",
    ("correction[:, None] * acc + p @ v", "(correction[:, None] * acc + p @ v) / l[:, None]"),
)
slip(
    "factor upside down",
    "The correction factor is **upside down**. When the maximum grows, old sums must shrink: the "
    "factor is never above 1.",
    ("torch.exp(m - m_new)", "torch.exp(m_new - m)"),
)
slip(
    "m stays behind",
    "Right for one tile, but after that m is **still what it was at the start**: the new maximum "
    "is found and used, but not kept for the next tile.",
    ("        m = m_new\n", ""),
    ("m + l.log()", "m_new + l.log()"),
)
slip(
    "m never set",
    "m is **never set** to the new maximum: after the loop it is still -inf, and so is lse. Each "
    "round must end with the maximum that the next one starts from.",
    ("        m = m_new\n", ""),
)
slip(
    "no maximum at all",
    "The exponentials are taken of the raw scores, **without a maximum**: near 200 they overflow, "
    "near -200 they underflow.",
    ("torch.maximum(m, scores.amax(-1))", "torch.zeros_like(m)"),
    see="1 · Three passes, then two",
)
slip(
    "o and lse swapped",
    "The two results are **in the wrong order**: return o first, then lse.",
    ("acc / l[:, None], m + l.log()", "m + l.log(), acc / l[:, None]"),
)
slip(
    "a tile on a ruler of its own",
    "The new keys are measured from **their own tile's maximum**, the old ones from the running "
    "maximum: use one ruler for all.",
    ("m_new[:, None]", "scores.amax(-1, keepdim=True)"),
)
slip(
    "never divided",
    "lse is right, and o is off by the factor l: acc is returned **without the final division** by "
    "l.",
    ("acc / l[:, None]", "acc"),
)
slip(
    "lse without m",
    "o is right, but **lse lacks m**: log l alone is measured from the maximum, as l is.",
    ("m + l.log()", "l.log()"),
)


@mistake(
    "Each tile's softmax was taken on its own, and the results were **averaged as equals**: a tile "
    "with larger scores has to count for more.",
    name="the tiles' answers averaged",
)
def averaged(tiles, rows, D):
    finished = [(torch.softmax(s, -1) @ v, torch.logsumexp(s, -1)) for s, v in tiles]
    o, lse = (torch.stack(parts) for parts in zip(*finished, strict=True))
    return o.mean(0), torch.logsumexp(lse, 0)


slip(
    "read twice",
    "The code goes through the tiles **twice**, and the second loop finds none: a stream can be "
    "read only once. Carry m, l and acc along in the one loop.",
    (
        "    for scores, v",
        "    for scores, _ in tiles:\n"
        "        m = torch.maximum(m, scores.amax(-1))\n"
        "    for scores, v",
    ),
)


@mistake(
    "The tiles were **kept for later**, but the next tile arrives in the same memory and "
    "overwrites them. Take what you need from a tile while you have it."
)
def tiles_kept(tiles, rows, D):
    kept = list(tiles)
    scores, v = torch.cat([s for s, _ in kept], -1), torch.cat([v for _, v in kept])
    return torch.softmax(scores, -1) @ v, torch.logsumexp(scores, -1)


@mistake(
    "The numbers are right, but **something of every tile is kept** until the end, copies or "
    "results, and with a long stream that fills the memory. D + 2 numbers per row are enough: take "
    "each tile into m, l and acc, then let it go."
)
def copies_kept(tiles, rows, D):
    return tiles_kept([(scores.clone(), v.clone()) for scores, v in tiles], rows, D)


slip(
    "m starts at a finite number",
    "The running maximum **starts at a finite number**, such as 0. Where all scores lie far below, "
    "near -200, it stays there, and every exponential underflows. Nothing seen yet means -inf.",
    ("-torch.inf", "0.0"),
    see=EMPTY,
)
slip(
    "m starts far down",
    "The running maximum starts **far down, but not at -inf**: scores near -60000 lie lower still, "
    "and all their exponentials underflow. No finite number can stand for nothing seen.",
    ("-torch.inf", "-1e4"),
    see=EMPTY,
)
slip(
    "the last tile's maximum as ruler",
    "m is **the latest tile's maximum**, not the largest so far. Where the scores fall by 400 the "
    "factor overflows, and a tile hidden from a row gives NaN.",
    ("torch.maximum(m, scores.amax(-1))", "scores.amax(-1)"),
)
slip(
    "one maximum for all rows",
    "One maximum is taken **over all rows**. Where rows lie 400 apart, the lower one underflows: "
    "each row has its own ruler.",
    ("scores.amax(-1)", "scores.max()"),
)

ONE_PASS = Exercise.of(
    __name__,
    "3.1 one pass",
    title="One pass over a stream",
    section="2 · One pass: carry the weighted sum along",
)

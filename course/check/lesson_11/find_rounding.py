"""Exercise 11.1: where does a sum round to fp16? Try it on terms whose sum is known."""

import numpy as np
import torch

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, mistake, right, slip

ORDER = "1 · A sum has an order"
STALL = "2 · Where a 16-bit denominator stalls"


@right
def find_rounding(total):
    drops = torch.cat([torch.tensor([2048.0]), torch.full((4096,), 2.0**-7)])
    if total(drops) != 2080:
        return "carry"
    if total(torch.full((4096,), 2.0**-26)) != 2.0**-14:
        return "terms"
    if total(torch.ones(2049)) != 2049:
        return "result"
    return "none"


@also_right
def by_a_table(total):
    """Ask everything first, with other numbers, and look up the answers."""
    tried = {
        "carry": ([1024.0] + [2.0**-8] * 8192, 1056.0),
        "terms": ([2.0**-27] * 8192, 2.0**-14),
        "result": ([2048.0, 1.0], 2049.0),
    }
    wrong = [name for name, (x, wanted) in tried.items() if total(torch.tensor(x)) != wanted]
    return [*wrong, "none"][0]


ROUNDS = ("none", "carry", "terms", "result")
MOST = 10_000  # terms in a sum, as the exercise says


class BlackBox:
    """A sum of an fp32 tensor (n,), in tiles and from the left, that rounds somewhere to fp16.

    how: where it rounds, as an index of ROUNDS; the terms of a tile; and whether fp16 terms below
    2^-14 become 0, as on hardware without subnormal numbers.
    """

    __slots__ = ("_how",)

    def __init__(self, *how):
        self._how = how

    def __call__(self, x):
        """Return the sum, a Python float. Raises ValueError for what the exercise excludes."""
        if x.dim() != 1 or len(x) > MOST:
            wanted = f"a 1-D tensor of at most {MOST:,} numbers"
            raise ValueError(f"x must be {wanted}; got shape {tuple(x.shape)}")
        where, tile, flush = self._how
        rounds = ROUNDS[where]
        x = x.half().float() if rounds == "terms" else x.float()
        x = torch.where(x.abs() < 2.0**-14, 0.0, x) if flush else x
        tiles = (
            torch.nn.functional.pad(x.detach(), (0, tile - len(x) % tile)).view(-1, tile).numpy()
        )
        sums = from_the_left(tiles)
        if rounds != "carry":
            total = from_the_left(sums)
            return float(total.astype(np.float16) if rounds == "result" else total)
        carried = np.float16(0)
        for part in sums:
            carried = np.float16(np.float32(carried) + part)
        return float(carried)


def from_the_left(x):
    """Return the sums of fp32 numbers along the last dimension, each addition rounded to fp32."""
    return np.add.accumulate(x, -1, dtype=np.float32)[..., -1]


def seen(answer, rounds, tile, flush=False):
    """Let the answer judge a sum; case and surrounding spaces do not matter."""

    def tidy(total):
        word = answer(total)
        return word.strip().lower() if isinstance(word, str) else word

    where = {
        "carry": "its running total",
        "terms": "every term",
        "result": "only the result",
        "none": "nothing",
    }
    tiles = "one term at a time" if tile == 1 else f"in tiles of {tile}"
    given = f"a sum that adds {tiles} and rounds {where[rounds]} to fp16"
    box = BlackBox(ROUNDS.index(rounds), tile, flush)
    with np.errstate(over="ignore"):  # a total of more than fp16 can hold is inf
        return Seen.of(tidy, (box,), wanted=rounds, given=given)


def any_tile(rng):
    """Return a number of terms, most often not a power of two."""
    return integer(rng, 2, 64)


@holds("the running total is fp16, and one term is added at a time")
def one_by_one(answer, rng):
    return seen(answer, "carry", 1)


@holds("the running total is fp16, and a tile's sum is added to it")
def in_tiles(answer, rng):
    return [
        seen(answer, "carry", tile) for tile in (3 * 2 ** integer(rng, 0, 4), any_tile(rng), 64)
    ]


@holds("terms are rounded to fp16, their sum is fp32")
def terms(answer, rng):
    return [seen(answer, "terms", tile) for tile in (1, any_tile(rng))]


@holds("the same, and subnormal numbers of fp16 become 0")
def terms_without_subnormals(answer, rng):
    return seen(answer, "terms", integer(rng, 1, 64), flush=True)


@holds("everything is fp32 except the result")
def result(answer, rng):
    return [seen(answer, "result", tile) for tile in (1, any_tile(rng))]


@holds("an fp32 sum is recognised as one")
def no_rounding(answer, rng):
    return [seen(answer, "none", tile) for tile in (1, any_tile(rng))]


DROPS = "torch.cat([torch.tensor([2048.0]), torch.full((4096,), 2.0**-7)])"
slip(
    "ones for the carry",
    "It looks for the running total with **ones**. Where a tile of 64 is summed first, 64 is added "
    "each time, and fp16 can add 64s for a long time. Start from a large number, and add terms "
    "so small that a whole tile of them is less than half a gap.",
    (DROPS, "torch.ones(4096)"),
    ("total(drops) != 2080", "total(drops) != 4096"),
    see=STALL,
)
slip(
    "terms too large",
    "Its small terms are **not small enough for a tile**: 64 of them together are several gaps of "
    "fp16, and they are added without loss.",
    ("2.0**-7", "2.0**-4"),
    ("2080", "2304"),
    see=STALL,
)
slip(
    "total not in fp16",
    "For the running total it asks for a **sum that fp16 does not have**, or that is too large for "
    "it. Then a sum that only rounds its result is wrong as well, and is taken for one with an "
    "fp16 total.",
    ("2.0**-7", "2.0**-12"),
    ("2080", "2049"),
)
slip(
    "terms that are flushed",
    "For the running total it takes terms **below 2^-14**. Where subnormal numbers become 0, a sum "
    "that rounds its terms loses them as well, and is taken for one with an fp16 total.",
    (DROPS, "torch.cat([torch.tensor([1.0]), torch.full((8192,), 2.0**-18)])"),
    ("2080", "1.03125"),
)
slip(
    "small first",
    "Nothing that it asks makes the **running total** lose a term, or it forgives the loss. Small "
    "terms must come after a large one: if they come first, they meet each other, and their sum "
    "is large enough to be added.",
    (DROPS, "torch.cat([torch.full((512,), 2.0**-4), torch.tensor([2048.0])])"),
    see=ORDER,
)
slip(
    "terms asked first",
    "It asks about the terms **before** the running total. An fp16 total that starts at 0 swallows "
    "terms of 2^-26 as well, so the question does not tell the two apart: ask about the total "
    "first, with terms that fp16 can hold.",
    (
        'if total(drops) != 2080:\n        return "carry"\n    ',
        "",
    ),
    (
        'return "terms"\n',
        'return "terms"\n    if total(drops) != 2080:\n        return "carry"\n',
    ),
)
slip(
    "result asked first",
    "It asks about the result **before** the running total. A running total in fp16 also ends in "
    "a number of fp16: first exclude it.",
    (
        "    drops =",
        '    if total(torch.ones(2049)) != 2049:\n        return "result"\n    drops =',
    ),
)
slip(
    "terms that fp16 holds",
    "No term that it tries is one that **fp16 would change**. It holds 2^-14 exactly, for "
    "example, its smallest normal number. Take a term below all that fp16 can hold.",
    ("2.0**-26)) != 2.0**-14", "2.0**-14)) != 0.25"),
)
slip(
    "smallest subnormal",
    "It tests the terms with 2^-24. Below 2^-14 fp16 has **subnormal numbers**, and 2^-24 is the "
    "smallest of them: it is kept. Only from 2^-25 down a term becomes 0.",
    ("2.0**-26)) != 2.0**-14", "2.0**-24)) != 2.0**-12"),
)
slip(
    "exact thirds",
    "It takes terms that **fp32 cannot hold either**, such as 1/3, and expects their exact sum. "
    "Then an fp32 sum is found guilty. Take powers of two, whose sum is exact.",
    ("2.0**-26)) != 2.0**-14", "1 / 3)) != 4096 / 3"),
)
slip(
    "result that fp16 holds",
    "No sum that it asks for is one that **fp16 lacks**. It holds 2,048, and above that the even "
    "numbers; 2,049 is the first whole number that is missing.",
    ("torch.ones(2049)) != 2049", "torch.ones(2048)) != 2048"),
    see=ORDER,
)
slip(
    "names swapped",
    'Two names are **swapped**: "terms" means that every term is rounded before it is added, '
    '"result" that the finished sum is.',
    ('return "terms"', 'return "x"'),
    ('return "result"', 'return "terms"'),
    ('return "x"', 'return "result"'),
)
slip(
    "carry and terms swapped",
    'Two names are **swapped**: "carry" means that the running total is rounded after each '
    'addition, "terms" that every term is before.',
    ('return "carry"', 'return "x"'),
    ('return "terms"', 'return "carry"'),
    ('return "x"', 'return "terms"'),
)
slip(
    "never none",
    'It **always finds a rounding**: what is left after two questions is called "result". An fp32 '
    "sum has to pass a third question.",
    ('return "none"', 'return "result"'),
)
slip(
    "the wrong way round",
    "The comparison for the running total is **the wrong way round**: a sum that is right shows "
    "that nothing was rounded there.",
    ("!= 2080", "== 2080"),
)
slip(
    "carry alone",
    "It asks about the **running total alone**: a sum that rounds its terms or its result passes "
    "as honest.",
    ("total(torch.full((4096,), 2.0**-26)) != 2.0**-14", "False"),
    ("total(torch.ones(2049)) != 2049", "False"),
)
slip(
    "always carry",
    "It says **carry every time**: no sum passes its first question, not even one in fp32. Work "
    "out what fp32 must give.",
    ("total(drops) != 2080", "True"),
)
slip(
    "always none",
    "It says **none every time**: no question that it asks is answered wrongly by any of the "
    "three.",
    ("total(drops) != 2080", "False"),
    ("total(torch.full((4096,), 2.0**-26)) != 2.0**-14", "False"),
    ("total(torch.ones(2049)) != 2049", "False"),
)
slip(
    "carry and result swapped",
    'Two names are **swapped**: "carry" is a running total, rounded again and again; "result" is '
    "rounded once, when everything has been added.",
    ('return "carry"', 'return "x"'),
    ('return "result"', 'return "carry"'),
    ('return "x"', 'return "result"'),
)


@mistake(
    "It calls **every difference** from fp64 a running total in fp16. All three faults make the "
    "sum wrong: to tell them apart, take terms for which only one of them does."
)
def one_verdict(total):
    terms = torch.rand(5000, generator=torch.Generator().manual_seed(0))
    wanted = terms.double().sum().item()
    return "carry" if abs(total(terms) - wanted) > 1e-5 * wanted else "none"


ROUNDING = Exercise.of(
    __name__, "11.1 find the rounding", title="Find the sum that rounds", section=STALL
)

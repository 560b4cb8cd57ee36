"""Exercise 8.3: the memory that partials take."""

import torch

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip


@right
def workspace_bytes(B, Lq, Hq, D, S):
    numbers = S * B * Lq * Hq * (D + 1)  # o, and one lse
    return 4 * numbers


@also_right
def meta_bytes(B, Lq, Hq, D, S):
    """Ask tensors without memory how large they would be: no formula."""
    rows = torch.empty(S, B, Lq, Hq, D + 1, device="meta", dtype=torch.float32)
    return rows.numel() * rows.element_size()


@holds("32 heads, D = 128, 64 splits; and the smallest")
def by_hand(answer, rng):
    cases = ((1, 1, 32, 128, 64), 4 * 64 * 32 * 129), ((1, 1, 1, 1, 1), 8), ((1, 1, 1, 3, 2), 32)
    return [Seen.of(answer, args, wanted=wanted) for args, wanted in cases]


@holds("compared with the size of real tensors")
def measured(answer, rng):
    B, Lq, Hq, S = (integer(rng, 2, 6) for _ in range(4))
    D = 8 * integer(rng, 2, 6)
    o, lse = torch.empty(S, B, Lq, Hq, D), torch.empty(S, B, Lq, Hq)
    return Seen.of(answer, (B, Lq, Hq, D, S), wanted=o.nbytes + lse.nbytes)


@holds("a big batch")
def large(answer, rng):
    """Odd factors, whose product fp32 cannot hold."""
    B, S = (2 * integer(rng, *ends) + 1 for ends in ((50, 150), (32, 100)))
    return Seen.of(answer, (B, 9, 125, 128, S), wanted=4 * B * 9 * 125 * S * 129)


@holds("a count of bytes is a whole number")
def an_int(answer, rng):
    B, Lq, Hq, D, S = (integer(rng, 1, 8) for _ in range(5))
    given = f"B = {B}, Lq = {Lq}, Hq = {Hq}, D = {D}, S = {S}: the type of the result"
    return Seen(type(answer(B, Lq, Hq, D, S)).__name__, "int", given)


slip(
    "no lse",
    "The lse values are not counted: besides the D numbers of each o, every split stores one lse.",
    ("(D + 1)", "D"),
)
slip(
    "half precision",
    "This counts 2 bytes per number. The partials are kept in fp32, whatever the dtype of the "
    "cache.",
    ("4 *", "2 *"),
)
slip(
    "numbers, not bytes",
    "This counts numbers, not bytes: each number takes 4 bytes.",
    ("4 * numbers", "numbers"),
)
slip(
    "o in half precision",
    "Only lse is counted with 4 bytes: **o takes 4 bytes per number**, too, whatever the dtype of "
    "the cache.",
    ("4 * numbers", "S * B * Lq * Hq * (2 * D + 4)"),
)
slip(
    "lse in half precision",
    "Only o is counted with 4 bytes per number: **lse takes 4 bytes**, too.",
    ("4 * numbers", "S * B * Lq * Hq * (4 * D + 2)"),
)
slip(
    "lse as one byte",
    "Each lse is counted as **one byte**. It is a number in fp32, as those of o: 4 bytes.",
    ("4 * numbers", "S * B * Lq * Hq * (4 * D + 1)"),
)
slip(
    "twice",
    "This is **twice too much**. A number in fp32 takes 4 bytes, not 8, and a split leaves one o "
    "and one lse.",
    ("4 *", "8 *"),
)
slip(
    "megabytes",
    "This counts **millions of bytes**. Asked is the number of bytes, an int.",
    ("4 * numbers", "4 * numbers / 1e6"),
)
slip(
    "mebibytes",
    "This counts **MiB**. Asked is the number of bytes, an int.",
    ("4 * numbers", "4 * numbers / 2**20"),
)
slip("no splits", "S does not appear: every split stores its own partial.", ("S * ", ""))
slip("no batch", "B does not appear: each row of the batch has its own partials.", ("B * ", ""))
slip("no heads", "Hq does not appear: each query head has its own partials.", ("Hq * ", ""))
slip(
    "one query", "Lq does not appear: each of the new queries has its own partials.", ("Lq * ", "")
)
slip("bits", "This counts bits, 32 per number. A byte has 8 of them.", ("4 *", "32 *"))
slip(
    "one lse a split",
    "Only one lse is counted per split. Every query of every head has its own.",
    ("B * Lq * Hq * (D + 1)", "(B * Lq * Hq * D + 1)"),
)
slip(
    "one lse a query",
    "One lse is counted per query. **Every head** of it has its own.",
    ("Hq * (D + 1)", "(Hq * D + 1)"),
)
slip(
    "one lse a head",
    "One lse is counted per head. **Every query** of it has its own.",
    ("Lq * Hq * (D + 1)", "Hq * (Lq * D + 1)"),
)
slip(
    "lse of one split",
    "The lse are counted once, not **once per split**: the merge needs those of all splits.",
    ("S * B * Lq * Hq * (D + 1)", "B * Lq * Hq * (S * D + 1)"),
)
slip(
    "one lse in all",
    "Only **one lse in all** is counted (or parentheses are missing around D + 1). Every query of "
    "every head has its own in each split.",
    ("(D + 1)", "D + 1"),
)
slip(
    "no parentheses",
    "The 1 is added **at the very end**, as a single byte: without parentheses, a product comes "
    "before a sum.",
    ("4 * numbers", "4 * (numbers - S * B * Lq * Hq) + 1"),
)
slip(
    "the result, too",
    "This is **one partial too many** for each query: the final o and lse, perhaps. Only those of "
    "the S splits are asked for.",
    ("S * ", "(S + 1) * "),
)
slip(
    "a float",
    "The number is right, but it is a float, which holds large counts only approximately. "
    "Return an int: multiply by 4, not by 4.0, and don't divide.",
    ("4 *", "4.0 *"),
)
slip(
    "m and l",
    "This counts two numbers besides o, the maximum and the normaliser. One is enough: lse = "
    "m + log l.",
    ("D + 1", "D + 2"),
)
slip(
    "as the cache",
    "This is the formula of **the cache**: two vectors of D numbers. A partial is one vector, "
    "its o, and one lse.",
    ("(D + 1)", "2 * D"),
)
slip(
    "K and V",
    "This counts two vectors of D numbers per split, as in the cache. A partial has only one, "
    "its o.",
    ("D + 1", "2 * D + 1"),
)

WORKSPACE = Exercise.of(
    __name__, "8.3 workspace", title="What the partials cost", section="7 · What it costs in memory"
)

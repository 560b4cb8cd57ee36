"""Exercises of lesson 08: one partial, the combine, the memory that partials take."""

import torch
from torch import Generator

from course.check.draw import integer
from course.check.lesson_08_combine import COMBINE
from course.check.lesson_08_partial import PARTIAL
from course.check.spec import Exercise, Mistake, Property, Seen


def _bytes_by_hand(answer: object, rng: Generator) -> Seen:
    return Seen.of(answer, (1, 1, 32, 128, 64), wanted=4 * 64 * 32 * 129)


def _bytes_of_tensors(answer: object, rng: Generator) -> Seen:
    """Compare with the size of real tensors."""
    B, Lq, Hq, S = (integer(rng, 2, 6) for _ in range(4))
    D = 8 * integer(rng, 2, 6)
    o, lse = torch.empty(S, B, Lq, Hq, D), torch.empty(S, B, Lq, Hq)
    return Seen.of(answer, (B, Lq, Hq, D, S), wanted=o.nbytes + lse.nbytes)


def _bytes_when_large(answer: object, rng: Generator) -> Seen:
    B, S = integer(rng, 100, 300), integer(rng, 64, 200)
    return Seen.of(answer, (B, 8, 128, 128, S), wanted=4 * B * 8 * 128 * S * 129)


def _an_int(answer: object, rng: Generator) -> Seen:
    B, Lq, Hq, D, S = (integer(rng, 1, 8) for _ in range(5))
    given = f"B = {B}, Lq = {Lq}, Hq = {Hq}, D = {D}, S = {S}: the type of the result"
    return Seen(type(answer(B, Lq, Hq, D, S)).__name__, "int", given)


def meta_bytes(B: int, Lq: int, Hq: int, D: int, S: int) -> int:
    """Ask tensors without memory how large they would be: correct, without a formula."""
    rows = torch.empty(S, B, Lq, Hq, D + 1, device="meta", dtype=torch.float32)
    return rows.numel() * rows.element_size()


BYTES_MISTAKES = (
    (
        "no lse",
        "The lse values are not counted: besides the D numbers of each o, every split stores one "
        "lse.",
        lambda B, Lq, Hq, D, S: 4 * S * B * Lq * Hq * D,
    ),
    (
        "half precision",
        "This counts 2 bytes per number. The partials are kept in fp32, whatever the dtype of the "
        "cache.",
        lambda B, Lq, Hq, D, S: 2 * S * B * Lq * Hq * (D + 1),
    ),
    (
        "numbers, not bytes",
        "This counts numbers, not bytes: each number takes 4 bytes.",
        lambda B, Lq, Hq, D, S: S * B * Lq * Hq * (D + 1),
    ),
    (
        "no splits",
        "S does not appear: every split stores its own partial.",
        lambda B, Lq, Hq, D, S: 4 * B * Lq * Hq * (D + 1),
    ),
    (
        "no batch",
        "B does not appear: each row of the batch has its own partials.",
        lambda B, Lq, Hq, D, S: 4 * S * Lq * Hq * (D + 1),
    ),
    (
        "no heads",
        "Hq does not appear: each query head has its own partials.",
        lambda B, Lq, Hq, D, S: 4 * S * B * Lq * (D + 1),
    ),
    (
        "one query",
        "Lq does not appear: each of the new queries has its own partials.",
        lambda B, Lq, Hq, D, S: 4 * S * B * Hq * (D + 1),
    ),
    (
        "bits",
        "This counts bits, 32 per number. A byte has 8 of them.",
        lambda B, Lq, Hq, D, S: 32 * S * B * Lq * Hq * (D + 1),
    ),
    (
        "one lse a split",
        "Only one lse is counted per split. Every query of every head has its own.",
        lambda B, Lq, Hq, D, S: 4 * S * (B * Lq * Hq * D + 1),
    ),
    (
        "a float",
        "The number is right, but it is a float, which holds large counts only approximately. "
        "Return an int: multiply by 4, not by 4.0, and don't divide.",
        lambda B, Lq, Hq, D, S: 4.0 * S * B * Lq * Hq * (D + 1),
    ),
    (
        "m and l",
        "This counts two numbers besides o, the maximum and the normaliser. One is enough: lse = "
        "m + log l.",
        lambda B, Lq, Hq, D, S: 4 * S * B * Lq * Hq * (D + 2),
    ),
    (
        "K and V",
        "This counts two vectors of D numbers per split, as in the cache. A partial has only one, "
        "its o.",
        lambda B, Lq, Hq, D, S: 4 * S * B * Lq * Hq * (2 * D + 1),
    ),
)

WORKSPACE = Exercise(
    id="8.3",
    name="workspace",
    title="What the partials cost",
    section="7 · What it costs in memory",
    solution_name="workspace_bytes",
    properties=(
        Property("by hand", "32 heads, D = 128, 64 splits", _bytes_by_hand),
        Property("measured", "compared with the size of real tensors", _bytes_of_tensors),
        Property("large", "a big batch", _bytes_when_large),
        Property("an int", "a count of bytes is a whole number", _an_int),
    ),
    mistakes=tuple(Mistake(name, says, wrong) for name, says, wrong in BYTES_MISTAKES),
    alternative=meta_bytes,
)

EXERCISES = (PARTIAL, COMBINE, WORKSPACE)

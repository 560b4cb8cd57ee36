"""Exercise 15.3: how many requests fit beside one another, and how many come through per second."""

from course.check.draw import integer
from course.check.kinds import kinds_seen
from course.check.lesson_15 import capacity_mistakes  # noqa: F401  (more of what people do)
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip

PLAN = "8 · How many, and how fast"
NO_LIMIT = 10.0**9  # seconds: no step takes as long


@right
def capacity(
    memory, bandwidth, prefill_speed, weights, token_bytes, page_size, prompt, answer, tpot_limit
):
    def tpot(n):
        keys = n * (prompt + answer / 2)  # that a step reads, on average
        prefills = n * (prompt / prefill_speed)
        return (weights + keys * token_bytes) / bandwidth + prefills / (answer - 1)

    pages = max(0, memory - weights) // (page_size * token_bytes)
    n = pages // -(-(prompt + answer - 1) // page_size)
    while n > 0 and tpot(n) > tpot_limit:
        n -= 1
    rate = n / ((answer - 1) * tpot(n)) if n > 0 else 0.0
    return n, rate


@also_right
def in_closed_form(
    memory, bandwidth, prefill_speed, weights, token_bytes, page_size, prompt, answer, tpot_limit
):
    """The limit solved for n; the rate from the machine's time for one request."""
    steps = answer - 1
    alone = weights / bandwidth
    more = token_bytes * (2 * prompt + answer) / 2 / bandwidth + prompt / prefill_speed / steps
    largest = -(-(prompt + steps) // page_size) * page_size * token_bytes
    # (pages cut memory first: what is left over of a page is of no use)
    room = (memory - weights) // (page_size * token_bytes) * page_size * token_bytes
    n = max(0, min(room // largest, int((tpot_limit - alone) / more)))
    if n == 0:
        return 0, 0.0
    reads = (weights / n + token_bytes * (prompt + answer / 2)) / bandwidth
    return n, 1 / (prompt / prefill_speed + steps * reads)


NAMES = ("requests", "requests per second")


def seen(ask, args):
    return Seen.of(ask, args, wanted=capacity(*args), names=NAMES)


def draw(rng):
    """bandwidth, prefill_speed, weights, token_bytes, page_size, prompt, answer."""
    token_bytes, page_size = 512 * integer(rng, 1, 4), integer(rng, 8, 24)
    prompt, answer = integer(rng, 50, 400), integer(rng, 20, 200)
    weights = integer(rng, 20, 60) * 10**6
    return integer(rng, 1, 9) * 10**9, integer(rng, 500, 5000), weights, token_bytes, page_size, (
        prompt
    ), answer  # fmt: skip


def machine(sizes, requests, rest=0.5):
    """Memory for so many requests, and a part of the next one."""
    _, _, weights, token_bytes, page_size, prompt, answer = sizes
    pages = -(-(prompt + answer - 1) // page_size)
    spare = int(rest * pages) * page_size * token_bytes
    return weights + requests * pages * page_size * token_bytes + spare


def ask(answer, sizes, requests, limit=NO_LIMIT, rest=0.5):
    return seen(answer, (machine(sizes, requests, rest), *sizes, limit))


@holds("numbers that can be followed on paper")
def by_hand(answer, rng):
    return seen(answer, (1000, 100, 10, 200, 10, 4, 10, 11, 99.0))


@holds("memory decides", see=PLAN)
def by_memory(answer, rng):
    return [ask(answer, draw(rng), integer(rng, 2, 40)) for _ in range(3)]


@holds("one request, and many", see=PLAN)
def one_and_many(answer, rng):
    return [ask(answer, draw(rng), 1), ask(answer, draw(rng), integer(rng, 200, 400))]


@holds("prompts and answers that fill their pages, or need another", see=PLAN)
def page_ends(answer, rng):
    *machine_, token_bytes, page_size, _, _ = draw(rng)
    pages, answer_tokens = integer(rng, 3, 6), integer(rng, 4, page_size - 2)
    full = pages * page_size - answer_tokens + 1  # the last token of the answer is never cached
    sizes = [(*machine_, token_bytes, page_size, full + i, answer_tokens) for i in (0, 1, 2)]
    return [ask(answer, some, integer(rng, 12, 30), rest=0.9) for some in sizes]


@holds("the limit on TPOT decides", see=PLAN)
def by_limit(answer, rng):
    found = []
    for _ in range(3):
        sizes, n = draw(rng), integer(rng, 2, 25)
        limit = (_tpot(sizes, n) + _tpot(sizes, n + 1)) / 2  # far from both
        found.append(ask(answer, sizes, 3 * n + 4, limit))
    sizes = draw(rng)
    whole = (sizes[6] - 1) * (_tpot(sizes, 3) + _tpot(sizes, 4)) / 2  # seconds of a whole answer
    return [*found, ask(answer, sizes, 8, whole)]


@holds("exactly at the limit is allowed", see=PLAN)
def at_the_limit(answer, rng):
    n = integer(rng, 2, 20)
    sizes = 2**30, 2**10, 2**24, 2**9, 16, 2 ** integer(rng, 6, 8), 2 ** integer(rng, 4, 6) + 1
    return ask(answer, sizes, 2 * n, _tpot(sizes, n))


@holds("the last request takes the last page", see=PLAN)
def exactly_full(answer, rng):
    sizes, n = draw(rng), integer(rng, 3, 12)
    short = machine(sizes, n, 0.0) - 1
    return [ask(answer, sizes, n, rest=0.0), seen(answer, (short, *sizes, NO_LIMIT))]


@holds("no room for one, or none is quick enough: 0 and 0.0", see=PLAN)
def none_fits(answer, rng):
    sizes = draw(rng)
    weights = sizes[2]
    return [
        ask(answer, sizes, 0, rest=0.9),
        seen(answer, (weights // 2, *sizes, NO_LIMIT)),
        ask(answer, sizes, 9, 0.5 * weights / sizes[0]),
    ]


@holds("a whole number of requests, and a float", see=PLAN)
def kinds(answer, rng):
    sizes = draw(rng)
    args = (machine(sizes, 5), *sizes, NO_LIMIT)
    return [
        kinds_seen(answer, args, "int and float"),
        kinds_seen(answer, (0, *sizes, NO_LIMIT), "int and float"),
    ]


def _tpot(sizes, n):
    """TPOT with n requests, as in the lesson."""
    bandwidth, prefill_speed, weights, token_bytes, _, prompt, answer = sizes
    reads = weights + n * (prompt + answer / 2) * token_bytes
    return reads / bandwidth + n * prompt / prefill_speed / (answer - 1)


PAGES = "max(0, memory - weights) // (page_size * token_bytes)"
EACH = "-(-(prompt + answer - 1) // page_size)"
KEYS = "n * (prompt + answer / 2)"
PREFILLS = "n * (prompt / prefill_speed)"
READS = "(weights + keys * token_bytes) / bandwidth"
SHARE = "prefills / (answer - 1)"
RATE = "n / ((answer - 1) * tpot(n))"
LIMIT = "while n > 0 and tpot(n) > tpot_limit:"

slip("weights forgotten",
     "The requests get **the whole memory**. The weights are in it as well.",
     (PAGES, "memory // (page_size * token_bytes)"))  # fmt: skip
slip("prompts alone",
     "A request is given pages for its **prompt** alone. Its answer is cached, too.",
     (EACH, "-(-prompt // page_size)"))  # fmt: skip
slip("the last token cached",
     "A request is given room for the **last token** of its answer. Nothing follows it, so it is "
     "never put in the cache.",
     (EACH, "-(-(prompt + answer) // page_size)"))  # fmt: skip
slip("pages rounded down",
     "The pages of a request are **rounded down**. Its last tokens need one, too.",
     (EACH, "max(1, (prompt + answer - 1) // page_size)"))  # fmt: skip
slip("without pages",
     "Memory is divided **by token**. A request takes whole pages, and the rest of its last one is "
     "lost.",
     ("pages = " + PAGES, "tokens = max(0, memory - weights) // token_bytes"),
     ("pages // " + EACH, "tokens // (prompt + answer - 1)"))  # fmt: skip
slip("a page of one token",
     "A page is counted as **token_bytes**. It has `page_size` tokens.",
     (PAGES, "max(0, memory - weights) // token_bytes"))  # fmt: skip
slip("the answers full length",
     "A step reads keys as if every answer were **complete**. On average half of it is there.",
     (KEYS, "n * (prompt + answer)"))  # fmt: skip
slip("prompts read",
     "A step reads the keys of the **prompts** alone. It reads those of the answers, too.",
     (KEYS, "n * prompt"))  # fmt: skip
slip("answers read",
     "A step reads the keys of the **answers** alone. It reads those of the prompts, too.",
     (KEYS, "n * (answer / 2)"))  # fmt: skip
slip("keys of one request",
     "A step reads the keys of **one** request. It reads those of all n.",
     (KEYS, "prompt + answer / 2"))  # fmt: skip
slip("weights not read",
     "A step reads keys only. It reads all **weights**, too, and with few requests they are most "
     "of it.",
     (READS, "keys * token_bytes / bandwidth"))  # fmt: skip
slip("weights per request",
     "The weights are read **once per request**. One read serves the whole batch: that is what "
     "batching is for.",
     (READS, "(n * weights + keys * token_bytes) / bandwidth"))  # fmt: skip
slip("no pauses",
     "The **prefills** of new requests are missing. While one computes its prompt, the others "
     "wait.",
     (" + " + SHARE, ""))  # fmt: skip
slip("one pause",
     "**One** prefill is counted for an answer. While it is written, each of the n requests is "
     "replaced once: n prefills.",
     (PREFILLS, "prompt / prefill_speed"))  # fmt: skip
slip("a pause at every token",
     "The n prefills are added to **every** token. They are spread over the answer − 1 steps.",
     (SHARE, "prefills"))  # fmt: skip
slip("prefill of one token",
     "A prefill takes as long as **one token**. It has `prompt` of them.",
     (PREFILLS, "n / prefill_speed"))  # fmt: skip
slip("prefill speed as seconds",
     "The prefill speed is taken for **seconds per token**. It is tokens per second.",
     (PREFILLS, "n * (prompt * prefill_speed)"))  # fmt: skip
slip("a step for the first token",
     "An answer is counted as **`answer` steps**. The first token comes from the prefill: answer − "
     "1 remain.",
     (SHARE, "prefills / answer"), (RATE, "n / (answer * tpot(n))"))  # fmt: skip
slip("tokens per second",
     "The rate is **tokens** per second. A request has many: requests per second are asked for.",
     (RATE, "n / tpot(n)"))  # fmt: skip
slip("one request's rate",
     "The rate is that of **one** request. There are n of them at once.",
     (RATE, "1 / ((answer - 1) * tpot(n))"))  # fmt: skip
slip("seconds per request",
     "In place of a rate, this is the **seconds** that a request takes.",
     (RATE, "(answer - 1) * tpot(n)"))  # fmt: skip
slip("no limit",
     "The limit on TPOT is **ignored**: as many requests run as fit into memory.",
     (LIMIT, "while False:"))  # fmt: skip
slip("the limit on the step alone",
     "The limit is held against the **decode step alone**. A user's tokens also wait for the "
     "prefills of others.",
     (LIMIT, "while n > 0 and tpot(n) - n * (prompt / prefill_speed) / (answer - 1) > tpot_limit:"),
     )  # fmt: skip
slip("at the limit refused",
     "A TPOT **exactly at the limit** is refused. At most means that it is allowed.",
     ("> tpot_limit", ">= tpot_limit"))  # fmt: skip
slip("one too few",
     "There is **one request too few**: the number is lowered once more than it has to be.",
     ("rate =", "n -= n > 0\n    rate ="))  # fmt: skip
slip("fewer than none",
     "Where not even the weights fit, the number of requests is **negative**. It should be 0.",
     (PAGES, "(memory - weights) // (page_size * token_bytes)"))  # fmt: skip
slip("at least one",
     "Where none fits there is still **one request**. It should be 0.",
     ("while n > 0", "n = max(1, n)\n    while n > 1"))  # fmt: skip
slip("a whole zero",
     "Where none fits, the rate is a whole **0**. It should be a float, 0.0.",
     ("else 0.0", "else 0"))  # fmt: skip
slip("not whole",
     "The number of requests is a **fraction**. Part of a request does not fit.",
     ("n = pages // ", "n = pages / "))  # fmt: skip

CAPACITY = Exercise.of(__name__, "15.3 capacity", title="A capacity plan", section=PLAN)

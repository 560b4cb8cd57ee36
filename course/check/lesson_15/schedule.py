"""Exercise 15.1: what an engine computes in its next step. What is seen of it: `schedule_seen`."""

from course.check.draw import integer
from course.check.lesson_15 import schedule_mistakes  # noqa: F401  (what people do)
from course.check.lesson_15.schedule_seen import Request, a_run, seen
from course.check.spec import Exercise, also_right, holds, right, slip

CHUNKS = "2 · A long prompt in small chunks"
PAGES = "3 · When the pages run out"


@right
def schedule(running, waiting, budget, free, page_size):
    work, preempted, stays = {}, [], list(running)
    for r in running:  # those that decode, the oldest first
        if r.known - r.cached > 1 or budget == 0 or r not in stays:
            continue
        full = r.cached == r.pages * page_size
        if full and free == 0:
            youngest = stays.pop()
            preempted.append(youngest.name)
            free += youngest.pages
        if r in stays:
            work[r.name] = 1
            budget, free = budget - 1, free - full
    for r in stays:  # prompts that were begun before
        if r.known - r.cached > 1 and budget > 0:
            work[r.name] = min(r.known - r.cached, budget)
            budget -= work[r.name]
    for r in waiting:
        needs = -(-r.known // page_size)
        if preempted or budget == 0 or needs > free:
            break
        work[r.name] = min(r.known, budget)
        budget, free = budget - work[r.name], free - needs
    return work, preempted


@also_right
def sorted_into_three(running, waiting, budget, free, page_size):
    """Sort them first, then serve; whom to preempt is counted from the end."""
    gone, left = set(), dict.fromkeys(r.name for r in running)

    def lacks(r):
        return r.known - r.cached

    order = []
    for r in [r for r in running if lacks(r) == 1]:
        if r.name in gone or len(order) == budget:
            continue
        new = -(-r.known // page_size) - r.pages
        for victim in reversed(running):
            if free >= new:
                break
            if victim.name not in gone:
                gone.add(victim.name)
                del left[victim.name]
                free += victim.pages
        if r.name not in gone:
            order.append((r.name, 1))
            free -= new
    budget -= len(order)
    queue = [r for r in running if lacks(r) > 1 and r.name in left]
    if not gone:
        for r in waiting:
            free -= -(-r.known // page_size)
            if free < 0:
                break
            queue.append(r)
    for r in queue:
        chunk = min(lacks(r), budget)
        budget -= chunk
        order += [(r.name, chunk)] if chunk else []
    return dict(order), [r.name for r in reversed(running) if r.name in gone]


def decoding(name, pages, page_size, full=False):
    """A request that decodes; full: the next token needs another page."""
    cached = pages * page_size - (0 if full else 2)
    return Request(name, cached, cached + 1, pages)


def prefilling(name, cached, lacks, page_size):
    """A request in the middle of its prompt, which has all its pages."""
    return Request(name, cached, cached + lacks, -(-(cached + lacks) // page_size))


def queued(name, known):
    return Request(name, 0, known, 0)


@holds("pages of four; a and b decode, c has six tokens to go, d waits")
def by_hand(answer, rng):
    three = [Request("a", 8, 9, 2), Request("b", 5, 6, 2), Request("c", 8, 14, 4)]
    return seen(answer, schedule, three, [Request("d", 0, 5, 0)], 10, 3, 4)


@holds("every request that decodes gets its one token")
def decodes(answer, rng):
    some = [decoding(name, integer(rng, 1, 4), 8) for name in "abcd"]
    return [
        seen(answer, schedule, some, [], integer(rng, 9, 20), integer(rng, 1, 5), 8),
        seen(answer, schedule, some, [], 4, 0, 8),
        seen(answer, schedule, [], [], 4, 2, 8),
    ]


@holds("more of them than the budget has tokens: the oldest first")
def small_budget(answer, rng):
    some = [decoding(name, integer(rng, 1, 4), 8) for name in "abcdef"]
    a = prefilling("h", 8, integer(rng, 3, 9), 8)
    return [
        seen(answer, schedule, some, [queued("g", 5)], integer(rng, 2, 4), 9, 8),
        seen(answer, schedule, [a, *some], [queued("g", 5)], integer(rng, 4, 6), 9, 8),
        seen(answer, schedule, [*some[:2], decoding("i", 2, 8, full=True), some[2]], [], 2, 0, 8),
    ]


@holds("a prompt takes what the decodes leave, in chunks", see=CHUNKS)
def chunks(answer, rng):
    b, d = (decoding(name, integer(rng, 1, 3), 4) for name in "bd")
    a = prefilling("a", integer(rng, 9, 15), integer(rng, 17, 30), 4)
    c = prefilling("c", integer(rng, 1, 9), integer(rng, 10, 20), 4)
    return [
        seen(answer, schedule, [a, b], [], integer(rng, 8, 12), 2, 4),
        seen(answer, schedule, [a, b, c, d], [], a.known - a.cached + 2 + 4, 2, 4),
        seen(answer, schedule, [b, a], [queued("e", 9)], a.known - a.cached + 1 + 3, 9, 4),
    ]


@holds("prompts as long as the budget, or short of it", see=CHUNKS)
def last_chunk(answer, rng):
    a, b = prefilling("a", 8, integer(rng, 3, 7), 4), decoding("b", 2, 4)
    lacks = a.known - a.cached
    return [
        seen(answer, schedule, [a, b], [], lacks + 1, 1, 4),
        seen(answer, schedule, [a], [queued("c", 6)], lacks, 9, 4),
        seen(answer, schedule, [], [queued("c", 6), queued("d", 3)], integer(rng, 10, 20), 9, 4),
    ]


@holds("who waits begins if there are pages for all its tokens", see=CHUNKS)
def begins(answer, rng):
    size = integer(rng, 4, 8)
    pages = integer(rng, 4, 6)
    known = pages * size - integer(rng, 1, size - 1)
    budget = integer(rng, 3, 2 * size)
    return [
        seen(answer, schedule, [decoding("a", 2, size)], [queued("b", known)], budget, pages, size),
        seen(answer, schedule, [], [queued("b", known)], budget, pages - 1, size),
        seen(answer, schedule, [], [queued("b", pages * size)], budget, pages, size),
        seen(answer, schedule, [], [queued("b", 2), queued("c", known)], 99, pages, size),
    ]


@holds("the first in line does not fit, and nobody overtakes it", see=CHUNKS)
def in_order(answer, rng):
    line = [queued("b", integer(rng, 41, 60)), queued("c", 3), queued("d", 5)]
    return [
        seen(answer, schedule, [decoding("a", 2, 8)], line, 40, 4, 8),
        seen(answer, schedule, [], [queued("e", 3), *line], 40, 5, 8),
    ]


@holds("full pages: a decode takes a page before anyone begins", see=PAGES)
def page_by_page(answer, rng):
    a, b = decoding("a", integer(rng, 1, 3), 4, full=True), decoding("b", 2, 4)
    c = decoding("c", integer(rng, 1, 3), 4, full=True)
    return [
        seen(answer, schedule, [a, b, c], [queued("d", 8)], 20, 3, 4),
        seen(answer, schedule, [a, b, c], [queued("d", 8)], 20, 4, 4),
        seen(answer, schedule, [b, Request("e", 8, 9, 3)], [queued("d", 8)], 20, 2, 4),
    ]


@holds("no page is free: the youngest gives its pages back", see=PAGES)
def preemption(answer, rng):
    a, b = decoding("a", integer(rng, 2, 4), 4, full=True), decoding("b", 2, 4)
    c, d = decoding("c", 3, 4), prefilling("d", 4, integer(rng, 10, 20), 4)
    return [
        seen(answer, schedule, [a, b, c], [], 20, 0, 4),
        seen(answer, schedule, [a, b, c, d], [], 20, 0, 4),
        seen(answer, schedule, [a, d, b], [], integer(rng, 6, 9), 0, 4),
    ]


@holds("several need a page, and one page of the youngest is not enough", see=PAGES)
def several(answer, rng):
    full = [decoding(name, integer(rng, 2, 4), 4, full=True) for name in "abcd"]
    last = decoding("e", 1, 4)
    return [
        seen(answer, schedule, [*full, last], [], 20, 0, 4),
        seen(answer, schedule, [*full[:2], last, decoding("f", 1, 4)], [], 20, 1, 4),
        seen(answer, schedule, full[:3], [], 20, integer(rng, 1, 2), 4),
    ]


@holds("the youngest needs the page itself: it gives way", see=PAGES)
def itself(answer, rng):
    a, b = decoding("a", integer(rng, 2, 4), 4), decoding("b", integer(rng, 2, 4), 4, full=True)
    return [
        seen(answer, schedule, [a, b], [], 20, 0, 4),
        seen(answer, schedule, [a, prefilling("c", 5, 9, 4), b], [], 20, 0, 4),
    ]


@holds("in a step that preempts, nobody begins", see=PAGES)
def nobody_begins(answer, rng):
    a, b = decoding("a", 3, 4, full=True), decoding("b", integer(rng, 4, 6), 4)
    return seen(answer, schedule, [a, b], [queued("c", 2), queued("d", 3)], 20, 0, 4)


@holds("nine requests, one step after the other, until all have their answers")
def a_long_run(answer, rng):
    return a_run(answer, schedule, rng)


slip(
    "pages of decodes not taken",
    "A decode that takes a page does **not take it from the free ones**, so the next counts on it, "
    "too.",
    ("budget, free = budget - 1, free - full", "budget = budget - 1"),
    see=PAGES,
)
slip(
    "a free page less for each decode",
    "**Every** decode takes one from the free pages, even if its own are not full.",
    ("free - full", "free - 1"),
    see=PAGES,
)
slip(
    "whoever needs it gives way",
    "The request that **needs** the page is preempted. The youngest of all gives way.",
    ("youngest = stays.pop()", "youngest = r\n            stays.remove(r)"),
    see=PAGES,
)
slip(
    "prompts give way first",
    "The youngest **in the middle of its prompt** is preempted. The youngest of all gives way, "
    "whatever it is doing.",
    (
        "youngest = stays.pop()",
        "youngest = next((x for x in reversed(stays) if x.known - x.cached > 1), stays[-1])\n"
        "            stays.remove(youngest)",
    ),
    see=PAGES,
)
slip(
    "never itself",
    "The youngest, when it needs a page **itself**, only sits the step out and keeps its pages. It "
    "is preempted, like anybody else.",
    (
        "        if full and free == 0:\n",
        "        if full and free == 0 and stays[-1] is r:\n            continue\n"
        "        if full and free == 0:\n",
    ),
    see=PAGES,
)
slip(
    "decodes beyond the budget",
    "More requests decode than the budget has **tokens**. The others sit this step out.",
    ("> 1 or budget == 0 or", "> 1 or"),
    ("preempted or budget == 0", "preempted or budget <= 0"),
)
slip(
    "a budget below zero",
    "More requests decode than the budget has tokens, so that it becomes **negative**. The others "
    "sit this step out.",
    ("> 1 or budget == 0 or", "> 1 or"),
    see=PAGES,
)
slip(
    "who sits out counts as zero",
    "`work` names running requests that compute nothing, with **0**. Leave those out.",
    ("return work, preempted", "return {**{r.name: 0 for r in running}, **work}, preempted"),
)
slip(
    "pairs in place of a dictionary",
    "`work` is a **list of pairs**. A dictionary is asked for: tokens by name.",
    ("return work, preempted", "return list(work.items()), preempted"),
)
slip(
    "work alone",
    "Only **work** is returned. Two things are asked for: work and preempted.",
    ("return work, preempted", "return work"),
)
slip(
    "the two swapped",
    "The two results are **swapped**: work comes first, then preempted.",
    ("return work, preempted", "return preempted, work"),
)
slip(
    "beginners keep their last token",
    "Whoever begins leaves the **last token** of its prompt for later. It is computed like the "
    "rest if the budget allows it.",
    ("min(r.known, budget)", "min(r.known - 1, budget)"),
    see=CHUNKS,
)
slip(
    "the last free page refused",
    "A request that needs **exactly** as many pages as are free does not begin. It fits.",
    ("needs > free", "needs >= free"),
    see=CHUNKS,
)
slip(
    "the caller's queue",
    "The list `waiting` is **changed**, and the caller still needs it. Go over it without removing "
    "anything.",
    ("for r in waiting:", "while waiting:\n        r = waiting[0]"),
    ("work[r.name] = min(r.known, budget)", "work[waiting.pop(0).name] = min(r.known, budget)"),
    see=CHUNKS,
)

slip(
    "preempts beyond the budget",
    "When the budget is **used up**, a decode still takes a page, and somebody gives way for it. "
    "It sits this step out.",
    ("> 1 or budget == 0 or", "> 1 or"),
    ("        if r in stays:\n", "        if r in stays and budget > 0:\n"),
    see=PAGES,
)
slip(
    "pages to spare",
    "A **spare page** is kept for each request that runs, as in the lesson. Here none is: the "
    "first in line begins if there are pages for all its tokens.",
    ("needs > free", "needs + len(stays) > free"),
    see=CHUNKS,
)
slip(
    "nobody computes on the freed page",
    "After a preemption, the request that **needed** the page computes nothing, though there is "
    "one now.",
    (
        "            free += youngest.pages\n",
        "            free += youngest.pages\n            continue\n",
    ),
    see=PAGES,
)

SCHEDULE = Exercise.of(
    __name__,
    "15.1 schedule",
    title="One step of the scheduler",
    section=CHUNKS,
)

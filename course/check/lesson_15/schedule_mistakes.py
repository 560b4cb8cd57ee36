"""How people get exercise 15.1 wrong: budgets, pages, and who goes first."""

from course.check.spec import mistake, slip

CHUNKS = "2 · A long prompt in small chunks"
PAGES = "3 · When the pages run out"

FIRST = "for r in running:  #"
ONE = "            budget, free = budget - 1, free - full\n"
FULL = "full = r.cached == r.pages * page_size"
VICTIM = "youngest = stays.pop()"
CHUNK = "            work[r.name] = min(r.known - r.cached, budget)\n"
SPENT = "            budget -= work[r.name]\n"
NEEDS = "needs = -(-r.known // page_size)"
BEGUN = "        budget, free = budget - work[r.name], free - needs\n"
STOPS = "if preempted or budget == 0 or needs > free:"


@mistake(
    "Prompts are served **before** the requests that decode. A prompt can take the whole budget, "
    "and then everybody's answer pauses: decodes first.",
    see=CHUNKS,
)
def prompts_before_decodes(running, waiting, budget, free, page_size):
    work, preempted, stays = {}, [], list(running)
    for r in running:
        if r.known - r.cached > 1 and budget > 0:
            work[r.name] = min(r.known - r.cached, budget)
            budget -= work[r.name]
    for r in running:
        if r.known - r.cached > 1 or budget == 0 or r not in stays:
            continue
        full = r.cached == r.pages * page_size
        if full and free == 0:
            youngest = stays.pop()
            preempted.append(youngest.name)
            work.pop(youngest.name, None)
            free += youngest.pages
        if r in stays:
            work[r.name] = 1
            budget, free = budget - 1, free - full
    return _with_who_waits(work, preempted, waiting, budget, free, page_size)


@mistake(
    "Running requests are served **in the order of their age**, whatever they do. An old one with "
    "a long prompt then takes the budget of the younger ones that decode: decodes first.",
    see=CHUNKS,
)
def by_age_alone(running, waiting, budget, free, page_size):
    work, preempted, stays = {}, [], list(running)
    for r in running:
        if budget == 0 or r not in stays:
            continue
        full = r.cached == r.pages * page_size
        if full and free == 0:
            youngest = stays.pop()
            preempted.append(youngest.name)
            free += youngest.pages
        if r in stays:
            work[r.name] = min(r.known - r.cached, budget)
            budget, free = budget - work[r.name], free - full
    return _with_who_waits(work, preempted, waiting, budget, free, page_size)


def _with_who_waits(work, preempted, waiting, budget, free, page_size):
    for r in waiting:
        needs = -(-r.known // page_size)
        if preempted or budget == 0 or needs > free:
            break
        work[r.name] = min(r.known, budget)
        budget, free = budget - work[r.name], free - needs
    return work, preempted


slip(
    "a decode is free of charge",
    "The tokens of requests that decode are **not taken from the budget**. Each is a token of the "
    "step like any other.",
    (ONE, "            free = free - full\n"),
)
slip(
    "a chunk beyond the budget",
    "A prompt that was begun takes **all the tokens it lacks**, whatever is left of the budget.",
    (CHUNK, "            work[r.name] = r.known - r.cached\n"),
    see=CHUNKS,
)
slip(
    "a beginning beyond the budget",
    "Whoever begins takes its **whole prompt** at once. Its first chunk is what is left of the "
    "budget, at most.",
    ("work[r.name] = min(r.known, budget)", "work[r.name] = r.known"),
    see=CHUNKS,
)
slip(
    "chunks not taken from the budget",
    "Each prompt that was begun gets what was left **after the decodes**: what one of them takes, "
    "the next no longer has.",
    (SPENT, ""),
    see=CHUNKS,
)
slip(
    "beginnings not taken from the budget",
    "Tokens of those who begin are **not taken from the budget**: what one of them takes, the next "
    "no longer has.",
    (BEGUN, "        free = free - needs\n"),
    see=CHUNKS,
)
slip(
    "a chunk counts as one",
    "A chunk is taken from the budget **as one token**. The budget counts tokens, not requests.",
    (SPENT, "            budget -= 1\n"),
    see=CHUNKS,
)
slip(
    "the same free pages for all",
    "Pages of those who begin are **not taken from the free ones**, so two requests count on the "
    "same page.",
    (BEGUN, "        budget = budget - work[r.name]\n"),
    see=CHUNKS,
)
slip(
    "pages for the first chunk",
    "A request begins as soon as there are pages for its **first chunk**. It needs pages for all "
    "its tokens, or it stops halfway and is preempted.",
    (NEEDS, "needs = -(-min(r.known, budget) // page_size)"),
    see=CHUNKS,
)
slip(
    "pages rounded down",
    "The pages of a prompt are **rounded down**: its last tokens have no page.",
    (NEEDS, "needs = r.known // page_size"),
    see=CHUNKS,
)
slip(
    "a page too many",
    "A prompt that fills its last page exactly is given **one page too many**. Round up.",
    (NEEDS, "needs = r.known // page_size + 1"),
    see=CHUNKS,
)
slip(
    "tokens against pages",
    "The **tokens** of a request are compared with the number of free *pages*. A page holds "
    "`page_size` tokens.",
    (NEEDS, "needs = r.known"),
    see=CHUNKS,
)
slip(
    "overtaking",
    "A request that does not fit is passed over, and **a later one begins**. Go on like this, and "
    "a large request waits forever: stop at the first that does not fit.",
    ("            break\n", "            continue\n"),
    see=CHUNKS,
)
slip(
    "whole prompts only",
    "A request begins only if its **whole prompt** is within the budget. It may begin with a "
    "chunk; otherwise a prompt longer than the budget never begins.",
    (STOPS, "if preempted or r.known > budget or needs > free:"),
    see=CHUNKS,
)
slip(
    "one beginning per step",
    "Only **one** waiting request begins in a step, though budget and pages are left for the next.",
    (BEGUN, BEGUN + "        break\n"),
    see=CHUNKS,
)
slip(
    "one prompt per step",
    "Only **one** prompt gets a chunk of those that were begun, though some of the budget is left.",
    (SPENT, SPENT + "            break\n"),
    see=CHUNKS,
)
slip(
    "nothing counted as something",
    "`work` names requests that compute **0 tokens**. Leave those out.",
    ("if r.known - r.cached > 1 and budget > 0:", "if r.known - r.cached > 1:"),
    see=CHUNKS,
)
slip(
    "the last token kept for later",
    "The **last token** of a prompt is left for a later step. It belongs to the last chunk, and "
    "its logits give the first token of the answer.",
    (CHUNK, "            work[r.name] = min(r.known - r.cached - 1, budget)\n"),
    see=CHUNKS,
)
slip(
    "without the cache",
    "A request that decodes computes **all its tokens** again. Those in the cache are there: it "
    "lacks one.",
    ("work[r.name] = 1\n", "work[r.name] = min(r.known, budget)\n"),
)
slip(
    "the youngest first",
    "Decodes are served **youngest first**. When budget or pages are short, the oldest come first.",
    (FIRST, "for r in running[::-1]:  #"),
    see=PAGES,
)
slip(
    "the youngest prompt first",
    "Of the prompts that were begun, the **youngest** comes first. The oldest does.",
    ("for r in stays:", "for r in reversed(stays):"),
    see=CHUNKS,
)
slip(
    "the shortest in line first",
    "Whoever waits with the **fewest tokens** begins first. They begin in the order of the list, "
    "or a long one may never begin.",
    ("for r in waiting:", "for r in sorted(waiting, key=lambda x: x.known):"),
    see=CHUNKS,
)
slip(
    "only who decodes",
    "Whoever waits **never begins**: after the running requests, look at `waiting`.",
    (STOPS, "if True:"),
    see=CHUNKS,
)
slip(
    "a page for every token",
    "**Every** decode takes a page. It needs one only if its pages are full.",
    (FULL, "full = True"),
    see=PAGES,
)
slip(
    "no pages for decodes",
    "Requests that decode **never take a page**. When theirs are full, the next token needs one.",
    (FULL, "full = False"),
    see=PAGES,
)
slip(
    "a page too early",
    "A decode takes a page one token **too early**: when this token fills the last slot, and not "
    "when there is no slot left.",
    (FULL, "full = r.known == r.pages * page_size"),
    see=PAGES,
)
slip(
    "by the remainder",
    "Whether a page is needed is told from the **remainder** of `cached` alone. At the end of a "
    "prompt the page may be there already: compare with `pages`.",
    (FULL, "full = r.cached % page_size == 0"),
    see=PAGES,
)
slip(
    "the oldest gives way",
    "The **oldest** request is preempted. It has come furthest, and most would be computed again: "
    "the youngest gives way.",
    (VICTIM, "youngest = stays.pop(0)"),
    see=PAGES,
)
slip(
    "the largest gives way",
    "The request with the **most pages** is preempted. Asked for is the youngest.",
    (VICTIM, "youngest = max(stays, key=lambda x: x.pages)\n            stays.remove(youngest)"),
    see=PAGES,
)
slip(
    "only decodes give way",
    "The youngest **that decodes** is preempted. A younger one in the middle of its prompt gives "
    "way before it.",
    (
        VICTIM,
        "youngest = [x for x in stays if x.known - x.cached == 1][-1]\n"
        "            stays.remove(youngest)",
    ),
    see=PAGES,
)
slip(
    "no account after a preemption",
    "After a preemption the **free pages** are not counted right. All those of the preempted "
    "request become free, and the page that the needy one takes is subtracted from them.",
    ("free - full", "free - (full and not preempted)"),
    see=PAGES,
)
slip(
    "a preemption ends the decodes",
    "With a preemption the decodes **end**. Whoever needed the page has one now, and those after "
    "it decode, too.",
    ("free += youngest.pages\n", "free += youngest.pages\n            break\n"),
    see=PAGES,
)
slip(
    "one preemption per step",
    "At most **one** request is preempted in a step, and the next that needs a page is left out. "
    "Each that finds no free page sends the youngest away.",
    (
        "if full and free == 0:\n",
        "if full and free == 0 and preempted:\n            continue\n"
        "        if full and free == 0:\n",
    ),
    see=PAGES,
)
slip(
    "one page of a victim",
    "A preempted request gives **all its pages** back, or one after the other gives way.",
    ("free += youngest.pages", "free += 1"),
    see=PAGES,
)
slip(
    "it computes all the same",
    "A request that gives way **itself** computes a token in the same step. It has no page to put "
    "it in.",
    ("        if r in stays:\n", "        if True:\n"),
    see=PAGES,
)
slip(
    "nobody gives way",
    "When no page is free, the decode is **left out** and nobody gives way. If all wait for a page "
    "like this, none ever comes.",
    ("if full and free == 0:\n", "if full and free == 0:\n            continue\n"),
    see=PAGES,
)
slip(
    "a preempted prompt goes on",
    "A request that was preempted in this step still gets a **chunk** of its prompt.",
    ("for r in stays:", "for r in running:"),
    see=PAGES,
)
slip(
    "the freed pages to who waits",
    "In a step that preempts, a waiting request **begins**. It takes pages from which somebody was "
    "just sent away, and who is older than it.",
    (STOPS, "if budget == 0 or needs > free:"),
    see=PAGES,
)
slip(
    "requests in place of names",
    "`preempted` holds **requests**. Their names are asked for.",
    ("append(youngest.name)", "append(youngest)"),
    see=PAGES,
)
slip(
    "the caller's list",
    "The list `running` is **changed**, and the caller still needs it. Work on a copy.",
    ("stays = {}, [], list(running)", "stays = {}, [], running"),
    see=PAGES,
)

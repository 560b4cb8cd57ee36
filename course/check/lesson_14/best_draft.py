"""Exercise 14.3: how many tokens to draft, from acceptance and costs."""

import torch

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, mistake, right, slip

PAYS = "7 · When it pays"


@right
def best_draft(alpha, verify, draft):
    best_K, best = 0, 1.0
    for K, time in enumerate(verify):
        expected = sum(alpha**i for i in range(K + 1))
        speed_up = expected / (time + K * draft)
        if speed_up > best:
            best_K, best = K, speed_up
    return best_K, best


@also_right
def closed_form(alpha, verify, draft):
    """With the closed form, which needs a case of its own at alpha = 1."""

    def speed_up(K):
        tokens = K + 1 if alpha == 1 else (1 - alpha ** (K + 1)) / (1 - alpha)
        return tokens / (verify[K] + K * draft)

    best_K = max(range(len(verify)), key=lambda K: (round(speed_up(K), 12), -K))
    return best_K, speed_up(best_K)


@also_right
def running(alpha, verify, draft):
    """The sum is carried along."""
    tokens, reached, found = 0.0, 1.0, []
    for K, time in enumerate(verify):
        tokens += reached
        reached *= alpha
        found.append((tokens / (time + K * draft), -K))
    speed_up, K = max(found)
    return -K, speed_up


def seen(answer, alpha, verify, draft):
    """Ask; a quotient of sums of a few terms is good to 1e-9."""
    wanted = best_draft(alpha, verify, draft)
    told = f"alpha {alpha:.4g}, verify {[round(x, 3) for x in verify]}, draft {draft:.4g}"
    return Seen.of(
        answer, (alpha, list(verify), draft), wanted=wanted, given=told, atol=1e-9, rtol=1e-9,
        names=("K", "speed-up"),
    )  # fmt: skip


def number(rng, low, high):
    return low + (high - low) * float(torch.rand((), generator=rng, dtype=torch.float64))


def flat(rng, n, slope):
    """Times of a pass over 1, 2, … n + 1 tokens, in plain steps."""
    return [1.0 + slope * K * (1 + 0.1 * number(rng, 0, 1) * (K > 0)) for K in range(n + 1)]


@holds("alpha = 0.5, three tokens at most, every pass takes 1: 1.875 tokens")
def by_hand(answer, rng):
    return [
        Seen.of(
            answer, (0.5, [1.0, 1.0, 1.0, 1.0], 0.0), wanted=(3, 1.875), atol=1e-9, rtol=1e-9,
            given="alpha 0.5, verify [1, 1, 1, 1], draft 0", names=("K", "speed-up"),
        ),
        Seen.of(
            answer, (0.5, [1.0, 1.25, 1.5, 1.75], 0.0), wanted=(1, 1.2), atol=1e-9, rtol=1e-9,
            given="alpha 0.5, verify [1, 1.25, 1.5, 1.75], draft 0", names=("K", "speed-up"),
        ),
    ]  # fmt: skip


@holds("a free draft, and passes that grow slowly")
def a_free_draft(answer, rng):
    return [seen(answer, number(rng, 0.6, 0.95), flat(rng, 8, 0.08), 0.0) for _ in range(4)]


@holds("a draft that costs something for each token")
def a_costly_draft(answer, rng):
    return [
        seen(answer, number(rng, 0.6, 0.95), flat(rng, 7, 0.04), number(rng, 0.05, 0.25))
        for _ in range(4)
    ]


@holds("nothing pays: no draft, and a speed-up of 1")
def nothing_pays(answer, rng):
    return [
        seen(answer, number(rng, 0.05, 0.2), flat(rng, integer(rng, 3, 6), 0.5), 0.1),
        seen(answer, 0.0, [1.0, 1.0, 1.0], 0.0),
    ]


@holds("every guess is right: alpha = 1")
def all_right(answer, rng):
    return [seen(answer, 1.0, flat(rng, 6, 0.1), 0.02), seen(answer, 1.0, [1.0], 0.3)]


@holds("a pass that suddenly takes longer, in the middle or at the end")
def a_step(answer, rng):
    at = integer(rng, 2, 4)
    verify = [1.0] * (at + 1) + [2.5] * (7 - at)
    return [
        seen(answer, number(rng, 0.8, 0.9), verify, 0.01),
        seen(answer, number(rng, 0.8, 0.9), [1.0, 1.9, 1.9, 1.9, 1.9, 1.9], 0.0),
    ]


slip(
    "no certain token",
    "The **certain token** is left out: a pass gives one token even if every guess is wrong, so "
    "the sum begins with 1.",
    ("range(K + 1)", "range(1, K + 1)"),
)
slip(
    "one term short",
    "The **last term** is missing: α^K is the chance that all K guesses are right.",
    ("range(K + 1)", "range(max(1, K))"),
)
slip(
    "one term too many",
    "There is **one term too many**: K guesses give at most K + 1 tokens.",
    ("range(K + 1)", "range(K + 2)"),
)
slip(
    "guesses on their own",
    "Tokens are counted as **1 + K·α**, as if every guess counted whether or not those before it "
    "were right. After the first wrong one the rest is lost.",
    ("sum(alpha**i for i in range(K + 1))", "1 + K * alpha"),
)
slip(
    "only if all are right",
    "Only the case **that all K are right** is counted: 1 + K·α^K. If some are right, those count, "
    "too.",
    ("sum(alpha**i for i in range(K + 1))", "1 + K * alpha**K"),
)
slip(
    "an endless draft",
    "The sum goes on **for ever**, 1 / (1 − α): it must end with the draft.",
    ("sum(alpha**i for i in range(K + 1))", "(1 / (1 - alpha) if 0 < K and alpha < 1 else K + 1)"),
)
slip(
    "the chance to be wrong",
    "α and **1 − α** are swapped: α is the chance that a guess is right.",
    ("alpha**i", "(1 - alpha) ** i"),
)
slip(
    "α times i",
    "The terms are **α·i** in place of α^i: each further guess multiplies the chance.",
    ("sum(alpha**i for i in range(K + 1))", "1 + sum(alpha * i for i in range(1, K + 1))"),
)
slip(
    "drafting is free",
    "The time for **drafting** is left out.",
    ("(time + K * draft)", "time"),
)
slip(
    "drafted once",
    "Drafting is paid for **once per pass**. It takes `draft` for each of the K tokens.",
    ("K * draft", "(K > 0) * draft"),
)
slip(
    "drafted K + 1 times",
    "Drafting is paid for **K + 1 tokens**. The last token of a pass is the model's own.",
    ("K * draft", "(K + 1) * draft"),
)
slip(
    "the pass is free",
    "The time of the **pass** is taken as 1, whatever its length. `verify[K]` says how long it "
    "takes.",
    ("(time + K * draft)", "(1 + K * draft)"),
)
slip(
    "a pass per token",
    "The time of the pass is paid for **each token** in it: `verify[K]` is that of the whole pass.",
    ("(time + K * draft)", "((K + 1) * time + K * draft)"),
)
slip(
    "times instead of sum",
    "The costs are **multiplied**. Drafting and verifying come one after the other: add them.",
    ("(time + K * draft)", "(time * (1 + K * draft))"),
)
slip(
    "upside down",
    "Time is divided by tokens: the result is the **slow-down**. Tokens per time, please.",
    ("expected / (time + K * draft)", "(time + K * draft) / expected"),
)
slip(
    "the most tokens",
    "The draft with the **most tokens** per pass is chosen. What counts is tokens per time.",
    ("if speed_up > best:", "if K == len(verify) - 1:"),
)
slip(
    "the first that pays",
    "The **first** draft that pays is taken; a longer one may be better.",
    ("best_K, best = K, speed_up", "return K, speed_up"),
)
slip(
    "until it gets worse",
    "The search **stops as soon as a longer draft is not better**. The time of a pass has steps, "
    "and behind one it may get better again.",
    ("            best_K, best = K, speed_up", "            best_K, best = K, speed_up\n"
     "        elif K > 0:\n            break"),
)  # fmt: skip
slip(
    "a draft at any price",
    "A draft is chosen **even where none pays**. K = 0 is plain decoding, with a speed-up of 1.",
    ("best_K, best = 0, 1.0", "best_K, best = 0, 0.0"),
    ("enumerate(verify):", "list(enumerate(verify))[min(1, len(verify) - 1) :]:"),
)
slip(
    "K is a count of slots",
    "**K + 1** is returned, the tokens in the pass. Asked for is the number of drafted tokens.",
    ("return best_K, best", "return best_K + 1, best"),
)
slip(
    "the last speed-up",
    "The speed-up of the **longest** draft is returned, not that of the best.",
    ("return best_K, best", "return best_K, speed_up"),
)
slip(
    "tokens instead of speed-up",
    "The **tokens per pass** of the best draft are returned. Divide them by their time.",
    ("return best_K, best", "return best_K, sum(alpha**i for i in range(best_K + 1))"),
)
slip(
    "in per cent",
    "The speed-up is given **as a gain** over plain decoding, 0 for none. Asked for is the ratio.",
    ("return best_K, best", "return best_K, best - 1"),
)


@mistake(
    "The pass over K + 1 tokens is looked up at **K − 1** in `verify`: its entry K is the pass "
    "with K drafted tokens, and entry 0 a plain step.",
    name="times of a shorter pass",
)
def shorter_pass(alpha, verify, draft):
    return best_draft(alpha, [verify[0], *verify[:-1]], draft)


BEST_DRAFT = Exercise.of(
    __name__,
    "14.3 best draft",
    title="How many tokens to draft",
    section=PAYS,
)

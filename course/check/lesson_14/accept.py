"""Exercise 14.1: which guesses stay, and what takes the place of the first that does not."""

import torch

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, mistake, right, slip

RULE = "3 · Accept or resample"


@right
def accept(guess, p, q, u):
    for i, x in enumerate(guess):
        if u[i] * q[i, x] >= p[i, x]:
            left = (p[i] - q[i]).clamp(min=0)
            break
    else:
        i, left = len(guess), p[len(guess)]
    total = left.cumsum(0)
    last = int((total <= u[-1] * total[-1]).sum())
    return [*guess[:i], last]


@also_right
def by_steps(guess, p, q, u):
    """Token by token, with a ratio, and a walk along the probabilities."""
    tokens = []
    left = p[-1]
    for i, x in enumerate(guess):
        if q[i, x] > 0 and float(u[i]) >= float(p[i, x] / q[i, x]):
            left = torch.where(p[i] > q[i], p[i] - q[i], torch.zeros_like(p[i]))
            break
        tokens.append(x)
    left = (left / left.sum()).tolist()
    reached, last = left[0], 0
    while reached <= float(u[-1]) and last + 1 < len(left):
        last += 1
        reached += left[last]
    return [*tokens, last]


@also_right
def by_searching(guess, p, q, u):
    """All ratios at once."""
    n = len(guess)
    at = torch.arange(n)
    x = torch.tensor(guess, dtype=torch.int64)
    refused = (u[:n] * q[at, x] >= p[at, x]).nonzero()[:, 0].tolist()
    i = refused[0] if refused else n
    left = (p[i] - q[i]).clamp(min=0) if refused else p[i]
    cumulated = left.cumsum(0) / left.sum()
    return [*guess[:i], int(torch.searchsorted(cumulated, u[-1], right=True))]


def distributions(rng, rows, V):
    """Random probabilities (rows, V), none of them tiny."""
    return torch.softmax(torch.randn(rows, V, generator=rng, dtype=torch.float64), -1)


def seen(answer, guess, p, q, u):
    """Ask, and compare with what the rule gives."""
    wanted = accept(list(guess), p, q, u)
    told = f"guess {guess}, p {shown(p)}, q {shown(q)}, u {shown(u)}"
    return Seen.of(answer, (list(guess), p, q, u), wanted=wanted, given=told)


def shown(x):
    return [[round(b, 2) for b in a] for a in x.tolist()] if x.ndim == 2 else [
        round(a, 2) for a in x.tolist()]  # fmt: skip


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float64)


@holds("the lesson's a, b and c: c is kept a third of the time")
def by_hand(answer, rng):
    p, q = tensor([0.5, 0.3, 0.2], [0.1, 0.2, 0.7]), tensor([0.2, 0.2, 0.6])
    asked = [([2], (0.3, 0.5), [2, 2]), ([2], (0.4, 0.5), [0]), ([2], (0.4, 0.8), [1]),
             ([0], (0.9, 0.05), [0, 0])]  # fmt: skip
    return [
        Seen.of(
            answer, (list(guess), p, q, torch.tensor(u, dtype=torch.float64)), wanted=wanted,
            given=f"guess {guess}, p {shown(p)}, q {shown(q)}, u {list(u)}",
        )
        for guess, u, wanted in asked
    ]  # fmt: skip


@holds("every guess is kept, and one token comes on top")
def all_kept(answer, rng):
    n, V = integer(rng, 2, 4), 5
    p, q = distributions(rng, n + 1, V), distributions(rng, n, V)
    guess = (p[:n] - q).argmax(1).tolist()  # where p > q nothing is refused
    u = torch.rand(n + 1, generator=rng, dtype=torch.float64)
    return [seen(answer, guess, p, q, torch.cat((u[:-1], tensor(last)))) for last in (0.05, 0.95)]


@holds("the first guess is refused: all the others are lost")
def first_refused(answer, rng):
    n, V = integer(rng, 2, 3), 5
    p, q = distributions(rng, n + 1, V), distributions(rng, n, V)
    guess = [int((q[0] - p[0]).argmax()), *(p[1:n] - q[1:]).argmax(1).tolist()]
    u = torch.cat((tensor(0.999), torch.rand(n, generator=rng, dtype=torch.float64)))
    return seen(answer, guess, p, q, u)


@holds("the third of four is refused; the fourth would have been right")
def one_in_the_middle(answer, rng):
    n, V = 4, 6
    p, q = distributions(rng, n + 1, V), distributions(rng, n, V)
    guess = (p[:n] - q).argmax(1).tolist()
    guess[2] = int((q[2] - p[2]).argmax())
    found = []
    for last in (0.1, 0.5, 0.9):
        u = torch.rand(n + 1, generator=rng, dtype=torch.float64)
        u[2], u[-1] = 0.999, last
        found.append(seen(answer, guess, p, q, u))
    return found


@holds("an empty guess: one token, drawn from p")
def nothing_guessed(answer, rng):
    p, u = distributions(rng, 1, 4), torch.rand(1, generator=rng, dtype=torch.float64)
    return seen(answer, [], p, torch.empty(0, 4, dtype=torch.float64), u)


@holds("u is exactly where one token ends: the next one is drawn")
def on_the_edge(answer, rng):
    p, none = tensor([0.25, 0.5, 0.25]), torch.empty(0, 3, dtype=torch.float64)
    return [seen(answer, [], p, none, tensor(u)) for u in (0.25, 0.75, 0.0)]


@holds("a guess that the model never says, and one that it always says")
def never_and_always(answer, rng):
    p, q = tensor([0.0, 0.6, 0.4], [0.3, 0.3, 0.4]), tensor([0.7, 0.2, 0.1])
    sure = tensor([0.0, 0.0, 1.0], [0.2, 0.8, 0.0])
    return [
        seen(answer, [0], p, q, torch.tensor([0.0, 0.7], dtype=torch.float64)),
        seen(answer, [2], sure, q, torch.tensor([0.999, 0.5], dtype=torch.float64)),
    ]


@holds("a draft that is sure of its token: q is 1 there")
def sure(answer, rng):
    p = distributions(rng, 2, 4)
    x = integer(rng, 0, 3)
    q = torch.eye(4, dtype=torch.float64)[[x]]
    found = []
    for first in (0.9 * float(p[0, x]), 1 - 0.5 * (1 - float(p[0, x]))):
        u = torch.tensor([first, float(torch.rand((), generator=rng))], dtype=torch.float64)
        found.append(seen(answer, [x], p, q, u))
    return found


@holds("twelve drafts, drawn from q")
def drawn(answer, rng):
    found = []
    for _ in range(12):
        n, V = integer(rng, 1, 4), integer(rng, 3, 6)
        p, q = distributions(rng, n + 1, V), distributions(rng, n, V)
        guess = torch.multinomial(q, 1, generator=rng)[:, 0].tolist()
        found.append(
            seen(answer, guess, p, q, torch.rand(n + 1, generator=rng, dtype=torch.float64))
        )
    return found


slip(
    "drawn from p",
    "After a refusal the token is drawn **from p itself**. Then the tokens that the draft says too "
    "often come too often: draw from what p has and q lacks.",
    ("(p[i] - q[i]).clamp(min=0)", "p[i]"),
)
slip(
    "negative probabilities",
    "After a refusal p − q is used **with its negative numbers**. Where the draft says a token too "
    "often nothing is missing: take 0 there.",
    (".clamp(min=0)", ""),
)
slip(
    "absolute difference",
    "What is drawn from is **|p − q|**. Tokens that the draft says too often are not missing; only "
    "where p is larger is there something to make up for.",
    ("(p[i] - q[i]).clamp(min=0)", "(p[i] - q[i]).abs()"),
)
slip(
    "q minus p",
    "The difference is taken the **wrong way round**: q − p is what the draft has too much of.",
    ("(p[i] - q[i])", "(q[i] - p[i])"),
)
slip(
    "without the guess",
    "After a refusal you draw from **p without the refused token**. That is right only for a draft "
    "that is sure (q = 1 there); in general subtract all of q.",
    ("(p[i] - q[i]).clamp(min=0)", "p[i].index_fill(0, torch.tensor(x), 0.0)"),
)
slip(
    "ratio upside down",
    "The guess is kept with probability **q / p**. It must be p / q: where the draft says a token "
    "too often, some are refused.",
    ("u[i] * q[i, x] >= p[i, x]", "u[i] * p[i, x] >= q[i, x]"),
)
slip(
    "q left out",
    "The guess is kept with probability **p(x)**, without dividing by q(x). It was drawn from q, "
    "so it comes with probability q(x) already.",
    ("u[i] * q[i, x] >= p[i, x]", "u[i] >= p[i, x]"),
)
slip(
    "kept only where p is larger",
    "A guess is refused **whenever q(x) > p(x)**. Refuse it only sometimes then: keep it with "
    "probability p(x) / q(x).",
    ("u[i] * q[i, x] >= p[i, x]", "q[i, x] > p[i, x]"),
)
slip(
    "only the likeliest",
    "A guess is kept only if it is the model's **likeliest** token. That is the rule of "
    "temperature 0; other tokens are answers, too.",
    ("u[i] * q[i, x] >= p[i, x]", "x != int(p[i].argmax())"),
)
slip(
    "refused and kept swapped",
    "Kept and refused are **swapped**: with u · q(x) < p(x) the guess stays.",
    ("u[i] * q[i, x] >= p[i, x]", "u[i] * q[i, x] < p[i, x]"),
)
slip(
    "one row late",
    "The guess is compared with the **next row** of p. Row i is what the model says in the place "
    "of guess i.",
    ("u[i] * q[i, x] >= p[i, x]", "u[i] * q[i, x] >= p[i + 1, x]"),
)
slip(
    "the refused one stays",
    "The refused guess **stays in the text**. Its place is taken by the token that is drawn.",
    ("return [*guess[:i], last]", "return [*guess[: i + 1], last]"),
)
slip(
    "the last one is lost",
    "The **last kept guess** is missing from the text.",
    ("return [*guess[:i], last]", "return [*guess[: max(0, i - 1)], last]"),
)
slip(
    "only the new token",
    "Only the **drawn token** is returned. The guesses that were kept come before it.",
    ("return [*guess[:i], last]", "return [last]"),
)
slip(
    "no token on top",
    "When every guess was kept, **no token comes after them**. The last row of p gives one more: "
    "the pass has computed it anyway.",
    ("return [*guess[:i], last]", "return [*guess[:i], *[last] * (i < len(guess) or not guess)]"),
)
slip(
    "on top from the wrong row",
    "When every guess was kept, the token on top is drawn from the row **of the last guess**. The "
    "one behind it, row K, is the last of p.",
    ("i, left = len(guess), p[len(guess)]", "i, left = len(guess), p[max(0, len(guess) - 1)]"),
)
slip(
    "not normalised",
    "What is left after a refusal adds up to **less than 1**, and the draw takes it for 1: the "
    "last tokens come too often. Divide by the sum, or multiply u by it.",
    ("u[-1] * total[-1]", "u[-1]"),
    ("int((total", "min(len(total) - 1, int((total"),
    (").sum())", ").sum()))"),
)
slip(
    "the likeliest instead of a draw",
    "The last token is the **likeliest** one of what is left. It must be drawn, with u[-1].",
    ("int((total <= u[-1] * total[-1]).sum())", "int(left.argmax())"),
)
slip(
    "one token off",
    "The drawn token is **one too small**: it is the first whose cumulated probability exceeds u.",
    ("total[-1]).sum())", "total[-1]).sum()) - 1"),
)
slip(
    "drawn backwards",
    "The draw goes through the tokens **from the last to the first**. Cumulate from token 0 on.",
    ("left.cumsum(0)", "left.flip(0).cumsum(0)"),
)
slip(
    "one u for all",
    "Every guess is judged by **u[0]**. Each has its own number: with the same one, decisions are "
    "not independent.",
    ("u[i] * q", "u[0] * q"),
)
slip(
    "u used twice",
    "The last token is drawn with **the u that has just refused a guess**. That one is known to be "
    "large; take u[-1].",
    ("u[-1] * total", "u[min(i, len(guess) - 1)] * total"),
)
slip(
    "1 − u",
    "The last token is drawn with **1 − u[-1]**: it is the first whose cumulated probability "
    "exceeds u[-1].",
    ("u[-1] * total[-1]", "(1 - u[-1]) * total[-1]"),
)
slip(
    "q of the first guess",
    "The difference is taken with **row 0 of q**. Each guess was drawn from a row of its own.",
    ("(p[i] - q[i])", "(p[i] - q[0])"),
)


@mistake(
    "After a refusal the **later guesses are still looked at**, and kept. They follow a token that "
    "is not in the text: stop at the first refusal.",
    name="goes on after a refusal",
)
def goes_on(guess, p, q, u):
    tokens = []
    for i, x in enumerate(guess):
        if u[i] * q[i, x] < p[i, x]:
            tokens.append(x)
            continue
        total = (p[i] - q[i]).clamp(min=0).cumsum(0)
        tokens.append(int((total <= u[-1] * total[-1]).sum()))
    total = p[-1].cumsum(0)
    return [*tokens, int((total <= u[-1] * total[-1]).sum())]


@mistake(
    "The result is **not a list of tokens** alone. Asked for are the kept guesses and the new "
    "token, as one list.",
    name="a pair",
)
def a_pair(guess, p, q, u):
    *kept, last = accept(guess, p, q, u)
    return kept, last


ACCEPT = Exercise.of(
    __name__,
    "14.1 accept",
    title="Accept or resample",
    section=RULE,
)

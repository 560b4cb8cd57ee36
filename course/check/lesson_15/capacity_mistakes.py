"""More of how people get exercise 15.3 wrong: averages, prefills, and which n the rate is of."""

from course.check.spec import slip

PLAN = "8 · How many, and how fast"
EACH = "-(-(prompt + answer - 1) // page_size)"
MEAN = "(prompt + answer / 2)"
RATE = "n / ((answer - 1) * tpot(n))"
GIVEN = "return n, rate"
LOWERED = "    while n > 0 and tpot(n) > tpot_limit:\n        n -= 1\n"

slip(
    "rounded up",
    "The number of requests is **rounded up**: the last one has no room at its end.",
    ("n = pages // " + EACH, "n = -(-pages // " + EACH + ")"),
)
slip(
    "half of everything",
    "A request is taken to have **half** of prompt and answer in the cache. The prompt is there "
    "from the beginning; only the answer grows.",
    (MEAN, "((prompt + answer) / 2)"),
    see=PLAN,
)
slip(
    "whole tokens on average",
    "The average is rounded to **whole tokens**: answer // 2. An average may be a fraction.",
    (MEAN, "(prompt + answer // 2)"),
    see=PLAN,
)
slip(
    "the answer less one",
    "On average **(answer − 1) / 2** tokens of the answer are counted. The steps read 1, 2, … up "
    "to answer − 1 of them: answer / 2 on average.",
    (MEAN, "(prompt + (answer - 1) / 2)"),
    see=PLAN,
)
slip(
    "prefills over all tokens",
    "The prefills are spread over **answer** steps. There are answer − 1: the first token comes "
    "from the prefill.",
    ("prefills / (answer - 1)", "prefills / answer"),
    see=PLAN,
)
slip(
    "the others' prefills",
    "**n − 1** prefills are counted. The plan counts one for each of the n, the request's own "
    "included.",
    ("n * (prompt / prefill_speed)", "(n - 1) * (prompt / prefill_speed)"),
    see=PLAN,
)
slip(
    "the rate over all tokens",
    "The rate is n / (**answer** · TPOT). A request stays for answer − 1 steps.",
    (RATE, "n / (answer * tpot(n))"),
    see=PLAN,
)
slip(
    "its prefill twice",
    "The request's own prefill is **added** to its stay. TPOT(n) has all n prefills already.",
    (RATE, "n / ((answer - 1) * tpot(n) + prompt / prefill_speed)"),
    see=PLAN,
)
slip(
    "the rate of those who fit",
    "The rate is that of all requests that **fit**, not of those that run under the limit.",
    ("    while n > 0", "    fit = n\n    while n > 0"),
    (RATE, "fit / ((answer - 1) * tpot(fit))"),
    see=PLAN,
)
slip(
    "all or nothing",
    "If those who fit exceed the limit, **none** runs. Take as many as keep to it.",
    (LOWERED, "    if n > 0 and tpot(n) > tpot_limit:\n        n = 0\n"),
    see=PLAN,
)
slip(
    "never below one",
    "Where even a single request is too slow, **one** runs all the same. It should be 0.",
    ("while n > 0 and", "while n > 1 and"),
    see=PLAN,
)
slip(
    "requests in floats",
    "The number of requests is right, but a **float**. Requests are whole.",
    (GIVEN, "return float(n), rate"),
)
slip(
    "the limit on the whole answer",
    "The limit is held against the time of the **whole answer**. It is for one token.",
    ("tpot(n) > tpot_limit", "(answer - 1) * tpot(n) > tpot_limit"),
    see=PLAN,
)
slip(
    "pages for prompt and answer apart",
    "Prompt and answer are given pages **of their own**. They lie one after the other: the answer "
    "begins on the prompt's last page.",
    (EACH, "(-(-prompt // page_size) + -(-(answer - 1) // page_size))"),
    see=PLAN,
)
slip(
    "the rate first",
    "The two results are **swapped**: the number of requests comes first.",
    (GIVEN, "return rate, n"),
)
slip(
    "the number alone",
    "Only the **number** is returned. The rate is asked for, too.",
    (GIVEN, "return n"),
)

"""Exercise 7.1: how many programs a decode step has, and how they fill the SMs."""

import math

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip
from course.hardware import schedule, utilisation

NAMES = ("programs", "waves", "tail", "utilisation")
HEADS = "2 · 32 heads on 108 SMs"


@right
def sm_load(B, Hq, Hkv, sms, packed):
    programs = B * (Hkv if packed else Hq)
    waves = math.ceil(programs / sms)
    tail = programs % sms  # 0 where the last wave is full
    return programs, waves, tail, programs / (waves * sms)


@also_right
def dealt_out(B, Hq, Hkv, sms, packed):
    """Deals the programs out and sees which SM has which."""
    programs = B * (Hkv if packed else Hq)
    runs = schedule([1.0] * programs, sms=sms)
    waves = len({run.start for run in runs})
    last = sum(run.start == waves - 1 for run in runs)
    return programs, waves, last if last < sms else 0, utilisation(runs, sms)


def seen(answer, *call):
    # a share is at most 1; a few fp32 roundings (6e-8 each), in case it is computed in fp32
    return Seen.of(answer, call, wanted=dealt_out(*call), names=NAMES, atol=2e-7, rtol=0)


@holds("10 programs on 4 SMs, 32 on 108, 4 on 4")
def by_hand(answer, rng):
    cases = ((1, 10, 10, 4), (1, 32, 32, 108), (2, 2, 2, 4))
    return [seen(answer, *case, False) for case in cases]


@holds("fewer than SMs")
def few_programs(answer, rng):
    heads = integer(rng, 2, 32)
    return seen(answer, 1, heads, heads, integer(rng, 80, 150), False)


@holds("G > 1, packed and not", see=HEADS)
def grouped(answer, rng):
    Hkv, G, sms = integer(rng, 5, 9), integer(rng, 2, 8), integer(rng, 10, 40)
    return [seen(answer, 1, G * Hkv, Hkv, sms, packed) for packed in (False, True)]


@holds("several users, packed and not")
def batch(answer, rng):
    B, sms = integer(rng, 3, 9), integer(rng, 5, 17)
    packed = seen(answer, B, 24, 3, sms, True)
    return [seen(answer, B, 8, 8, sms, False), packed]


@holds("several waves and a tail")
def many_programs(answer, rng):
    sms = integer(rng, 6, 20)
    return seen(answer, integer(rng, 2, 4), sms + integer(rng, 1, 5), 1, sms, False)


@holds("the programs fill every wave")
def no_tail(answer, rng):
    sms, waves = integer(rng, 4, 30), integer(rng, 1, 4)
    return seen(answer, waves, sms, sms, sms, False)


@holds("one program more than SMs")
def one_too_many(answer, rng):
    sms = integer(rng, 4, 30)
    return seen(answer, 1, sms + 1, 1, sms, False)


@holds("programs, waves and tail are ints")
def counts(answer, rng):
    B, heads, sms = integer(rng, 1, 4), integer(rng, 3, 40), integer(rng, 4, 30)
    calls = (B, heads, heads, sms, False), (B, sms, 1, sms, False), (2 * sms, 8, 2, sms, True)
    return [types(answer, *call) for call in calls]


def types(answer, B, Hq, Hkv, sms, packed):
    load = answer(B, Hq, Hkv, sms, packed)
    given = f"{B = }, {Hq = }, {Hkv = }, {sms = }, {packed = }; the types of programs, waves, tail"
    if not isinstance(load, (tuple, list)):
        return Seen(load, dealt_out(B, Hq, Hkv, sms, packed), given, names=NAMES)
    return Seen([type(x).__name__ for x in load[:3]], ["int", "int", "int"], given)


slip(
    "always query heads",
    "`packed` makes no difference in your answer. When packed, the query heads of a group share "
    "one program, so there is one program per KV head.",
    ("Hkv if packed else Hq", "Hq"),
    see=HEADS,
)
slip(
    "group size",
    "When packed, you count Hq / Hkv programs. That is how many query heads are **in** one "
    "program; there are as many programs as groups.",
    ("Hkv if packed", "Hq // Hkv if packed"),
    see=HEADS,
)
slip(
    "rounded down",
    "The waves are rounded **down**. A wave that is not full takes just as long, and with fewer "
    "programs than SMs there is one wave, not none.",
    ("math.ceil(programs / sms)", "programs // sms"),
)
slip(
    "one too many",
    "One wave too many if the programs come out even: 8 programs on 4 SMs are 2 waves. Dividing "
    "with // and adding 1 is not rounding up.",
    ("math.ceil(programs / sms)", "programs // sms + 1"),
)
slip(
    "not rounded",
    "The waves are not rounded up. There is no such thing as half a wave: SMs without a program in "
    "it wait for those that have one. Without rounding, no SM would ever be idle, and the "
    "utilisation would always be 1.",
    ("math.ceil(programs / sms)", "programs / sms"),
)
slip(
    "no tail in one wave",
    "With fewer programs than SMs your tail is 0. The only wave is also the last one: if it leaves "
    "an SM idle, its programs are the tail.",
    ("programs % sms", "programs % sms if waves > 1 else 0"),
)
slip(
    "full wave as tail",
    "If the last wave is full, there is no tail: return 0, not the number of SMs.",
    ("programs % sms", "programs - (waves - 1) * sms"),
)
slip(
    "tail, yes or no",
    "Your tail says whether there is one. Return how many programs are in it, as an int.",
    ("programs % sms", "programs % sms > 0"),
)
slip(
    "more than all",
    "With several waves your utilisation is above 1: programs / SMs leaves out the number of "
    "waves, and every wave adds to the SMs' time.",
    ("(waves * sms)", "sms"),
)
slip(
    "rounded share",
    "The utilisation is rounded. Return what the division gives, and round only when you print it.",
    ("programs / (waves * sms)", "round(programs / (waves * sms), 3)"),
)
slip(
    "packed users share",
    "When packed, the **users** share their programs in your answer. Only query heads of one user "
    "can share: every user has keys of their own.",
    ("B * (Hkv if packed else Hq)", "Hkv if packed else B * Hq"),
)
slip(
    "no users",
    "B does not appear: every user has programs of their own.",
    ("B * (Hkv if packed else Hq)", "Hkv if packed else Hq"),
)
slip(
    "packed or not, upside down",
    "`packed` works the wrong way round. When packed, there is one program per **KV** head; "
    "otherwise one per query head.",
    ("Hkv if packed else Hq", "Hq if packed else Hkv"),
    see=HEADS,
)
slip(
    "always KV heads",
    "`packed` makes no difference: there is always one program per **KV** head in your answer. "
    "When not packed, every query head has its own.",
    ("Hkv if packed else Hq", "Hkv"),
    see=HEADS,
)
slip(
    "waves as a float",
    "The numbers are right, but `waves` is a **float**. It is a count: return an int.",
    ("waves = math.ceil(programs / sms)", "waves = float(math.ceil(programs / sms))"),
)
slip(
    "tail as a float",
    "The numbers are right, but `tail` is a **float**. It is a count: return an int.",
    ("programs % sms", "float(programs % sms)"),
)
slip(
    "no tail as False",
    "Where there is no tail, yours is **False** (or another value that stands for nothing). It is "
    "a count: return the int 0.",
    ("programs % sms", "programs % sms or False"),
)
slip(
    "idle SMs as tail",
    "Your tail counts the SMs that are **idle** in the last wave. Count the programs in it.",
    ("programs % sms", "-programs % sms"),
)
slip(
    "rounded to the nearest",
    "The waves are rounded **to the nearest**. A wave with few programs takes just as long as a "
    "full one: round up.",
    ("math.ceil(programs / sms)", "max(1, round(programs / sms))"),
)
slip(
    "one wave at least",
    "The waves are rounded **down**, but to one at least. What is left over takes a wave of its "
    "own: round up.",
    ("math.ceil(programs / sms)", "max(1, programs // sms)"),
)
slip(
    "waves per user",
    "The waves are counted **for each user** and added. Programs of several users share a wave.",
    ("math.ceil(programs / sms)", "B * math.ceil(programs / B / sms)"),
)
slip(
    "last wave alone",
    "The utilisation is that of the **last wave**. The full waves before it count as well.",
    ("programs / (waves * sms)", "(tail or sms) / sms"),
)
slip(
    "capped at 1",
    "With several waves your utilisation is 1: programs / SMs leaves out the number of waves, and "
    "**capping it** hides that.",
    ("programs / (waves * sms)", "min(1.0, programs / sms)"),
)
slip(
    "idle share",
    "This is the share of the time in which the SMs are **idle**. Return the share that is used.",
    ("programs / (waves * sms)", "1 - programs / (waves * sms)"),
)

LOAD = Exercise.of(
    __name__, "7.1 SM load", title="Who has work?", section="1 · Four SMs, a handful of programs"
)

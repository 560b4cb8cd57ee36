"""Exercise 7.1: how many programs a decode step has, and how they fill the SMs."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Generator

from course.check.draw import integer
from course.check.spec import Exercise, Mistake, Property, Seen
from course.hardware import schedule, utilisation

NAMES = ("programs", "waves", "tail", "utilisation")
Load = tuple[int, int, int, float]


def dealt_out(B: int, Hq: int, Hkv: int, sms: int, packed: bool) -> Load:
    """Another right answer: deal the programs out and see which SM has which."""
    programs = B * (Hkv if packed else Hq)
    runs = schedule([1.0] * programs, sms=sms)
    waves = len({run.start for run in runs})
    last = sum(run.start == waves - 1 for run in runs)
    return programs, waves, last if last < sms else 0, utilisation(runs, sms)


def _seen(answer: Callable, B: int, Hq: int, Hkv: int, sms: int, packed: bool) -> Seen:
    wanted = dealt_out(B, Hq, Hkv, sms, packed)
    # a share is at most 1; a few fp32 roundings (6e-8 each), in case it is computed in fp32
    return Seen.of(answer, (B, Hq, Hkv, sms, packed), wanted=wanted, names=NAMES, atol=1e-6, rtol=0)


def _by_hand(answer: Callable, rng: Generator) -> list[Seen]:
    cases = ((1, 10, 10, 4), (1, 32, 32, 108), (2, 2, 2, 4))
    return [_seen(answer, *case, False) for case in cases]


def _few(answer: Callable, rng: Generator) -> Seen:
    heads = integer(rng, 2, 32)
    return _seen(answer, 1, heads, heads, integer(rng, 80, 150), False)


def _grouped(answer: Callable, rng: Generator) -> list[Seen]:
    Hkv, G, sms = integer(rng, 5, 9), integer(rng, 2, 8), integer(rng, 10, 40)
    return [_seen(answer, 1, G * Hkv, Hkv, sms, packed) for packed in (False, True)]


def _batch(answer: Callable, rng: Generator) -> Seen:
    return _seen(answer, integer(rng, 3, 9), 8, 8, integer(rng, 5, 17), False)


def _many(answer: Callable, rng: Generator) -> Seen:
    sms = integer(rng, 6, 20)
    return _seen(answer, integer(rng, 2, 4), sms + integer(rng, 1, 5), 1, sms, False)


def _exactly(answer: Callable, rng: Generator) -> Seen:
    sms, waves = integer(rng, 4, 30), integer(rng, 1, 4)
    return _seen(answer, waves, sms, sms, sms, False)


def _one_more(answer: Callable, rng: Generator) -> Seen:
    sms = integer(rng, 4, 30)
    return _seen(answer, 1, sms + 1, 1, sms, False)


def _types(answer: Callable, rng: Generator) -> Seen:
    B, heads, sms = integer(rng, 1, 4), integer(rng, 3, 40), integer(rng, 4, 30)
    load = answer(B, heads, heads, sms, False)
    given = f"B = {B}, Hq = Hkv = {heads}, sms = {sms}; the types of programs, waves and tail"
    if not isinstance(load, (tuple, list)):
        return Seen(load, dealt_out(B, heads, heads, sms, False), given, names=NAMES)
    return Seen([type(x).__name__ for x in load[:3]], ["int", "int", "int"], given)


def load(
    B: int, Hq: int, Hkv: int, sms: int, packed: bool, wrong: str = ""
) -> tuple[int, float, int, float]:
    """The load of the SMs, with at most one catalogued fault."""
    heads = Hkv if packed else Hq
    if wrong == "always query heads":
        heads = Hq
    if wrong == "group size" and packed:
        heads = Hq // Hkv
    programs = B * heads
    waves = {
        "rounded down": programs // sms,
        "one too many": programs // sms + 1,
        "not rounded": programs / sms,
    }.get(wrong, math.ceil(programs / sms))
    tail = programs % sms
    if wrong == "no tail in one wave" and waves == 1:
        tail = 0
    if wrong == "full wave as tail":
        tail = programs - (waves - 1) * sms
    if wrong == "tail, yes or no":
        tail = tail > 0
    used = programs / sms if wrong == "more than all" else programs / (sms * waves)
    return programs, waves, tail, round(used, 3) if wrong == "rounded share" else used


def _fault(name: str) -> Callable:
    def wrong_load(B, Hq, Hkv, sms, packed):
        return load(B, Hq, Hkv, sms, packed, wrong=name)

    return wrong_load


HEADS = "2 · 32 heads on 108 SMs"
TOLD = (
    (
        "always query heads",
        "`packed` makes no difference in your answer. When packed, the query heads of a group "
        "share one program, so there is one program per KV head.",
        HEADS,
    ),
    (
        "group size",
        "When packed, you count Hq / Hkv programs. That is how many query heads are **in** one "
        "program; there are as many programs as groups.",
        HEADS,
    ),
    (
        "rounded down",
        "The waves are rounded **down**. A wave that is not full takes just as long, and with "
        "fewer programs than SMs there is one wave, not none.",
        "",
    ),
    (
        "one too many",
        "One wave too many if the programs come out even: 8 programs on 4 SMs are 2 waves. "
        "Dividing with // and adding 1 is not rounding up.",
        "",
    ),
    (
        "not rounded",
        "The waves are not rounded up. There is no such thing as half a wave: SMs without a "
        "program in it wait for those that have one. Without rounding, no SM would ever be idle, "
        "and the utilisation would always be 1.",
        "",
    ),
    (
        "no tail in one wave",
        "With fewer programs than SMs your tail is 0. The only wave is also the last one: if it "
        "leaves an SM idle, its programs are the tail.",
        "",
    ),
    (
        "full wave as tail",
        "If the last wave is full, there is no tail: return 0, not the number of SMs.",
        "",
    ),
    (
        "tail, yes or no",
        "Your tail says whether there is one. Return how many programs are in it, as an int.",
        "",
    ),
    (
        "more than all",
        "With several waves your utilisation is above 1: programs / SMs leaves out the number of "
        "waves, and every wave adds to the SMs' time.",
        "",
    ),
    (
        "rounded share",
        "The utilisation is rounded. Return what the division gives, and round only when you "
        "print it.",
        "",
    ),
)

LOAD = Exercise(
    id="7.1",
    name="SM load",
    title="Who has work?",
    section="1 · Four SMs, a handful of programs",
    solution_name="sm_load",
    properties=(
        Property("by hand", "10 programs on 4 SMs, 32 on 108, 4 on 4", _by_hand),
        Property("few programs", "fewer than SMs", _few),
        Property("grouped", "G > 1, packed and not", _grouped, see=HEADS),
        Property("batch", "several users", _batch),
        Property("many programs", "several waves and a tail", _many),
        Property("no tail", "the programs fill every wave", _exactly),
        Property("one too many", "one program more than SMs", _one_more),
        Property("counts", "programs, waves and tail are ints", _types),
    ),
    mistakes=tuple(Mistake(name, says, _fault(name), see) for name, says, see in TOLD),
    alternative=dealt_out,
)

"""Exercise 7.2: the time of one decode step, predicted from its shapes."""

import math

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip
from course.hardware import makespan, schedule

# sms, bandwidth in GB/s, launch in µs
SMALL, LARGE = (10, 1000.0, 5.0), (108, 1800.0, 10.0)
WAVES = "1 · Four SMs, a handful of programs"


@right
def predict_us(B, Hq, Lk, D, bytes_each, sms, bandwidth, launch_us):
    drawn = 2 * Lk * D * bytes_each  # K and V of one program, bytes
    share = bandwidth * 1e3 / sms  # of one SM, bytes a µs
    fullest = math.ceil(B * Hq / sms)
    return launch_us + fullest * drawn / share


@also_right
def by_schedule(B, Hq, Lk, D, bytes_each, sms, bandwidth, launch_us):
    """Times one program in seconds, deals all of them out, waits for the last."""
    elements = sum(Lk * D for _ in ("K", "V"))
    seconds = elements * bytes_each / (bandwidth * 1e9 / sms)
    return launch_us + 1e6 * makespan(schedule([seconds] * (B * Hq), sms=sms))


def seen(answer, shape, gpu):
    wanted = by_schedule(*shape, *gpu)
    # about ten fp32 roundings (6e-8 each), in case an answer computes in it
    return Seen.of(answer, (*shape, *gpu), wanted=wanted, atol=0.0, rtol=1e-6)


@holds("the two examples of the table")
def by_hand(answer, rng):
    return [seen(answer, (1, heads, 1000, 50, 2), SMALL) for heads in (4, 11)]


@holds("fewer programs than SMs, a long context")
def one_wave(answer, rng):
    return seen(answer, (1, integer(rng, 4, 64), 64 * integer(rng, 64, 999), 128, 2), LARGE)


@holds("exactly as many programs as SMs", see=WAVES)
def all_SMs(answer, rng):
    sms = integer(rng, 4, 40)
    return seen(answer, (1, sms, 64 * integer(rng, 9, 99), 64, 2), (sms, 900.0, 8.0))


@holds("more programs than SMs, but not a multiple", see=WAVES)
def a_tail(answer, rng):
    return seen(answer, (integer(rng, 7, 10), 32, 64 * integer(rng, 64, 999), 128, 2), LARGE)


@holds("1 and 4 bytes per number")
def bytes_each(answer, rng):
    Lk = 64 * integer(rng, 64, 999)
    return [seen(answer, (1, 8, Lk, 64, each), (40, 320.0, 6.0)) for each in (1, 4)]


@holds("the launch is almost everything")
def short(answer, rng):
    return seen(answer, (1, 32, integer(rng, 1, 64), 128, 2), (132, 4000.0, integer(rng, 5, 20)))


@holds("other SMs, bandwidths, launches")
def any_GPU(answer, rng):
    gpu = integer(rng, 40, 304), 100.0 * integer(rng, 3, 80), float(integer(rng, 2, 12))
    return seen(answer, (integer(rng, 1, 9), 16, 4096, 128, 2), gpu)


slip(
    "whole bandwidth",
    "A program is given the **whole** bandwidth. Its SM draws at most a share, the bandwidth "
    "divided by the number of SMs.",
    ("1e3 / sms", "1e3"),
)
slip(
    "shared by programs",
    "The bandwidth is divided by the number of **programs**. It is the SMs that each have a share, "
    "and an SM with a program draws no more just because its neighbours have none.",
    ("1e3 / sms", "1e3 / (B * Hq)"),
)
slip(
    "not rounded",
    "The programs are divided evenly over the SMs, as if a program could be cut into pieces: this "
    "is the roofline, the time with no SM idle. The fullest SM has a whole number of programs, and "
    "the step waits for it.",
    ("math.ceil(B * Hq / sms)", "B * Hq / sms"),
    see=WAVES,
)
slip(
    "one too many",
    "The fullest SM has one program too many if they come out even: 10 programs on 10 SMs are one "
    "each. Dividing with // and adding 1 is not rounding up.",
    ("math.ceil(B * Hq / sms)", "B * Hq // sms + 1"),
    see=WAVES,
)
slip(
    "batch in the bytes",
    "B is counted twice: it makes more programs, and each of your programs also reads the keys of "
    "all users. A program reads K and V of one head of one user.",
    ("2 * Lk", "2 * B * Lk"),
)
slip(
    "K alone", "Half the bytes are missing: a program reads keys **and** values.", ("2 * Lk", "Lk")
)
slip(
    "90 % again",
    "The factor of 90 % is applied again. `bandwidth` is already what can be reached; the one in "
    "the lesson's formula is the data sheet's.",
    ("bandwidth * 1e3", "0.9 * bandwidth * 1e3"),
)
slip(
    "nanoseconds",
    "The time spent reading is 1,000 times too long: bytes divided by GB/s give nanoseconds. 1 "
    "GB/s is 1,000 bytes per µs.",
    ("bandwidth * 1e3", "bandwidth"),
)
slip(
    "seconds and µs",
    "The time spent reading is in seconds, the launch in µs, and the two are added. 1 s is 10⁶ µs.",
    ("1e3", "1e9"),
)
slip(
    "in ms",
    "Your answer is in milliseconds. It should be in µs, like the launch.",
    ("launch_us + fullest * drawn / share", "(launch_us + fullest * drawn / share) / 1e3"),
)
slip(
    "in seconds",
    "Your answer is in seconds. It should be in µs, like the launch.",
    ("launch_us + fullest * drawn / share", "(launch_us + fullest * drawn / share) / 1e6"),
)
slip(
    "a launch per wave",
    "The launch is paid **for every wave**. There is one kernel, so there is one launch.",
    ("launch_us + fullest * drawn / share", "fullest * (launch_us + drawn / share)"),
    see=WAVES,
)
slip(
    "no launch",
    "The **launch** is missing: it comes once, before everything else.",
    ("launch_us + fullest", "fullest"),
)
slip(
    "shared by those that run",
    "The bandwidth is divided by the SMs **that have a program**. An SM draws at most one part in "
    "`sms`, also while its neighbours are idle.",
    ("1e3 / sms", "1e3 / min(sms, B * Hq)"),
)
slip(
    "no users",
    "B does not appear: every user has programs of their own.",
    ("B * Hq / sms", "Hq / sms"),
)
slip(
    "rounded per user",
    "The programs are rounded up to whole waves **for each user**. Those of several users share a "
    "wave: round up once, for all.",
    ("math.ceil(B * Hq / sms)", "B * math.ceil(Hq / sms)"),
    see=WAVES,
)
slip(
    "rounded down",
    "The programs of the fullest SM are rounded **down**. Those left over go to some SM too, and "
    "all wait for it; with fewer programs than SMs the fullest has one.",
    ("math.ceil(B * Hq / sms)", "max(1, B * Hq // sms)"),
    see=WAVES,
)
slip(
    "one after the other",
    "All programs run **one after the other** in your answer. Each SM has its own, and they run at "
    "the same time.",
    ("fullest * drawn", "B * Hq * drawn"),
    see=WAVES,
)
slip(
    "one wave always",
    "Only **one program** of the fullest SM is counted. With more programs than SMs it has "
    "several, one after the other.",
    ("fullest * drawn", "drawn"),
    see=WAVES,
)
slip(
    "2 bytes always",
    "The number of bytes is **fixed at 2**; it is `bytes_each`.",
    ("* bytes_each", "* 2"),
)
slip(
    "the larger of the two",
    "The launch and the reading are taken to **overlap**. The launch comes before everything else: "
    "add the two.",
    ("launch_us + fullest * drawn / share", "max(launch_us, fullest * drawn / share)"),
)
slip(
    "rounded time",
    "The time is rounded. Return what the formula gives, and round only when you print it.",
    ("launch_us + fullest * drawn / share", "round(launch_us + fullest * drawn / share, 2)"),
)

LATENCY = Exercise.of(
    __name__,
    "7.2 predict",
    title="How long will it take?",
    section="3 · An idle SM is lost bandwidth",
)

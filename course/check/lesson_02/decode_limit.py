"""Exercise 2.2: how many operations per byte decode does, and what it waits for."""

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip

RIDGE = "The ridge"


@right
def decode_limit(G, Lq, bytes_each, peak_tflops, bandwidth):
    intensity = 2 * G * Lq / bytes_each
    ridge = peak_tflops * 1000 / bandwidth  # 10¹² over 10⁹
    return intensity, "memory" if intensity < ridge else "arithmetic"


@also_right
def one_by_one(G, Lq, bytes_each, peak_tflops, bandwidth):
    """From the times for one KV head with a million keys of D = 128."""
    numbers = 2 * 10**6 * 128  # of K and V
    operations = sum(2 for _ in range(G * Lq)) * numbers
    moved = numbers * bytes_each
    longer = moved / (bandwidth * 1e9) > operations / (peak_tflops * 1e12)
    return operations / moved, "memory" if longer else "arithmetic"


def seen(answer, *args):
    # two divisions and two products: a few roundings of a float
    near, names = {"atol": 0.0, "rtol": 1e-12}, ("intensity", "limit")
    return Seen.of(answer, args, wanted=one_by_one(*args), names=names, **near)


@holds("G = 1, Lq = 1, 16 bits: one operation per byte")
def one_head(answer, rng):
    return seen(answer, 1, 1, 2, 100.0 * integer(rng, 3, 9), 1000.0 * integer(rng, 1, 4))


@holds("G query heads share each key")
def a_group(answer, rng):
    return seen(answer, integer(rng, 2, 16), 1, 2, 312.0, 2039.0)


@holds("Lq > 1, as when drafts are verified")
def several_queries(answer, rng):
    return seen(answer, integer(rng, 3, 8), integer(rng, 2, 9), 2, 312.0, 2039.0)


@holds("4 bytes and 1 byte per element")
def formats(answer, rng):
    G = integer(rng, 2, 8)
    return [seen(answer, G, 1, bytes_each, 67.0, 3350.0) for bytes_each in (4, 1)]


@holds("below it, on it, above it", see=RIDGE)
def near_the_ridge(answer, rng):
    """The ridge at 125 operations per byte, then a little higher: floats hold these exactly."""
    queries = 5 ** integer(rng, 0, 2)
    return [
        seen(answer, 125 // queries, queries, 2, 256.0, 2048.0),
        seen(answer, 125 // queries, queries, 2, 257.0, 2048.0),
        seen(answer, 126, 1, 2, 256.0, 2048.0),
    ]


@holds("a ridge of a few operations per byte", name="a CPU", see=RIDGE)
def this_cpu(answer, rng):
    """Ridges of 1 to 2.5 and of 0.25 operations per byte."""
    return [
        seen(answer, 8, 1, 4, 0.01 * integer(rng, 2, 5), 20.0),
        seen(answer, 1, 1, 4, 0.01, 40.0),
    ]


slip(
    "a multiply-add counted once",
    "The intensity is **half** of what it should be. A product and an addition are two "
    "operations for each element and query row; or, if you counted only K's operations, "
    "count only K's bytes, too.",
    ("2 * G", "G"),
)
slip(
    "bytes of K alone",
    "The intensity is **twice** what it should be: the operations of K and V, over the "
    "bytes of one of them.",
    ("2 * G", "4 * G"),
)
slip(
    "group forgotten",
    "G does not appear: a key that is read once is used by **all G query heads** that share it.",
    (" * G", ""),
)
slip(
    "queries forgotten",
    "Lq does not appear: a key that is read once is used by **all Lq new tokens**.",
    (" * Lq", ""),
)
slip(
    "bytes an operation",
    "The intensity is **upside down**: these are bytes per operation, not operations per byte.",
    ("2 * G * Lq / bytes_each", "bytes_each / (2 * G * Lq)"),
)
slip(
    "a thousand too small",
    "The intensities are right, but the verdicts are not: the ridge is **a thousand times** too "
    "low. peak_tflops is in 10¹² operations per second, bandwidth in 10⁹ bytes per second.",
    (" * 1000", ""),
    see=RIDGE,
)
slip(
    "ridge upside down",
    "The intensities are right, but the ridge is **upside down**: it is operations "
    "per second over bytes per second.",
    ("peak_tflops * 1000 / bandwidth", "bandwidth / (peak_tflops * 1000)"),
    see=RIDGE,
)
slip(
    "verdicts swapped",
    "The intensities are right, but the two verdicts are **swapped**: few operations per "
    "byte means waiting for memory.",
    ("intensity < ridge", "intensity >= ridge"),
    see=RIDGE,
)
slip(
    "always memory",
    'The intensities are right, but the verdict is **always** "memory". That is usual for '
    "decode, but not a law: compare the intensity with the device's ridge, and mind the "
    "units.",
    ("intensity < ridge", "True"),
    see=RIDGE,
)
slip(
    "on the ridge",
    "Only the case **on the ridge** is wrong: both take equally long there, and the task "
    "counts that as arithmetic.",
    ("intensity < ridge", "intensity <= ridge"),
    see=RIDGE,
)

INTENSITY = Exercise.of(
    __name__,
    "2.2 decode limit",
    title="What decode waits for",
    section="6 · Why decode waits for memory",
)

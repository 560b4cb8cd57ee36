"""Exercise 2.2: how many operations per byte decode does, and what it waits for."""

from course.check.draw import integer
from course.check.kinds import kinds_seen
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
    G = 2 * integer(rng, 1, 4) + 1  # odd: with 4 bytes the intensity is no whole number
    return [seen(answer, G, 1, bytes_each, 67.0, 3350.0) for bytes_each in (4, 1)]


@holds("the intensity is a float, the limit a str")
def kinds(answer, rng):
    return kinds_seen(answer, (2 * integer(rng, 1, 8), 1, 2, 312.0, 2039.0), "float and str")


@holds("below it, on it, above it", see=RIDGE)
def near_the_ridge(answer, rng):
    """The ridge at 125 operations per byte, then a little higher: floats hold these exactly.

    In whatever order 250, 1000 and 2000 are divided and multiplied: it is 1/8 of 1000.
    """
    queries = 5 ** integer(rng, 0, 2)
    return [
        seen(answer, 125 // queries, queries, 2, 250.0, 2000.0),
        seen(answer, 125 // queries, queries, 2, 250.5, 2000.0),
        seen(answer, 126, 1, 2, 250.0, 2000.0),
        seen(answer, 50 // queries * 5, queries, 4, 250.0, 2000.0),
        seen(answer, 75, 1, 1, 250.0, 2000.0),
        seen(answer, 200, 1, 2, 500.0, 2000.0),
        seen(answer, 1, 1, 2, 1000.0, 100.0),
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
slip(
    "bytes_each left out",
    "`bytes_each` does not appear: the intensity is operations **per byte**.",
    (" / bytes_each", "/ 1"),
)
slip(
    "always two bytes",
    "Every element is taken to have **2 bytes**. Here it has `bytes_each`.",
    ("/ bytes_each", "/ 2"),
)
slip(
    "multiplied by bytes",
    "The operations are **multiplied** by the bytes: per byte means divided by them.",
    ("Lq / bytes", "Lq * bytes"),
)
slip(
    "bits",
    "These are operations per **bit**: `bytes_each` is in bytes.",
    ("/ bytes_each", "/ (8 * bytes_each)"),
)
slip(
    "rounded down",
    "The intensity is **rounded down**: it may be a fraction. Divide with /.",
    ("Lq / bytes", "Lq // bytes"),
)
slip(
    "added",
    "G and Lq are **added**. Each of the G heads has Lq query rows: a key meets G · Lq of them.",
    ("2 * G * Lq", "2 * (G + Lq)"),
)
slip(
    "an int",
    "Where the intensity is whole it is an **int**. A float is asked, always.",
    (
        "    ridge =",
        "    intensity = int(intensity) if intensity == int(intensity) else intensity\n    ridge =",
    ),
)
slip(
    "a tensor",
    "The intensity is right, but a **tensor**: a plain float is asked.",
    ("    ridge =", "    import torch\n\n    intensity = torch.tensor(intensity)\n    ridge ="),
)
slip(
    "the ridge returned",
    "The first value is the device's **ridge**. What is asked is the intensity, which no "
    "device changes.",
    ("return intensity", "return ridge"),
)
slip(
    "the A100's ridge",
    "The intensities are right, but the verdict is that of **an A100**: take the ridge from "
    "the device's peak and bandwidth.",
    ("peak_tflops * 1000 / bandwidth", "312 * 1000 / 2039"),
    see=RIDGE,
)
slip(
    "a ridge in whole numbers",
    "The ridge is **rounded down**, and just above it the verdict changes.",
    ("1000 / bandwidth", "1000 // bandwidth"),
    see=RIDGE,
)
slip(
    "1024 for 1000",
    "The ridge is off by a little: these are **thousands**, not 1024s.",
    ("* 1000", "* 1024"),
    see=RIDGE,
)
slip(
    "compared with the peak",
    "The intensity is compared with the **peak**. The ridge is the peak over the bandwidth.",
    ("peak_tflops * 1000 / bandwidth", "peak_tflops"),
    see=RIDGE,
)
slip(
    "always arithmetic",
    'The intensities are right, but the verdict is **always** "arithmetic". Compare the '
    "intensity with the ridge, and mind the units.",
    ("intensity < ridge", "False"),
    see=RIDGE,
)
slip(
    "query rows against the ridge",
    "The verdict compares **G · Lq** with the ridge. That is the intensity for elements of 2 "
    "bytes alone.",
    ("intensity < ridge", "G * Lq < ridge"),
    see=RIDGE,
)
slip(
    "compute",
    'The verdicts are right, but the second word is **"arithmetic"** here.',
    ('"arithmetic"', '"compute"'),
    see=RIDGE,
)
slip(
    "capital letters",
    "The verdicts are right, but written with a **capital letter**.",
    ('"memory"', '"Memory"'),
    ('"arithmetic"', '"Arithmetic"'),
    see=RIDGE,
)
slip(
    "true or false",
    'The verdict is **True or False**. The task asks for a word: "memory" or "arithmetic".',
    ('"memory" if intensity < ridge else "arithmetic"', "intensity < ridge"),
    see=RIDGE,
)

INTENSITY = Exercise.of(
    __name__,
    "2.2 decode limit",
    title="What decode waits for",
    section="6 · Why decode waits for memory",
)

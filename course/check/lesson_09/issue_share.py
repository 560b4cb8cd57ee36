"""Exercise 9.6: how many issue slots a loop takes, of those that memory leaves it."""

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip


@right
def issue_share(instructions, warps, block_n, D, bytes_each, bandwidth, sms, ghz):
    lines = 2 * block_n * D * bytes_each / 128  # of K and of V
    per_line = instructions * warps / lines
    bytes_per_clock = bandwidth / (sms * ghz)  # for one SM: GB/s over GHz
    slots = 4 * 128 / bytes_per_clock
    return per_line, slots, per_line / slots


@also_right
def by_the_second(instructions, warps, block_n, D, bytes_each, bandwidth, sms, ghz):
    """Asks how long a whole block is on its way to an SM, in seconds, and divides at the end."""
    size = (block_n * D + block_n * D) * bytes_each
    seconds = size / (bandwidth * 1e9 / sms)
    there = seconds * ghz * 1e9 * 4
    taken = instructions * warps
    return taken * 128 / size, there * 128 / size, taken / there


def seen(answer, *call):
    # about ten fp32 roundings (6e-8 each), in case an answer computes in it
    near = {"names": ("per_line", "slots", "share"), "atol": 0.0, "rtol": 1e-6}
    return Seen.of(answer, call, wanted=by_the_second(*call), **near)


def gpu(rng):
    """Bandwidth in GB/s, number of SMs, clock in GHz; the clock is never 1."""
    ghz = (integer(rng, 5, 29) * 2 + 1) / 20
    return 100.0 * integer(rng, 3, 80) + 50, integer(rng, 20, 160), ghz


H200 = 4800.0, 132, 1.98


@holds("the four examples of the table")
def by_hand(answer, rng):
    toy = 128.0, 2, 2.0
    return [
        seen(answer, 256, 4, 64, 128, 2, *toy),
        seen(answer, 256, 4, 64, 128, 1, *toy),
        seen(answer, 100, 8, 16, 64, 4, *toy),
        seen(answer, 1758, 4, 64, 128, 2, *H200),
    ]


@holds("another loop, for an H200")
def another_loop(answer, rng):
    return seen(answer, integer(rng, 200, 900), 4, 64, 128, 2, *H200)


@holds("programs of 1, 2, 8 and 16 warps")
def several_warps(answer, rng):
    n = integer(rng, 100, 400)
    return [seen(answer, n, warps, 64, 128, 2, *H200) for warps in (1, 2, 8, 16)]


@holds("1 and 4 bytes per number")
def other_numbers(answer, rng):
    n = integer(rng, 200, 900)
    return [seen(answer, n, 4, 32, 128, each, *H200) for each in (1, 4)]


@holds("other blocks, and one that ends inside a line")
def other_blocks(answer, rng):
    n, odd = integer(rng, 200, 900), 2 * integer(rng, 8, 20) + 1
    sizes = (2 ** integer(rng, 4, 7), 8 * integer(rng, 5, 15)), (odd, 36)
    return [seen(answer, n, 4, block_n, D, 2, *H200) for block_n, D in sizes]


@holds("other GPUs: bandwidth, SMs and clock")
def other_gpus(answer, rng):
    n = integer(rng, 200, 900)
    return [seen(answer, n, 8, 64, 128, 2, *gpu(rng)) for _ in range(3)]


@holds("a loop that takes more slots than there are")
def more_than_all(answer, rng):
    return seen(answer, integer(rng, 4000, 9000), 4, 64, 128, 1, *H200)


# The lines, and what is done to them.
slip(
    "K alone",
    "There are **twice as many** instructions per line as there should be. A program takes one "
    "block per round; do its lines hold the keys **and** their values?",
    ("2 * block_n", "block_n"),
)
slip(
    "numbers for bytes",
    "The **numbers** of the block are counted, not their bytes: each has `bytes_each` of them.",
    (" * bytes_each", ""),
)
slip(
    "always two bytes",
    "Every number is taken to have **2 bytes**. In an eight-bit cache a block is half as many "
    "lines, for which the loop may need as many instructions.",
    ("bytes_each / 128", "2 / 128"),
)
slip(
    "bits",
    "The **bits** of the block are counted. A line is 128 bytes.",
    ("bytes_each / 128", "bytes_each * 8 / 128"),
)
slip(
    "lines rounded down",
    "The number of lines is **rounded down**. A block need not end where a line does: the mean per "
    "line is asked for, so leave the fraction.",
    ("bytes_each / 128", "bytes_each // 128"),
)
slip(
    "lines rounded up",
    "The number of lines is **rounded up**. A block need not end where a line does: the mean per "
    "line is asked for, so leave the fraction.",
    ("2 * block_n * D * bytes_each / 128", "-(-2 * block_n * D * bytes_each // 128)"),
)
slip(
    "a quarter of both",
    "Instructions and slots are both **a quarter** of what is asked for: those of 32 bytes, or of "
    "one partition. A line is 128 bytes, and an SM has four partitions.",
    ("/ 128", "/ 32"),
    ("4 * 128", "4 * 32"),
)

slip(
    "twice the lines",
    "There are **half as many** instructions per line as there should be: the block has been given "
    "twice its lines. All of K and V is 2 · block_n · D numbers, and a line is 128 bytes.",
    ("/ 128", "/ 64"),
)
slip(
    "half a line",
    "Instructions and slots are both **half** of what is asked for: those of 64 bytes. A line is "
    "128 bytes.",
    ("/ 128", "/ 64"),
    ("4 * 128", "4 * 64"),
)

# The instructions.
slip(
    "one warp",
    "Only **one warp's** instructions are counted. Every warp of the program issues all of them.",
    (" * warps", ""),
)
slip(
    "always four warps",
    "The program is taken to have **four warps**. It has `warps` of them.",
    ("* warps", "* 4"),
)
slip(
    "per thread",
    "Each instruction is counted once for every **thread**. It is issued once for all 32 threads "
    "of a warp, and takes one slot.",
    ("instructions * warps", "instructions * warps * 32"),
)
slip(
    "shared by the warps",
    "The instructions are **divided** among the warps. The count is that of one warp, and each of "
    "them issues as many.",
    ("instructions * warps", "instructions / warps"),
)
slip(
    "lines per instruction",
    "That is **lines per instruction**. Asked for are instructions per line.",
    ("instructions * warps / lines", "lines / (instructions * warps)"),
)
slip(
    "instructions per block",
    "The instructions are those of a whole **block**, but the slots are those of one line. Divide "
    "by the number of lines.",
    (" / lines", ""),
)
slip(
    "all per block",
    "Both are counted for a whole **block**. So the share is right, but asked for are instructions "
    "and slots per line.",
    (" / lines", ""),
    ("slots = 4 * 128", "slots = lines * 4 * 128"),
)
slip(
    "slots per block",
    "The slots are those of a whole **block**, but the instructions are those of one line. A slot "
    "count per line depends on the GPU alone.",
    ("slots = 4 * 128", "slots = lines * 4 * 128"),
)
slip(
    "per warp and partition",
    "The instructions are those of **one partition**, a quarter of the program's. The slots count "
    "all four partitions, so the instructions must, too.",
    ("instructions * warps", "instructions * warps / 4"),
)

# What memory delivers.
slip(
    "all for one SM",
    "One SM gets the **whole GPU's** bandwidth. All SMs read at once, each at its share.",
    ("(sms * ghz)", "ghz"),
)
slip(
    "bandwidth per SM",
    "`bandwidth` is multiplied by the SMs, as if it were **one SM's**. It is the whole GPU's.",
    ("bandwidth / (sms * ghz)", "bandwidth * sms / ghz"),
)
slip(
    "per nanosecond",
    "GB/s are bytes per **nanosecond**. A clock is not one: its length is what the GHz say.",
    ("(sms * ghz)", "sms"),
)
slip(
    "multiplied by GHz",
    "The bandwidth is **multiplied** by the clock rate. The faster the clock, the fewer bytes "
    "arrive in one of its ticks.",
    ("(sms * ghz)", "sms * ghz"),
)
slip(
    "only GB converted",
    "The GB were turned into bytes, but the **GHz not into Hz**. Both count in 10⁹ per second: "
    "convert both, or neither.",
    ("bandwidth / (", "bandwidth * 1e9 / ("),
)
slip(
    "only GHz converted",
    "The GHz were turned into Hz, but the **GB not into bytes**. Both count in 10⁹ per second: "
    "convert both, or neither.",
    ("(sms * ghz)", "(sms * ghz * 1e9)"),
)
slip(
    "all of it in each clock",
    "`bandwidth` is taken for what **one SM** gets in **one clock**. It is what all of them get in "
    "a nanosecond.",
    (" / (sms * ghz)", ""),
)
slip(
    "a thousand too few",
    "There is a factor of **1,000** too much in `slots`. GB/s and GHz both count in 10⁹ per "
    "second, so nothing is left to convert.",
    ("bandwidth / (", "bandwidth / 1e3 / ("),
)
slip(
    "what can be reached",
    "Only **a part** of the bandwidth is counted on. The lesson's share is one of the bandwidth of "
    "the data sheet: take `bandwidth` as it is.",
    ("bandwidth / (", "0.9 * bandwidth / ("),
)
slip(
    "GiB",
    "Almost: here a GB is 10⁹ bytes, as in data sheets, not 2³⁰.",
    ("bandwidth / (", "bandwidth * 2**30 / 1e9 / ("),
)

# The slots.
slip(
    "clocks for slots",
    "`slots` are the **clocks** until the next line. In each of them an SM issues four "
    "instructions, one per partition.",
    ("4 * 128", "128"),
)
slip(
    "a slot per warp and clock",
    "There is a slot for each of the **program's warps** in every clock. How many an SM can issue "
    "is up to its four partitions, however many warps there are.",
    ("4 * 128", "warps * 128"),
)
slip(
    "a slot per thread",
    "There is a slot for each **thread** that a partition can serve. One slot serves a whole warp: "
    "an SM has four per clock.",
    ("4 * 128", "4 * 32 * 128"),
)
slip(
    "the slots of all SMs",
    "The slots are those of **all SMs**, but the line goes to one of them.",
    ("4 * 128", "4 * sms * 128"),
)
slip(
    "slots for a byte",
    "The slots are those for one **byte**. A line is 128 bytes.",
    ("4 * 128", "4"),
)
slip(
    "bytes in the clocks",
    "The bytes per clock are **multiplied** by the bytes of a line. The clocks that a line takes "
    "are its size divided by them: the faster the memory, the fewer.",
    ("128 / bytes_per_clock", "128 * bytes_per_clock"),
)
slip(
    "whole clocks",
    "The clocks are **rounded** to whole ones. Lines follow one another without a break, so that "
    "the mean counts: leave the fraction.",
    ("4 * 128 / bytes_per_clock", "4 * round(128 / bytes_per_clock)"),
)
for how, whole in (
    ("rounded", "round(4 * 128 / bytes_per_clock)"),
    ("rounded down", "4 * 128 // bytes_per_clock"),
    ("rounded up", "-(-4 * 128 // bytes_per_clock)"),
):
    slip(
        f"slots {how}",
        f"The slots are **{how}** to whole ones. It is a mean over many lines: leave the fraction.",
        ("4 * 128 / bytes_per_clock", whole),
    )

# The share, and the order.
slip(
    "upside down",
    "The share is **upside down**: the slots over the instructions. It is 1 where all slots are "
    "taken, and small where memory has time to spare.",
    ("per_line / slots", "slots / per_line"),
)
slip(
    "per cent",
    "The share is in per cent. Return a fraction instead: 1 is all slots.",
    ("per_line / slots", "100 * per_line / slots"),
)
slip(
    "capped",
    "The share is capped at 1. Above 1 it says by how much memory has to wait: return it as it is.",
    ("per_line / slots", "min(1.0, per_line / slots)"),
)
slip(
    "free slots",
    "That is the share of slots that stay **free**. Asked for is the share that is taken.",
    ("per_line / slots", "1 - per_line / slots"),
)
slip(
    "swapped",
    "The first two are **swapped**: the instructions per line come first, then the slots.",
    ("return per_line, slots", "return slots, per_line"),
)

ISSUE_SHARE = Exercise.of(
    __name__,
    "9.6 issue share",
    title="Who waits for whom?",
    section="9 · Counting without a GPU",
)

"""The model behind `kernels.explain`: from counts of programs, bytes and operations to a time.

    time      = stage 1 + launches + merge
    stage 1   = max(bytes / (bandwidth · reachable), operations / peak,
                    tiles · clocks of a tile / (SMs · clock)) / occupancy  (+ again)

The assumptions are listed at the top of `kernels.explain`.
"""

import math
from dataclasses import dataclass

from kernels.devices import REACHABLE, Device
from kernels.explain.spent import PIPES, Spent
from kernels.split_rules import PROGRAMS_PER_SM, SplitShape, wave_efficiency, waves

__all__ = ["REACHABLE", "Explanation", "occupancy"]


def occupancy(programs: int, sms: int, slots: int, readers: int = 1, alone: float = 1.0) -> float:
    """Return the share of its speed that a GPU can use, over all waves of programs: from 0 to 1.

    An SM draws at most its share, so a wave takes as long as its fullest SM. readers: programs that
    read the same bytes, side by side, each at its own pace: of the memory's speed they use what one
    of them would. alone: the share of its pace that an SM reaches with one program where it has
    room for more; with all of them it reaches all.

    >>> occupancy(1, sms=4, slots=8), occupancy(4, sms=4, slots=8), occupancy(9, sms=4, slots=8)
    (0.25, 1.0, 0.75)
    >>> occupancy(5, sms=4, slots=8), occupancy(4, sms=4, slots=8, alone=0.8)
    (0.625, 0.8)

    Nine programs: eight run at full speed, the ninth alone on one of four SMs takes as long as
    four would. 9 / (8 + 4). Five: one SM has two of them, and takes as long as if all had two.
    5 / 8. Nothing to do counts as 1.
    """
    full, rest = divmod(programs, slots)
    last = 0.0
    if rest:
        together, room = -(-rest // sms), slots // sms
        pace = alone + (1 - alone) * (together - 1) / (room - 1) if room > 1 else 1.0
        last = sms * max(together / pace, readers)
    places = full * max(slots, sms * readers) + last
    return programs / places if programs else 1.0


@dataclass(frozen=True)
class Explanation:
    """What a decode call does, and how long that should take by the model; prints as a block.

    device, call: where, and the shapes in words. shape: what a split rule sees. keys: per row.
    splits: how often they are cut; split_keys: keys per split (all but the last); block_n: keys
    per block. programs: of stage 1; busy: those that have keys; m_tiles: tiles of query rows, which
    read the same keys. kv_bytes: K and V; partial_bytes: the partial results, written and read
    again; other_bytes: q, o, lse and the block table. operations: of stage 1, padded rows included;
    peak_tflops: how many of them the device can do, 10¹² per second. programs_per_sm: how many
    an SM holds at once; split rules assume two, and `dataclasses.replace` asks "what if". note: a
    sentence on what else there is to know about the call, or nothing. spent: what the kernel was
    counted to spend on a tile; None where nobody has counted.

    Raises ValueError where programs_per_sm is below 1.
    """

    device: Device
    call: str
    shape: SplitShape
    keys: int
    splits: int
    split_keys: int
    block_n: int
    programs: int
    busy: int
    m_tiles: int
    kv_bytes: int
    partial_bytes: int
    other_bytes: int
    operations: int
    peak_tflops: float
    programs_per_sm: int = PROGRAMS_PER_SM
    note: str = ""
    spent: Spent | None = None

    def __post_init__(self) -> None:
        if self.programs_per_sm < 1:
            raise ValueError(f"programs_per_sm must be at least 1; got {self.programs_per_sm}")

    @property
    def slots(self) -> int:
        """Programs that run at once."""
        return self.programs_per_sm * self.device.sms

    @property
    def waves(self) -> float:
        """How many times the busy programs fill the slots."""
        return waves(self.busy, self.slots)

    @property
    def efficiency(self) -> float:
        """Share of slots that are busy, over all waves, 0 to 1; what wave rules look at."""
        return wave_efficiency(self.busy, self.slots)

    @property
    def launches(self) -> int:
        """Kernels: stage 1, and the merge where there is more than one split."""
        return 1 if self.splits == 1 else 2

    @property
    def memory_us(self) -> float:
        """What stage 1 reads and writes, at the bandwidth that can be reached, µs."""
        return (self.kv_bytes + self.partial_bytes + self.other_bytes) / self._bytes_per_us

    @property
    def arithmetic_us(self) -> float:
        """The operations of stage 1 at their peak, µs, while memory is read."""
        return self.operations / (self.peak_tflops * 1e6)

    @property
    def tiles(self) -> int:
        """Tiles of K and V that all programs together walk through."""
        return self.programs // self.splits * math.ceil(self.keys / self.block_n)

    @property
    def issue_us(self) -> float:
        """How long issuing the instructions of all tiles takes, µs; 0 if none are counted."""
        return self._of_tiles_us(self.spent.issue_clocks) if self.spent else 0.0

    @property
    def pipe_us(self) -> float:
        """How long the busiest pipe of every SM works on all tiles, µs; 0 likewise."""
        return self._of_tiles_us(self.spent.pipe_clocks) if self.spent else 0.0

    @property
    def work_us(self) -> float:
        """The longest of what is done at the same time, µs: memory, arithmetic, instructions."""
        return max(self.memory_us, self.arithmetic_us, self.issue_us, self.pipe_us)

    @property
    def uneven(self) -> float:
        """Keys of the longest split over those of the mean one, at least 1; the last is shorter."""
        mean = self.keys * self.programs / self.splits / self.busy if self.busy else 0
        return max(1.0, self.split_keys / mean) if mean else 1.0

    @property
    def idle_us(self) -> float:
        """Extra time of stage 1 while SMs have nothing to do or wait for their first keys, µs."""
        filled = self.device.fill_us * math.ceil(self.waves)
        return self._starved_us() - self.work_us + filled

    @property
    def again_us(self) -> float:
        """Extra time of stage 1 because every tile reads K and V again, even if from L2, µs."""
        return self._starved_us(self.m_tiles) - self._starved_us()

    @property
    def launch_us(self) -> float:
        """All launches, µs."""
        return self.launches * self.device.launch_us

    @property
    def stage_1_us(self) -> float:
        """From the first program's start to the last one's end, µs."""
        return self.work_us + self.idle_us + self.again_us

    @property
    def merge_us(self) -> float:
        """Reading the partial results, µs."""
        return self.partial_bytes / self._bytes_per_us

    @property
    def time_us(self) -> float:
        """The predicted time, µs."""
        return self.stage_1_us + self.launch_us + self.merge_us

    @property
    def bound(self) -> str:
        """The largest part of the time.

        Returns "memory bandwidth", "too few programs", "launch overhead", "arithmetic" or, where
        the kernel was counted to spend longer on a tile than memory does, what it spends it on:
        "issue slots" or one of `kernels.explain.spent.PIPES`.
        """
        parts = {
            "memory bandwidth": self.merge_us + self.again_us,
            "too few programs": self.idle_us,
            "launch overhead": self.launch_us,
        }
        parts[self._work] = parts.get(self._work, 0.0) + self.work_us
        return max(parts, key=lambda part: parts[part])

    @property
    def _work(self) -> str:
        """What `work_us` is spent on."""
        if self.work_us == self.memory_us:
            return "memory bandwidth"
        if self.work_us == self.arithmetic_us or self.spent is None:
            return "arithmetic"
        return self.spent.limit

    def _of_tiles_us(self, clocks: float) -> float:
        """Return how long all SMs take for all tiles, at so many clocks each, µs."""
        return self.tiles * clocks / (self.device.sms * self.device.clock_ghz * 1e3)

    def _counted(self) -> str:
        """Say what the kernel was counted to spend, in words; "" where memory takes longer."""
        slower = max(self.issue_us, self.pipe_us)
        if self.spent is None or slower <= self.memory_us:
            return ""
        shares = {"issue slots": self.issue_us, PIPES[self.spent.pipe]: self.pipe_us}
        taken = ", ".join(
            f"{name} {math.floor(100 * us / self.memory_us + 0.5)} %" for name, us in shares.items()
        )
        return f"{self.spent.instructions:,} instructions a tile; of memory's time: {taken}"

    def _starved_us(self, readers: int = 1) -> float:
        """Return how long stage 1 takes, µs, if all programs start at once and wait for nothing.

        At least as long as the whole GPU needs, and as its fullest SM needs: of memory's speed an
        SM may draw more than its share (`Device.pace`), of arithmetic it has no more.
        """
        sms, slots, alone = self.device.sms, self.slots, self.device.alone
        fullest = self.uneven / occupancy(self.busy, sms, slots, alone=alone)
        tiles = self.uneven / occupancy(self.busy, sms, slots, readers, alone)
        return max(
            self.memory_us,
            max(self.arithmetic_us, self.issue_us, self.pipe_us) * fullest,
            self.memory_us * tiles / self.device.pace,
        )

    @property
    def _bytes_per_us(self) -> float:
        return self.device.bandwidth * self.device.reachable * 1e3

    def __str__(self) -> str:
        """A block of aligned lines; the last one says how far to trust it."""
        stage_1 = f"{self.work_us:,.1f} {self._work.removesuffix(' bandwidth')}"
        merged, keyless = self.splits > 1, self.programs - self.busy
        cut = f"{self.splits}" + (f" of {self.split_keys:,} keys" if merged else "")
        busy = f"{math.floor(100 * self.efficiency + 0.5)} % busy"
        lines = {
            "splits": f"{cut}, in blocks of {self.block_n}",
            "programs": f"{self.programs:,} on {self.slots:,} slots"
            + (f", {keyless:,} without a key" if keyless else ""),
            "waves": f"{self.waves:.2f}, {busy}",
            "bytes": f"{_size(self.kv_bytes)} of K and V"
            + (f", {_size(self.partial_bytes)} of partial results twice" if merged else ""),
            "time": f"{self.time_us:,.1f} µs = {stage_1} + {self.idle_us:,.1f} idle + "
            + (f"{self.again_us:,.1f} again + " if self.m_tiles > 1 else "")
            + f"{self.launch_us:,.1f} launch + {self.merge_us:,.1f} merge",
            "bound by": self.bound,
        }
        lines |= {"counted": counted} if (counted := self._counted()) else {}
        lines |= {"note": self.note} if self.note else {}
        head = f"{self.device.name}: {self.call}"
        body = [f"  {name:<10}{text}" for name, text in lines.items()]
        return "\n".join([head, *body, "  a model from datasheet figures, not a measurement"])


def _size(count: int) -> str:
    """Bytes in words: kB or MB, powers of ten."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"

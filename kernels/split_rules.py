"""How many splits: three rules and a cost model, plain Python on plain numbers.

A GPU runs as many programs at once as it has slots; what does not fit waits for the next *wave*.
The last wave is rarely full, and an unfilled slot is bandwidth not used:

    slots = 4, programs = 5    wave 1  ■ ■ ■ ■     waves = 5/4, run as 2
                               wave 2  ■ · · ·     efficiency = (5/4) / 2 = 0.625

More splits make more programs, which fill the waves better. But each split adds a partial result
to write and read back and a pipeline to fill, and splitting at all adds a second launch. A rule
weighs one against the other. It sees only shapes: the capacity of a row, not its length, which only
the device knows.

    splits_like_fa2   the fewest splits whose efficiency is 85 % of the best achievable
    splits_like_fa3   the same with one program per SM; never splits four blocks or fewer
    cost_model          the cheapest by an estimated cost; `kernels.heuristics` uses this one
    fixed_count, fixed_size   a given number of splits; splits of a given number of keys

`course.hardware.regret` scores them: how much longer a call takes than with the best number
of splits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

MAX_SPLITS = 128
PROGRAMS_PER_SM = 2
GOOD_ENOUGH = 0.85
FULL_ENOUGH = 0.8
NEARLY_LEAST = 1.02
FEW_BLOCKS = 4


@dataclass(frozen=True)
class SplitShape:
    """What a rule sees of a decode call. Raises ValueError for a number that is too small.

    programs: those that one split launches, B·Hkv·m_tiles. blocks: of keys, in a row's capacity.
    num_sms: streaming multiprocessors. m_tiles: tiles of query rows, which read the same keys.
    token_bytes: K and V of one token of one KV head. block_n: keys per block. partial_bytes: what a
    program leaves to the merge, o and lse in fp32. max_splits: upper bound. The defaults are for
    D = 128 in 16 bits and eight query rows.
    """

    programs: int
    blocks: int
    num_sms: int
    m_tiles: int = 1
    token_bytes: int = 512
    block_n: int = 64
    partial_bytes: int = 8 * 129 * 4
    max_splits: int = MAX_SPLITS

    def __post_init__(self) -> None:
        for name in ("num_sms", "m_tiles", "block_n", "max_splits"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("programs", "blocks", "token_bytes", "partial_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")

    @property
    def block_bytes(self) -> int:
        """Bytes of K and V in a block."""
        return self.block_n * self.token_bytes

    def useful(self) -> list[int]:
        """Return the numbers of splits for which every split gets a block; [] for no keys.

        >>> SplitShape(programs=8, blocks=10, num_sms=108).useful()
        [1, 2, 3, 4, 5, 10]

        Ten blocks in six splits are two each, so five splits take them all and the sixth is empty.
        """
        most = min(self.max_splits, PROGRAMS_PER_SM * self.num_sms, self.blocks)
        return [s for s in range(1, most + 1) if _all_busy(self.blocks, s)]


Rule = Callable[[SplitShape], int]


def waves(programs: int, slots: int) -> float:
    """Return how many times all slots are filled; 1.25 means one and a quarter waves.

    >>> waves(5, 4)
    1.25
    """
    return programs / slots


def wave_efficiency(programs: int, slots: int) -> float:
    """Return the share of slots that are busy, averaged over all waves: from 0 to 1.

    >>> wave_efficiency(5, 4)
    0.625

    Five programs on four slots take two waves: eight places, of which five are used.
    """
    return waves(programs, slots) / math.ceil(waves(programs, slots)) if programs else 0.0


def splits_like_fa2(shape: SplitShape) -> int:
    """Return the fewest splits whose wave efficiency is at least 85 % of the best achievable.

    Just one if the unsplit programs already fill 80 % of the slots, two per SM.

    >>> splits_like_fa2(SplitShape(programs=8, blocks=1024, num_sms=132))
    28

    Unsplit, 8 programs leave 256 of 264 slots idle; 28 splits keep 85 % of them busy, 32 (the best
    achievable) 97 %. Source: FlashAttention-2 (Dao), `num_splits_heuristic` in
    `csrc/flash_attn/flash_api.cpp`.
    """
    slots = PROGRAMS_PER_SM * shape.num_sms
    if shape.programs >= FULL_ENOUGH * slots:
        return 1
    return _fewest_good(shape.useful(), shape.programs, slots)


def splits_like_fa3(shape: SplitShape) -> int:
    """Return FlashAttention-3's choice: efficiency at one program per SM; few blocks are not split.

    If the SMs are already 80 % full, the original splits only keys too large for an L2 cache of
    50 MB, and only for several tiles of query rows reading the same keys. Decoding one query has
    no such tiles, so the answer is 1.

    >>> splits_like_fa3(SplitShape(programs=8, blocks=1024, num_sms=132))
    15
    >>> splits_like_fa3(SplitShape(programs=1, blocks=4, num_sms=132))
    1

    Source: FlashAttention-3 (Dao), `num_splits_heuristic` in `hopper/heuristics.h`.
    """
    if shape.programs >= FULL_ENOUGH * shape.num_sms or shape.blocks <= FEW_BLOCKS:
        return 1
    most = min(shape.max_splits, shape.num_sms, shape.blocks)
    return _fewest_good(range(1, most + 1), shape.programs, shape.num_sms)


@dataclass(frozen=True)
class Costs:
    """What splitting costs, in bytes that an SM could have read meanwhile.

    merge: the second launch. fill: from a program's start to its first keys. alone: the share of
    its full speed that an SM reaches with one program on it; with two it reaches all of it.

    In bytes, they depend little on the GPU: an SM reads 18 kB per microsecond on an A100, 25 on an
    H100. They are assumptions, chosen for the least regret over `course.hardware.split_curves`
    until a recorded GPU run replaces them.
    """

    merge: int = 128 * 1024
    fill: int = 16 * 1024
    alone: float = 0.8


ASSUMED = Costs()


def cost(shape: SplitShape, splits: int, costs: Costs = ASSUMED) -> float:
    """Return what a number of splits costs, in bytes that the fullest SM reads until all is done.

        n = ⌈programs · S / SMs⌉        programs on the fullest SM, two at a time
        n · (⌈blocks / S⌉ · block + partial + fill)  +  merge  +  programs · S · partial / SMs

    The last two, only for S > 1, are the second launch and what it reads. A program that has an SM
    to itself takes 1 / alone times as long; m_tiles programs that read the same keys take as long
    as if they shared an SM.

    >>> shape = SplitShape(programs=8, blocks=1024, num_sms=132)
    >>> [round(cost(shape, s) / 2**20, 1) for s in (1, 16, 32, 64)]
    [40.0, 2.7, 2.2, 2.2]
    """
    chunk = math.ceil(shape.blocks / splits)
    on_fullest = math.ceil(shape.programs * splits / shape.num_sms)
    pairs, single = divmod(on_fullest, PROGRAMS_PER_SM)
    program = chunk * shape.block_bytes + costs.fill
    program += shape.partial_bytes if splits > 1 else 0
    tiles = shape.m_tiles
    full, last = max(PROGRAMS_PER_SM, tiles), single and max(1 / costs.alone, tiles)
    total = (full * pairs + last) * program
    if splits == 1:
        return total
    return total + costs.merge + shape.programs * splits * shape.partial_bytes / shape.num_sms


def cost_model(shape: SplitShape, costs: Costs = ASSUMED) -> int:
    """Return the fewest splits whose `cost` is within 2 % of the lowest.

    >>> cost_model(SplitShape(programs=8, blocks=1024, num_sms=132))
    32
    >>> cost_model(SplitShape(programs=8, blocks=4, num_sms=132))
    1
    """
    if not shape.programs:
        return 1
    found = {s: cost(shape, s, costs) for s in shape.useful()}
    enough = NEARLY_LEAST * min(found.values(), default=0.0)
    return next((s for s, bytes_drawn in found.items() if bytes_drawn <= enough), 1)


def fixed_count(splits: int) -> Rule:
    """Return the rule that always takes this many splits, or one per block if there are fewer."""
    _at_least_one("splits", splits)

    def rule(shape: SplitShape) -> int:
        return max(1, min(splits, shape.blocks))

    return rule


def fixed_size(keys: int) -> Rule:
    """Return the rule that takes splits of this many keys, however many splits that makes.

    >>> fixed_size(256)(SplitShape(programs=8, blocks=10, num_sms=132))
    3
    """
    _at_least_one("keys", keys)

    def rule(shape: SplitShape) -> int:
        return max(1, math.ceil(shape.blocks * shape.block_n / keys))

    return rule


def _fewest_good(candidates: list[int] | range, programs: int, slots: int) -> int:
    """Return the first candidate whose efficiency is close enough to the best; 1 if none is."""
    efficiency = {s: wave_efficiency(programs * s, slots) for s in candidates}
    best = max(efficiency.values(), default=0.0)
    return next((s for s, found in efficiency.items() if found >= GOOD_ENOUGH * best), 1)


def _all_busy(blocks: int, splits: int) -> bool:
    """Say whether every split gets a block, if each takes ⌈blocks / splits⌉ of them."""
    chunk = math.ceil(blocks / splits)
    return math.ceil(blocks / chunk) == splits


def _at_least_one(name: str, number: int) -> None:
    if number < 1:
        raise ValueError(f"{name} must be at least 1; got {number}")

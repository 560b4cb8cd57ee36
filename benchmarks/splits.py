"""Time against the number of splits: where the U is deepest, and where our rule lands.

    python -m benchmarks splits [options as for decode]

A cell is called "B1 32/8 16384". One row per cell: milliseconds for every number of splits
tried, in the same order, and the number that `kernels.heuristics` chooses on its own.
"""

from collections.abc import Sequence
from functools import partial

from benchmarks.contest import Entrant, compete
from benchmarks.decode import QUICK_COLD_BYTES, make_sets
from benchmarks.grid import HEADS, Shape, kv_bytes_of, name_of
from benchmarks.judge import Judge, full_rows
from benchmarks.machine import free_bytes
from benchmarks.record import Record
from benchmarks.session import Cell, Session
from benchmarks.timing import cold_bytes, number_of_sets
from course.hardware.regret import as_text, compare, fit_costs
from course.hardware.split_curves import interpolate, recorded
from kernels.flash_decoding import flash_decode
from kernels.flash_decoding.features import Features, Splits
from kernels.flash_decoding.launch import choose_splits
from kernels.runtime import INTERPRETED
from kernels.split_rules import ASSUMED

BATCHES = [1, 4, 16, 64]
LENGTHS = [1024, 4096, 16384, 65536, 131072]
NUM_SPLITS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128]
KV_BYTES_AT_MOST = 8 * 2**30  # beyond this, every count that fills the GPU takes the same time

PROTOCOL = (
    "Timing and judging as in decode, one contestant per number of splits. num_splits and ms: what "
    "was tried, and the median milliseconds of each; chosen: what flash_decode takes on its own."
)


def measure(session: Session, B: int, Hq: int, Hkv: int, Lk: int, counts: Sequence[int]) -> dict:
    """One row: the times for every number of splits."""
    kv_bytes = kv_bytes_of(B, Hkv, Lk)
    row: dict = {"B": B, "Hq": Hq, "Hkv": Hkv, "Lk": Lk, "kv_bytes": kv_bytes}
    wanted = number_of_sets(kv_bytes, QUICK_COLD_BYTES if session.quick else cold_bytes())
    if wanted * kv_bytes > free_bytes():
        raise MemoryError(f"{wanted} sets of {kv_bytes:,} bytes do not fit")
    sets = make_sets(B, Hq, Hkv, Lk, wanted)
    judge = Judge(sets[0][0], full_rows(*sets[0][1:]), kv_heads=Hkv, longest=Lk)
    entrants = [
        Entrant(
            str(S), [partial(flash_decode, *s, num_splits=S) for s in sets], judge(str(S), True)
        )
        for S in counts
    ]
    times, cannot = compete(entrants, on_gpu=not INTERPRETED)
    timed = [s for s in counts if f"{s}_ms" in times]
    row["chosen"] = choose_splits(*sets[0], Features(), Splits()).parts
    row |= {"num_splits": timed, "ms": [times[f"{s}_ms"] for s in timed]}
    row["ms_quartiles"] = [times[f"{s}_ms_quartiles"] for s in timed]
    return row | {"cannot": cannot}


def run(session: Session) -> Record:
    """Measure all cells, as far as the session's options and budget let it."""
    grid = [(b, *h, n) for n in LENGTHS for h in HEADS for b in BATCHES]
    grid = [(1, 4, 2, 200)] if session.quick else grid
    counts = [1, 2, 3] if session.quick else NUM_SPLITS

    grid = [s for s in grid if kv_bytes_of(s[0], *s[2:]) <= KV_BYTES_AT_MOST]

    def cell(shape: Shape) -> Cell:
        return Cell(name_of(shape), (), partial(measure, session, *shape, counts))

    cells = [cell(shape) for shape in grid]
    return session.run("splits", cells, PROTOCOL)


def regret(row: dict) -> float | None:
    """Time with the chosen number of splits over the best time, minus 1.

    Interpolated linearly between the counts timed; None if the chosen one lies outside them.

    >>> regret({"num_splits": [1, 2, 4], "ms": [4.0, 2.0, 3.0], "chosen": 3})
    0.25
    """
    points = list(zip(row.get("num_splits", ()), row.get("ms", ()), strict=True))
    if not points or not points[0][0] <= row["chosen"] <= points[-1][0]:
        return None
    return interpolate(points, row["chosen"]) / min(row["ms"]) - 1


def table(rows: Sequence[dict]) -> str:
    """The rows as text."""
    lines = ["  B  heads   length   best splits        ms   chosen   regret"]
    for row in rows:
        start = f"{row.get('B', ''):>3}  {row.get('Hq', '')}/{row.get('Hkv', '')}"
        if not row.get("ms"):
            lines.append(f"{row['cell']}: not timed: {next(iter(row['cannot'].values()), '')}")
            continue
        best = min(zip(row["ms"], row["num_splits"], strict=True))
        lost = regret(row)
        told = "–" if lost is None else f"{lost:.1%}"
        found = f"{best[1]:>13} {best[0]:>9.4f} {row['chosen']:>8} {told:>8}"
        lines.append(f"{start:<10} {row['Lk']:>8,} {found}")
    return "\n".join(lines)


def remarks(record: dict) -> str:
    """Score every split rule on a record of a GPU, and say which costs would fit it best.

    Empty for an interpreted record, whose times mean nothing.
    """
    curves = recorded(record)
    if not curves:
        return ""
    costs = fit_costs(curves)
    same = "as assumed" if costs == ASSUMED else f"kernels.split_rules assumes {ASSUMED}"
    return f"\n{as_text(compare(curves))}\nbest for this run: {costs} ({same})"

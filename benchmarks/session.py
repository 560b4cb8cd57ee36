"""A run: its cells one by one, cut short when the budget ends, written after every cell."""

import re
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import ceilings
from benchmarks.contest import reason, still_alive
from benchmarks.machine import code_digest, gpu
from benchmarks.protocol import RESULTS, circumstances
from benchmarks.record import Record
from kernels.runtime import INTERPRETED


@dataclass(frozen=True)
class Cell:
    """A row to measure. name: unique, what `--only` is searched in. contestants: who should get a
    time in it. measure: makes the row.
    """

    name: str
    contestants: Sequence[str]
    measure: Callable[[], dict[str, Any]]


class Session:
    """The options of a command line, the ceilings (measured once), and the time left.

    options: quick, only, peers (regular expressions or None), budget (seconds or None), resume,
    out (a file; a folder for `all`), commit (text or None).
    """

    def __init__(self, options: Namespace) -> None:
        self.options = options
        self.started = time.monotonic()
        self.failed: list[str] = []

    @property
    def quick(self) -> bool:
        """Tiny shapes: does it run?"""
        return self.options.quick

    @cached_property
    def ceilings(self) -> dict[str, Any]:
        """What this GPU can do at best; see `benchmarks.ceilings`."""
        row = ceilings.measure(self.quick)
        tqdm.write(ceilings.table(row))
        return row

    @property
    def read_gbs(self) -> float:
        """The ceiling of decoding, GB/s."""
        return self.ceilings["read_GBps"]

    def wants(self, name: str, ours: bool = False) -> bool:
        """Whether a contestant takes part: ours always, a peer unless `--peers` says otherwise."""
        return ours or not self.options.peers or bool(re.fullmatch(self.options.peers, name))

    def path(self, name: str) -> Path | None:
        """Where the record goes; nowhere for a quick run, unless --out is given."""
        if self.options.out:
            out = Path(self.options.out)
            return out / f"{name}.json" if self.options.name == "all" else out
        return None if self.quick else RESULTS / f"{name}.json"

    def seconds_left(self) -> float:
        """Seconds until the budget ends."""
        return (self.options.budget or float("inf")) - (time.monotonic() - self.started)

    def header(self, protocol: str, **more: object) -> dict[str, Any]:
        """Everything that a record holds besides its rows."""
        around = circumstances()
        commit = {"commit": self.options.commit} if self.options.commit else {}
        identity = {"code": code_digest(), **gpu(), "quick": self.quick}
        top = {"read_GBps": self.read_gbs, "ceilings": self.ceilings}
        return {**around, **commit, **identity, "protocol": protocol, **top, **more}

    def run(self, name: str, cells: Sequence[Cell], protocol: str, **more: object) -> Record:
        """Measure all cells that are wanted, missing and affordable; return the record."""
        if INTERPRETED and not self.quick:
            raise SystemExit(
                f"{name} measures compiled kernels and needs a GPU; --quick shows that it runs"
            )
        header = self.header(protocol, **more)
        record = Record(self.path(name), header, resume=self.options.resume)
        if record.kept or record.dropped:
            tqdm.write(f"{name}: {record.kept} cells kept, {record.dropped} of other code dropped")
        wanted = [c for c in cells if re.search(self.options.only or "", c.name)]
        wanted = [c for c in wanted if not record.holds(c.name, c.contestants)]
        longest = 0.0
        with tqdm(wanted, unit="cell", desc=name) as bar:
            for done, cell in enumerate(bar):
                if longest > self.seconds_left():
                    left = len(wanted) - done
                    tqdm.write(f"{name}: budget used up, {left} cells left: continue with --resume")
                    break
                bar.set_postfix_str(cell.name)
                start = time.monotonic()
                self.put(record, cell)
                longest = max(longest, time.monotonic() - start)
        return record

    def put(self, record: Record, cell: Cell) -> None:
        """Measure one cell and record it, or why it could not be measured."""
        try:
            row = cell.measure()
        except Exception as error:
            if self.quick:
                raise
            still_alive(cell.name)
            row = {"cannot": dict.fromkeys(cell.contestants, reason(error))}
        wrong = [f"{n}: {why}" for n, why in row["cannot"].items() if why.startswith("wrong")]
        self.failed += [f"{record.path}: {cell.name}: {text}" for text in wrong]
        record.put(cell.name, {"read_GBps": self.read_gbs} | row)

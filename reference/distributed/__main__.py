"""Check context-parallel decoding on the ranks that torchrun has started, and count its bytes.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m reference.distributed

Rank 0 prints a table. `--json` prints every rank's rows instead, a line of JSON per rank. `--drill
raise`, `hang` or `kill` lets a rank fail on purpose, and the others say what they were told.
"""

import argparse
import json
import os
import sys
import time
from typing import Any

import torch

from reference.distributed.group import ProcessLinks, connect
from reference.distributed.links import RankFailed
from reference.distributed.selfcheck import CASES, drill, everything


def main() -> int:
    """Run what the command line asks for. Returns 0 if every answer was right."""
    parser = argparse.ArgumentParser(prog="python -m reference.distributed", description=__doc__)
    parser.add_argument("--json", action="store_true", help="every rank's rows, as JSON")
    parser.add_argument("--drill", choices=("raise", "hang", "kill"), help="how a rank fails")
    parser.add_argument("--rank", type=int, default=1, help="which one (default: 1)")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds for one message")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.drill:
        return run_drill(options)
    with connect(timeout=options.timeout) as links:
        rows = everything(links)
        if options.json:
            say(json.dumps({"rank": links.rank, "rows": rows}))
        elif links.rank == 0:
            say(table(rows, links))
    return 0 if all(row["right"] and row.get("sent") == row.get("formula") for row in rows) else 1


def table(rows: list[dict[str, Any]], links: ProcessLinks) -> str:
    """The rows of one rank as text: a line for each merge and kind of collectives."""
    lines = [f"{links.ranks} ranks; what rank {links.rank} sees of {len(CASES)} cases"]
    lines.append(f"{'merge':10}{'collectives':26}{'right':>8}{'bytes sent':>13}{'by formula':>13}")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        names = (row["merge"], row["how"]) if "merge" in row else ("", row["case"])
        groups.setdefault(names, []).append(row)
    for (merge, how), found in groups.items():
        right = f"{sum(row['right'] for row in found)} of {len(found)}"
        counts = [[row.get(name) for row in found] for name in ("sent", "formula")]
        sums = ["not counted" if None in some else f"{sum(some):,}" for some in counts]
        lines.append(f"{merge:10}{how:26}{right:>8}{sums[0]:>13}{sums[1]:>13}")
    return "\n".join(lines)


def run_drill(options: argparse.Namespace) -> int:
    """Let one rank fail; each of the others prints what it was told, and after how many seconds.

    All exit with status 0, or torchrun would end the rest before they have spoken.
    """
    rank, begun = int(os.environ["RANK"]), time.monotonic()
    try:
        with connect(timeout=options.timeout) as links:
            begun = time.monotonic()
            drill(links, options.drill, options.rank, seconds=1.5 * options.timeout)
    except (RankFailed, ValueError) as error:
        told = {"rank": rank, "error": type(error).__name__, "says": str(error)}
        told["ranks"] = getattr(error, "ranks", [])
        say(json.dumps(told | {"seconds": round(time.monotonic() - begun, 3)}))
    return 0


def say(text: str) -> None:
    """Print in one piece: ranks share their output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

"""Check context-parallel decoding on the ranks that torchrun has started, and count its bytes.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m reference.distributed

Rank 0 prints a table. `--json` prints every rank's rows instead, a line of JSON per rank. `--drill
raise`, `hang` or `kill` then lets a rank fail on purpose. Each of the others prints what it was
told, and after how many seconds, as JSON. All exit with status 0: torchrun ends the rest as soon as
one does not, before they have spoken.
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
    parser.add_argument("--drill", choices=("raise", "hang", "kill"), help="then a rank fails so")
    parser.add_argument("--rank", type=int, default=1, help="which one (default: 1)")
    parser.add_argument("--only", action="store_true", help="the drill, without the checks")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds for one message")
    options = parser.parse_args()
    torch.set_num_threads(1)
    begun, right = time.monotonic(), True
    try:
        with connect(timeout=options.timeout) as links:
            if not options.only:
                right = check(links, options.json)
            if options.drill:
                begun = time.monotonic()
                drill(links, options.drill, options.rank, seconds=1.5 * options.timeout)
    except (RankFailed, ValueError) as error:
        if not options.drill:
            raise
        told = {"rank": int(os.environ["RANK"]), "error": type(error).__name__, "says": str(error)}
        told["ranks"] = getattr(error, "ranks", [])
        say(json.dumps(told | {"seconds": round(time.monotonic() - begun, 3)}))
    return 0 if right else 1


def check(links: ProcessLinks, as_json: bool) -> bool:
    """Run all checks, print what they found, and say whether all of it was right."""
    rows = everything(links)
    if as_json:
        say(json.dumps({"rank": links.rank, "rows": rows}))
    elif links.rank == 0:
        say(table(rows, links))
    return all(row["right"] and row.get("sent") == row.get("formula") for row in rows)


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


def say(text: str) -> None:
    """Print in one piece: ranks share their output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

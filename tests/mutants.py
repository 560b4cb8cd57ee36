"""How many wrong answers do the checks refuse? Each right answer is spoilt in many small ways.

    make mutants                                    all exercises: an hour on two cores
    python tests/mutants.py 3.2 9.5                 these
    python tests/mutants.py --every 20              a sample
    python tests/mutants.py 3.2 --list              what is done to the answer, without trying it

A mutant is a right answer with one thing changed, as `course.check.variants` does it. It is
`refused` if the check fails, and `named` if the check says what is wrong: by a mistake of the
exercise, or by the change itself, which the check looks for where no mistake fits. A mutant that
computes the same as the right answer is none: those are listed in `equivalent_mutants.toml`, each
with its reason.

Each mutant runs in a process of its own, since a spoilt pointer may end it. Prints a table and what
got through; exits with 1 if fewer than 97 % are refused, or fewer than half of these named.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.toml")
REFUSED, NAMED = 0.97, 0.5
SECONDS = 20.0  # for a mutant's check; one that loops forever is refused by then


class Mutant(NamedTuple):
    """One changed answer. what: "old line → new line", unique within its exercise."""

    exercise: str
    what: str
    source: str


class Verdict(NamedTuple):
    """What a check said of a mutant: "passed", "named", "unnamed" or "crashed"."""

    exercise: str
    what: str
    said: str
    name: str = ""


def tried(exercise, mutant: Mutant) -> Verdict:
    """Judge one mutant in a forked process."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            said, name = _judged(exercise, mutant)
            os.write(write, json.dumps([said, name]).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answers:
        answer = answers.read()
    os.waitpid(child, 0)
    said, name = json.loads(answer) if answer else ("crashed", "")
    return Verdict(mutant.exercise, mutant.what, said, name)


def _judged(exercise, mutant: Mutant) -> tuple[str, str]:
    import torch

    from course.check import compiler, judge, rewritten
    from course.check.report import Status

    torch.set_num_threads(1)
    compiler.start = lambda: None  # only what passes is compiled
    try:
        answer = rewritten.defined(exercise.right, mutant.source, "mutant")
        report = judge(dataclasses.replace(exercise, seconds=SECONDS), answer, seed=1)
    except Exception as error:  # such as a name that is missing
        return "unnamed", type(error).__name__
    finally:
        compiler.stop()
    if report.status is Status.PASS:
        return "passed", ""
    return ("named", report.mistake.name) if report.mistake else ("unnamed", "")


def every_mutant(wanted: list[str], every: int) -> Iterator[tuple[object, Mutant]]:
    """Yield (exercise, mutant) of the exercises wanted (none: all), every n-th of each."""
    from course.check import catalogue, rewritten, variants

    for lesson in catalogue.lessons():
        for exercise in catalogue.exercises(lesson):
            if wanted and exercise.id not in wanted:
                continue
            found = variants.of(rewritten.source_of(exercise.right))
            yield from ((exercise, Mutant(exercise.id, x.what, x.source)) for x in found[::every])


def equivalents() -> dict[str, dict[str, str]]:
    """Return exercise id → what → why it computes the same."""
    return tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")) if EQUIVALENT.exists() else {}


def table(verdicts: list[Verdict]) -> tuple[str, float, float]:
    """Return the table and what got through, the share refused, and the share of these named."""
    same = equivalents()
    lines = [f"{'exercise':<10}{'mutants':>8}{'equivalent':>12}{'refused':>9}{'named':>7}"]
    totals = [0, 0, 0, 0]
    through = []
    for exercise in dict.fromkeys(verdict.exercise for verdict in verdicts):
        own = [verdict for verdict in verdicts if verdict.exercise == exercise]
        real = [x for x in own if not (x.said == "passed" and x.what in same.get(exercise, {}))]
        refused = [x for x in real if x.said != "passed"]
        named = [x for x in refused if x.said == "named"]
        counts = len(own), len(own) - len(real), len(refused), len(named)
        totals = [x + y for x, y in zip(totals, counts, strict=True)]
        lines.append(f"{exercise:<10}{counts[0]:>8}{counts[1]:>12}{counts[2]:>9}{counts[3]:>7}")
        through += [f"  {x.exercise}  {x.what}" for x in real if x.said == "passed"]
    share = totals[2] / max(1, totals[0] - totals[1])
    named_share = totals[3] / max(1, totals[2])
    lines.append(f"{'all':<10}{totals[0]:>8}{totals[1]:>12}{totals[2]:>9}{totals[3]:>7}")
    lines.append(f"refused: {share:.1%} of those not equivalent; named: {named_share:.1%} of these")
    return (
        "\n".join(lines + (["", "got through:", *through] if through else [])),
        share,
        named_share,
    )


def main() -> int:
    """Try mutants on all cores and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exercise", nargs="*", help="ids, such as 3.2; default: all")
    parser.add_argument("--every", type=int, default=1, help="every n-th mutant of each")
    parser.add_argument("--list", action="store_true", help="print the mutants, try none")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--json", help="a file for the verdicts")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # "0/2": what one of two processes does
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if options.list:
        for _, mutant in every_mutant(options.exercise, options.every):
            print(f"{mutant.exercise}  {mutant.what}")
        return 0
    if options.part:
        return _part(options)
    verdicts = _all_parts(options)
    text, share, named = table(verdicts)
    print(text)
    if options.json:
        Path(options.json).write_text(json.dumps(verdicts, ensure_ascii=False, indent=1))
    return int(share < REFUSED or named < NAMED)


def _part(options: argparse.Namespace) -> int:
    """Try every n-th mutant and print a line of JSON for each."""
    first, parts = map(int, options.part.split("/"))
    for i, (exercise, mutant) in enumerate(every_mutant(options.exercise, options.every)):
        if i % parts == first:
            print(json.dumps([i, *tried(exercise, mutant)], ensure_ascii=False), flush=True)
    return 0


def _all_parts(options: argparse.Namespace) -> list[Verdict]:
    """Start the processes, follow them with a progress bar, return the verdicts in order."""
    from tqdm import tqdm

    total = sum(1 for _ in every_mutant(options.exercise, options.every))
    command = [sys.executable, __file__, *options.exercise, "--every", str(options.every)]
    processes = [
        subprocess.Popen(
            [*command, "--part", f"{i}/{options.jobs}"], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for i in range(options.jobs)
    ]
    numbered = {}
    with tqdm(total=total, unit="mutant", disable=None) as bar:
        for line in _lines(processes):
            number, *verdict = json.loads(line)
            numbered[number] = Verdict(*verdict)
            bar.update()
    if len(numbered) != total:
        raise RuntimeError(f"{total - len(numbered)} mutants of {total} have no verdict")
    return [numbered[number] for number in sorted(numbered)]


def _lines(processes: list[subprocess.Popen]) -> Iterator[str]:
    """Yield the lines of several processes as they come."""
    import queue
    import threading

    lines: queue.Queue[str | None] = queue.Queue()

    def follow(process: subprocess.Popen) -> None:
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    for process in processes:
        threading.Thread(target=follow, args=(process,), daemon=True).start()
    left = len(processes)
    while left:
        line = lines.get()
        if line is None:
            left -= 1
        else:
            yield line


if __name__ == "__main__":
    sys.exit(main())

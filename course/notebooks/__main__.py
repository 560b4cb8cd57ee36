"""The command line: python -m course.notebooks run|lint|generate|check|census [FILES]."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from course.notebooks import census, generate, lint, run
from course.notebooks.files import notebooks

DOES = {
    "run": "execute notebooks and store their outputs (default: all lessons and solutions)",
    "lint": "check notebooks against the rules (default: all lessons and solutions)",
    "generate": "write exercises/ from solutions/; answers found there are kept",
    "check": "say where exercises/ differs from what solutions/ generates",
    "census": "count lessons, exercises, checks and mistakes",
}


def main(argv: list[str]) -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m course.notebooks",
        epilog="\n".join(f"  {name:<10}{text}" for name, text in DOES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=DOES)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    given = [path.resolve() for path in options.files]
    if absent := [path.name for path in given if not path.is_file()]:
        parser.error(f"no such file: {', '.join(absent)}")
    if options.what == "run":
        return min(1, run.run(given or notebooks("notebooks") + notebooks("solutions")))
    if options.what == "lint":
        return lint.show(given or notebooks("notebooks") + notebooks("solutions"))
    if options.what == "generate":
        return generate.generate(given or notebooks("solutions"))
    if options.what == "check":
        complaints = generate.drifted(given or notebooks("solutions"))
        print(*complaints or ["exercises/ is what solutions/ generates"], sep="\n")
        return 1 if complaints else 0
    return census.show()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

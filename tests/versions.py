"""The kernels under every Triton that `pyproject.toml` allows, each installed aside.

    make versions                                      all of them: more than an hour on two cores
    python tests/versions.py --triton 3.6.0 --into DIR one of them; DIR keeps what is downloaded

Each release goes into a folder of its own, which comes before the environment's own Triton on
sys.path; PyTorch stays the same. Under each:

    interpreted   the tests of `TESTS`: decoding with its features, prefill forward and backward,
                  append, merge, plan, and the primitives they share; and how exercises are
                  checked, which uses what is private to Triton's interpreter
    compiled      every launch of `kernels.compile_report`, for sm_80 and sm_90, with its promises

Prints a table and what went wrong; exits with 1 if anything did. It downloads 200 MB per release
and is no part of CI.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
# The oldest's interpreter cannot loop over a loaded number with a newer numpy: `kernels.runtime`.
RELEASES = {"3.6.0": ("numpy<2.4",), "3.7.1": (), "3.8.0": (), "3.9.0": ()}
TESTS = (
    "kernels/flash_decoding/test_features.py",
    "kernels/flash_attention/test_forward.py",
    "kernels/flash_attention/test_backward.py",
    "kernels/test_append.py",
    "kernels/test_merge.py",
    "kernels/test_plan.py",
    "kernels/test_primitives.py",
    "check/test_kernels.py",
    "check/test_launches.py",
    "check/test_compiler.py",
)


@dataclass
class Outcome:
    """What happened under one release; `trouble` has a line per failure."""

    triton: str
    ran: int = 0
    passed: int = 0
    cases: int = 0
    compiled: int = 0
    unsupported: int = 0
    broken: int = 0
    trouble: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        interpreted = f"{self.passed} of {self.ran}"
        compiled = f"{self.compiled} of {self.cases}"
        promises = f"{self.broken} broken" if self.broken else "all kept"
        return f"{self.triton:<8}{interpreted:<14}{compiled:<12}{self.unsupported:<15}{promises}"


def install(release: str, folder: Path) -> None:
    """Put a release of Triton into a folder, unless it is there."""
    if not (folder / "triton").exists():
        wanted = (f"triton=={release}", *RELEASES.get(release, ()))
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps")
        subprocess.run([*pip, "--target", str(folder), *wanted], check=True)


def environment(folder: Path, interpreted: bool) -> dict[str, str]:
    """The variables under which Python finds the Triton in `folder`, and this checkout."""
    paths = os.pathsep.join([str(folder), str(ROOT)])
    return os.environ | {"PYTHONPATH": paths, "TRITON_INTERPRET": str(int(interpreted))}


def check_found(release: str, folder: Path) -> None:
    """Raise RuntimeError if another Triton is imported than the one in `folder`."""
    command = [sys.executable, "-c", "import triton; print(triton.__version__, triton.__file__)"]
    done = subprocess.run(
        command, env=environment(folder, True), cwd=ROOT, capture_output=True, text=True
    )
    if not done.stdout.startswith(f"{release} {folder}"):
        raise RuntimeError(f"must import triton {release} from {folder}; got {done.stdout!r}")


def sample(every: int) -> list[str]:
    """List every n-th of the tests, by name."""
    pytest = (sys.executable, "-m", "pytest", "-q", "--collect-only")
    files = [f"tests/{name}" for name in TESTS]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*pytest, *files], env=env, cwd=ROOT, capture_output=True, text=True)
    return [line for line in done.stdout.splitlines() if "::" in line][::every]


def run_tests(outcome: Outcome, folder: Path, tests: Sequence[str]) -> None:
    """Run the tests in the interpreter and count them."""
    with tempfile.TemporaryDirectory() as scratch:
        record, names = Path(scratch, "record.xml"), Path(scratch, "names")
        names.write_text("\n".join(tests))
        pytest = (sys.executable, "-m", "pytest", "-q", "-n", "2", f"--junitxml={record}")
        env = environment(folder, True)
        command = [*pytest, f"@{names}"]
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
        cases = list(ElementTree.parse(record).iter("testcase")) if record.exists() else []
    for case in cases:
        outcome.ran += case.find("skipped") is None
        bad = case.find("failure") if case.find("error") is None else case.find("error")
        if bad is None:
            outcome.passed += case.find("skipped") is None
        else:
            name = f"{case.get('classname')}::{case.get('name')}"
            outcome.trouble.append(f"{name}: {bad.get('message', '').splitlines()[0]}")
    if done.returncode and not outcome.trouble:
        outcome.trouble.append(f"pytest exited with {done.returncode}: {done.stdout[-500:]}")


def compile_all(outcome: Outcome, folder: Path, archs: Sequence[str], kernel: str) -> None:
    """Compile the launches and count them."""
    command = [sys.executable, "-m", "kernels.compile_report", "--json", "--arch", *archs]
    done = subprocess.run(
        [*command, "--kernel", kernel],
        env=environment(folder, False),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        outcome.trouble.append(f"the compile report failed: {done.stderr[-500:]}")
        return
    for row in json.loads(done.stdout):
        name = f"{row['name']} on {row['arch']}"
        outcome.unsupported += bool(row["unsupported"])
        outcome.cases += not row["unsupported"]
        outcome.compiled += not row["failure"] and not row["unsupported"]
        outcome.broken += bool(row["violations"])
        outcome.trouble += [f"{name} {broken}" for broken in row["violations"]]


def main() -> int:
    """Install, run and compile; print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--triton", nargs="+", default=list(RELEASES), help="releases")
    parser.add_argument("--into", type=Path, help="where to keep them; default: a temporary folder")
    parser.add_argument("--arch", nargs="+", default=["80", "90"])
    parser.add_argument("--every", type=int, default=1, help="only every n-th test: a sample")
    parser.add_argument("--kernel", default="", help="part of a name, as in the compile report")
    options = parser.parse_args()
    outcomes, tests = [], sample(options.every)
    with tempfile.TemporaryDirectory() as temporary:
        for release in options.triton:
            folder = (options.into or Path(temporary)).resolve() / release
            install(release, folder)
            check_found(release, folder)
            outcomes.append(Outcome(release))
            run_tests(outcomes[-1], folder, tests)
            compile_all(outcomes[-1], folder, options.arch, options.kernel)
            print(f"{outcomes[-1]}", *outcomes[-1].trouble, sep="\n  ", file=sys.stderr, flush=True)
    print(f"{'triton':<8}{'interpreted':<14}{'compiled':<12}{'not supported':<15}promises")
    print(*outcomes, sep="\n")
    return int(any(outcome.trouble for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())

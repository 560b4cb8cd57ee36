"""`python -m benchmarks NAME`: run one benchmark, print its table, write its JSON."""

import argparse
import os


def main() -> None:
    """Parse the command line and run what it names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True)
    cpu = names.add_parser("cpu", help="decode on this CPU's threads, ours against PyTorch's")
    cpu.add_argument("--quick", action="store_true", help="tiny shapes: does it run at all?")
    cpu.add_argument("--out", help="where to write the JSON (default: benchmarks/results/cpu.json)")
    options = parser.parse_args()
    # Read once, when torch is loaded: large pages spare the page tables of a large cache.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    from benchmarks import cpu as benchmark

    benchmark.main(options)


if __name__ == "__main__":
    main()

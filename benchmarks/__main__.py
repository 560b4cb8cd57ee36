"""`python -m benchmarks NAME`: run one benchmark, print its table, write its JSON."""

import argparse
import os
from importlib import import_module

BENCHMARKS = {
    "cpu": "decode on this CPU's threads, ours against PyTorch's",
    "decode": "decode on a GPU: FlashAttention-2, Flash-Decoding, PyTorch's SDPA",
}


def main() -> None:
    """Parse the command line and run what it names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True)
    for name, text in BENCHMARKS.items():
        options = names.add_parser(name, help=text)
        options.add_argument("--quick", action="store_true", help="tiny shapes: does it run?")
        options.add_argument("--out", help="where to write the JSON (default: benchmarks/results/)")
    options = parser.parse_args()
    if options.name == "cpu":
        # Read once, when torch is loaded: large pages spare the page tables of a large cache.
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    import_module(f"benchmarks.{options.name}").main(options)


if __name__ == "__main__":
    main()

"""`python -m benchmarks NAME`: run one benchmark, print its table, write its JSON."""

import argparse
import json
import os
from importlib import import_module

BENCHMARKS = {
    "decode": "decode on a GPU: Flash-Decoding, FlashAttention-2 with one query, and every peer",
    "variants": "paged, quantised and ragged caches, and what a call costs the host",
    "prefill": "FlashAttention-2, forward and backward, against PyTorch and flash-attn",
    "splits": "time against the number of splits",
}
OTHERS = {
    "all": "all of the above, then the targets",
    "targets": "judge the targets by the records in benchmarks/results/",
    "host": "what a call costs the host: without a GPU, beside an earlier build and peers",
    "cpu": "decode on this CPU's threads, ours against PyTorch's",
    "model": "decode a real model on this CPU, ours against transformers",
    "serving": "serving a real model on this CPU: many at once, prompts in chunks",
    "quality": "perplexity of two models with caches of eight bits",
    "speculative": "speculative decoding on this CPU: tokens per pass, and time against plain",
    "distributed": "merges and decode steps over 2 and 4 ranks of this machine",
    "peers_static": "ours beside peers, compiled and counted; runs nothing, needs no GPU",
    "report": "a notebook and an HTML page about this machine, to hand in",
}
RECORDED = (
    "cpu",
    "model",
    "serving",
    "quality",
    "speculative",
    "distributed",
    "host",
    "peers_static",
)
"""Take --quick and --out, and write one record."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = root.add_subparsers(dest="name", required=True)
    for name, text in (BENCHMARKS | OTHERS).items():
        one = names.add_parser(name, help=text)
        if name == "targets":
            continue
        one.add_argument("--quick", action="store_true", help="tiny shapes, to see that it runs")
        if name == "report":
            one.add_argument("--out", metavar="FOLDER", help="output folder (default: report/)")
            one.add_argument("--export", action="store_true", help="export again without measuring")
            continue
        where = "folder" if name == "all" else "file"
        one.add_argument("--out", help=f"{where} for the JSON (default: in benchmarks/results/)")
        if name in ("host", "peers_static"):
            one.add_argument("--before", metavar="COMMIT", help="the earlier build")
        if name == "host":
            one.add_argument("--wheels", metavar="FOLDER", help="where peers' wheels are, or go")
        if name in RECORDED:
            continue
        one.add_argument("--only", metavar="REGEX", help="only cells whose name contains this")
        one.add_argument("--peers", metavar="REGEX", help="only peers whose full name matches")
        one.add_argument("--budget", metavar="SECONDS", type=float, help="stop within this time")
        one.add_argument("--resume", action="store_true", help="keep the cells of an earlier run")
        one.add_argument("--commit", help="the commit to record, on a machine without git history")
        if name != "all":
            one.add_argument("--figure", metavar="FILE", help="draw the record, as PNG or SVG")
    return root


def measure(options: argparse.Namespace) -> int:
    """Run GPU benchmarks. Returns the exit status: 1 if an answer was wrong."""
    from benchmarks import targets
    from benchmarks.session import Session

    session, records = Session(options), {}
    for name in BENCHMARKS if options.name == "all" else [options.name]:
        module = import_module(f"benchmarks.{name}")
        record = module.run(session)
        records[name] = json.loads(record.as_json())
        if not record.rows:
            print(f"{name}: no cell measured, nothing written")
            continue
        if records[name]["gpu"].startswith("none"):
            print(f"{name}: interpreted on the CPU. This shows that it runs; it measures nothing.")
        print(module.table(records[name]["rows"]))
        if hasattr(module, "remarks"):
            print(module.remarks(records[name]))
        if record.path:
            print(f"written: {record.path}")
        if getattr(options, "figure", None):
            from benchmarks.figure import draw

            draw(name, records[name]).savefig(options.figure, bbox_inches="tight")
            print(f"drawn: {options.figure}")
    judged = {name: record for name, record in records.items() if name in targets.JUDGES}
    if judged and not options.quick:
        print(targets.report(judged))
    print(*(f"WRONG ANSWER, not timed: {text}" for text in session.failed), sep="\n", end="")
    return 1 if session.failed else 0


def main() -> None:
    """Parse the command line and run what it names."""
    options = parser().parse_args()
    if options.name in (*RECORDED, "report"):
        # torch reads this once, when loaded: huge pages keep a large cache's page tables small.
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
        import_module(f"benchmarks.{options.name}").main(options)
    elif options.name == "targets":
        from benchmarks import protocol, targets

        print(targets.report({name: protocol.load(name) for name in targets.JUDGES}))
    else:
        raise SystemExit(measure(options))


if __name__ == "__main__":
    main()

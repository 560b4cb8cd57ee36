"""A report on this machine, to hand in: measured, drawn, and exported to HTML.

    python -m benchmarks report [--out FOLDER] [--quick] [--export]

writes three files into the folder (default: report/, which git ignores):

    report.json     what was measured, and in what circumstances
    report.ipynb    the template next to this module, executed: machine, protocol, tables, figures
    report.html     the same for a browser

Some cells of the notebook are yours to write in. Edit report.ipynb, then run `report --export`:
nothing is measured again, and the HTML has your words. A later `report` keeps them too. If you have
changed other cells, your notebook is kept beside the new one.
"""

import json
import textwrap
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nbformat
import torch
from matplotlib.figure import Figure
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from tqdm import tqdm

from benchmarks import here, protocol, tpot
from benchmarks.curves import verdict
from course import environment
from course.figures.benchmark import side_by_side, tpot_curves
from course.notebooks.answers import sources

TEMPLATE = Path(__file__).with_suffix(".ipynb")
FOLDER = here.ROOT / "report"
JSON, NOTEBOOK, HTML = "report.json", "report.ipynb", "report.html"
FEWEST = 12  # contexts for a verdict on a curve
RUNS = 2  # of each curve: a verdict needs a witness
YOURS = "yours"  # the tag of cells that the reader writes in

PROTOCOL = (
    "Every answer is judged against fp64 before it is timed: Flash-Decoding and naive attention by "
    "the course's rule, the others at 16 times the error of naive attention in the same dtype. "
    "Fresh normal random data. Inputs rotate through sets that together are at least twice the "
    "last-level cache (on a GPU: four times the L2, at least 256 MiB). Contestants take turns, in "
    "an order that shifts; warm-up rounds are not counted; median and quartiles. On a CPU: the "
    "host's clock, and all but one of PyTorch's threads, so that the rest of the machine has a "
    "core. On a GPU: CUDA events around a CUDA graph of one call per set. TPOT: a decode step of "
    "reference.transformer with random weights (2 layers, width 256, 8 query heads on 2 KV heads, "
    "D 64, fp32), timed once its logits agree with naive attention's; each step takes the next of "
    "many caches of random numbers, together at least twice the last-level cache (GPU: as above); "
    "contexts take turns too. Two runs; a verdict on a curve is given if both agree."
)


def measure(quick: bool) -> dict[str, Any]:
    """Measure side by side and TPOT; return what report.json holds. quick: seconds, not minutes."""
    shape = here.QUICK_SHAPE if quick else here.SHAPE
    contexts = tpot.QUICK_CONTEXTS if quick else tpot.CONTEXTS
    device = "cuda" if here.has_gpu() else "cpu"
    rounds = 5 if quick else tpot.ROUNDS
    torch.set_num_threads(here.THREADS)
    with tqdm(total=1 + RUNS * rounds, unit="cell", desc="report") as bar:
        bar.set_postfix_str("side by side")
        cell = here.side_by_side(shape, quick=quick)
        bar.update()
        bar.set_postfix_str("TPOT")
        decoder, by_name = tpot.Decoder(device=device), tpot.attentions(device)
        agreed = tpot.agree(decoder, contexts[-1], by_name)
        right = {name: attend for name, attend in by_name.items() if agreed[name]}
        runs = [tpot.measure(decoder, contexts, right, rounds, bar.update) for _ in range(RUNS)]
    return {
        **protocol.circumstances(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else "none",
        "last_level_cache": here.last_level_cache(),
        "quick": quick,
        "protocol": PROTOCOL,
        "side_by_side": asdict(cell),
        "tpot": {"contexts": list(contexts), "runs": runs, "agreed": agreed},
    }


def write(folder: Path, *, quick: bool = False, export: bool = False) -> Path:
    """Measure (unless `export`), execute the template, export it; returns the HTML's path.

    Raises FileNotFoundError for an export if nothing has been measured yet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / JSON
    if not export:
        record.write_text(json.dumps(measure(quick), indent=1) + "\n", encoding="utf-8")
    elif not record.exists():
        raise FileNotFoundError(f"{record.name} is not there: run `report` without --export first")
    nb = with_your_words(read(TEMPLATE), folder / NOTEBOOK)
    execute(nb, folder)
    content = nbformat.writes(nb) + "\n"
    keep_aside(folder / NOTEBOOK, content)
    (folder / NOTEBOOK).write_text(content, encoding="utf-8")
    exporter = HTMLExporter(template_name="lab", exclude_input_prompt=True)
    exporter.exclude_output_prompt = True
    body, _ = exporter.from_notebook_node(nb, {"metadata": {"name": "Decode attention, measured"}})
    (folder / HTML).write_text(body, encoding="utf-8")
    return folder / HTML


def read(path: Path) -> NotebookNode:
    """Return the notebook at a path."""
    return nbformat.read(path, as_version=4)


def with_your_words(template: NotebookNode, earlier: Path) -> NotebookNode:
    """Copy what an earlier report says in its cells tagged "yours" into the same cells."""
    if earlier.exists() and sources(earlier.read_bytes()):
        said = {cell.id: cell.source for cell in read(earlier).cells if is_yours(cell)}
        for cell in template.cells:
            if is_yours(cell):
                cell.source = said.get(cell.id, cell.source)
    return template


def keep_aside(earlier: Path, content: str) -> None:
    """Rename an earlier report with more in it than the new one takes over, and say so."""
    if not earlier.exists() or sources(earlier.read_bytes()) == sources(content.encode()):
        return
    n = 1
    while (aside := earlier.with_name(f"{earlier.stem} (yours {n}).ipynb")).exists():
        n += 1
    earlier.replace(aside)
    print(f"Your changes outside the cells meant for them are kept in {aside.name}.")


def is_yours(cell: NotebookNode) -> bool:
    """Whether a cell is the reader's to write in."""
    return YOURS in cell.metadata.get("tags", [])


def execute(nb: NotebookNode, folder: Path) -> None:
    """Run all cells in place, in that folder, with a progress bar."""
    code = sum(cell.cell_type == "code" for cell in nb.cells)
    client = NotebookClient(
        nb,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
    )
    with tqdm(total=code, unit="cell", desc=NOTEBOOK) as bar:
        client.on_cell_executed = lambda **_: bar.update()
        client.execute()


def main(options: Namespace) -> None:
    """Write the report, and say where it is."""
    folder = Path(options.out) if options.out else FOLDER
    html = write(folder, quick=options.quick, export=options.export)
    print(f"written: {html}")


# ---- what the template's cells call: each shows one part of report.json ------------------------


def load() -> dict[str, Any]:
    """Return what was measured, from the folder that the notebook is in."""
    return json.loads(Path(JSON).read_text(encoding="utf-8"))


def machine(record: Mapping[str, Any]) -> str:
    """Say where, when and with what it was measured, and what this environment has now."""
    cache = record["last_level_cache"]
    rows = {
        "Date": record["date"],
        "CPU": f"{record['cpu']}, {record['cores']} cores; PyTorch's threads: {record['threads']}",
        "Cache": f"{cache / 2**20:g} MiB" if cache else "not known",
        "Commit": record["commit"] or "not known",
    }
    lines = [f"{name:<9}{value}" for name, value in rows.items()]
    quick = ["", "A quick run: it shows that everything works. Don't quote its times."]
    return "\n".join([*lines, str(environment.report()), *(quick if record["quick"] else [])])


def rules(record: Mapping[str, Any]) -> str:
    """Return the protocol, wrapped into lines."""
    return textwrap.fill(record["protocol"], 96)


def cell(record: Mapping[str, Any]) -> here.SideBySide:
    """Return the contestants' cell."""
    return here.SideBySide(**record["side_by_side"])


def bars(record: Mapping[str, Any]) -> Figure:
    """Draw the contestants, the fastest on top."""
    ordered = sorted(cell(record).quartiles.items(), key=lambda item: item[1][1])
    return side_by_side(dict(ordered))


def curves(record: Mapping[str, Any]) -> Figure:
    """Draw TPOT against context, for the first run."""
    return tpot_curves(record["tpot"]["contexts"], record["tpot"]["runs"][0])


def shapes(record: Mapping[str, Any]) -> str:
    """Say whether each TPOT curve is flat, linear, bent or stepped, if its runs agree."""
    contexts, runs, lines = record["tpot"]["contexts"], record["tpot"]["runs"], []
    for name in runs[0]:
        lines.append(f"{name:<16}{verdict(contexts, [run[name] for run in runs])}")
    if len(contexts) < FEWEST:
        lines = [f"{len(contexts)} contexts are too few for a verdict; a full run has more"]
    wrong = [name for name, right in record["tpot"]["agreed"].items() if not right]
    return "\n".join(lines + [f"{name:<16}not timed: its logits are wrong" for name in wrong])


def recorded() -> str:
    """Say which runs the course has recorded, to compare yours with."""
    lines = []
    for name in ("cpu", "decode"):
        run = protocol.load(name)
        if run is None:
            lines.append(f"{name}.json: no run has been recorded yet")
        else:
            where = run.get("gpu", run["cpu"])
            lines.append(f"{name}.json: {where}, torch {run['torch']}, {run['date'][:10]}, "
                         f"{len(run['rows'])} rows")  # fmt: skip
    return "\n".join(lines)

"""The report: measured, executed, exported; what its reader has written stays."""

import json
import os
import subprocess
import sys

import nbformat
import pytest

from benchmarks import here, report
from course.notebooks.files import METADATA


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A quick report, made the way a reader makes it, and what the command printed."""
    folder = tmp_path_factory.mktemp("report")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "report", "--quick", "--out", str(folder)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def test_three_files_and_where_they_are(written):
    folder, done = written
    assert sorted(path.name for path in folder.iterdir()) == [
        report.HTML,
        report.NOTEBOOK,
        report.JSON,
    ]
    assert str(folder / report.HTML) in done.stdout
    assert "report:" in done.stderr and "report.ipynb:" in done.stderr  # the two bars


def test_the_page_has_machine_protocol_table_and_figures(written):
    folder, _ = written
    html = (folder / report.HTML).read_text(encoding="utf-8")
    record = json.loads((folder / report.JSON).read_text(encoding="utf-8"))
    assert html.count('<img alt="') == 2  # the bars and the curves
    assert record["cpu"] in html and record["torch"] in html and "PyTorch" in html
    assert "judged against fp64 before it is timed" in " ".join(html.split())
    for name in ("naive", "SDPA", "Flash-Decoding"):
        assert name in html and name in record["side_by_side"]["quartiles"]
        for run in record["tpot"]["runs"]:
            assert len(run[name]) == len(record["tpot"]["contexts"])
    assert len(record["tpot"]["runs"]) == 2 and "too few for a verdict" in html
    assert record["threads"] == 1  # of two
    assert "Don't quote its times" in html.replace("&#39;", "'")
    assert "no run has been recorded yet" in html or "decode.json: " in html


def test_the_notebook_ran_without_an_error(written):
    folder, _ = written
    nb = nbformat.read(folder / report.NOTEBOOK, as_version=4)
    outputs = [out for cell in nb.cells if cell.cell_type == "code" for out in cell.outputs]
    assert len(outputs) >= 6 and not any(out.output_type == "error" for out in outputs)


def test_your_words_stay_and_nothing_is_measured_again(written):
    folder, _ = written
    record = (folder / report.JSON).read_bytes()
    nb = nbformat.read(folder / report.NOTEBOOK, as_version=4)
    mine = next(cell for cell in nb.cells if report.is_yours(cell))
    mine.source = "I expected nothing, and was surprised."
    nbformat.write(nb, folder / report.NOTEBOOK)
    report.write(folder, export=True)
    assert "I expected nothing, and was surprised." in (folder / report.HTML).read_text("utf-8")
    assert (folder / report.JSON).read_bytes() == record


@pytest.mark.parametrize("broken", [False, True], ids=["other cells", "half a file"])
def test_a_report_changed_elsewhere_is_kept_beside_the_new_one(broken, written, tmp_path, capsys):
    folder, _ = written
    earlier = tmp_path / report.NOTEBOOK
    nb = nbformat.read(folder / report.NOTEBOOK, as_version=4)
    nb.cells.append(nbformat.v4.new_markdown_cell("What I think of it."))
    mine = nbformat.writes(nb)[: 500 if broken else None]
    earlier.write_text(mine, encoding="utf-8")
    template = report.with_your_words(report.read(report.TEMPLATE), earlier)
    report.keep_aside(earlier, nbformat.writes(template))
    assert (tmp_path / "report (yours 1).ipynb").read_text("utf-8") == mine
    assert "report (yours 1).ipynb" in capsys.readouterr().out and not earlier.exists()
    earlier.write_text(nbformat.writes(template), encoding="utf-8")
    report.keep_aside(earlier, nbformat.writes(template))
    assert earlier.exists()


def test_an_export_needs_a_measurement(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"report\.json is not there"):
        report.write(tmp_path / "new", export=True)


def test_the_template_is_stored_without_outputs_and_has_places_to_write():
    nb = nbformat.read(report.TEMPLATE, as_version=4)
    nbformat.validate(nb)
    assert nb.metadata == METADATA
    assert sum(report.is_yours(cell) for cell in nb.cells) == 4
    assert len({cell.id for cell in nb.cells}) == len(nb.cells)
    for cell in nb.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None


def test_the_default_folder_is_git_ignored():
    ignored = (here.ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert report.FOLDER == here.ROOT / "report" and "/report/" in ignored


def test_a_curve_whose_logits_are_wrong_is_told():
    record = {"tpot": {"contexts": [*range(12)], "runs": [{}], "agreed": {"fast": False}}}
    assert report.shapes(record) == "fast            not timed: its logits are wrong"


@pytest.mark.parametrize("contexts", [11, 12])
def test_there_is_no_verdict_on_few_points(contexts):
    run = {"x": [[1.0, float(i), 9.0] for i in range(contexts)]}
    record = {"contexts": [*range(contexts)], "runs": [run, run], "agreed": {"x": True}}
    told = report.shapes({"tpot": record})
    assert ("linear" in told) == (contexts == 12)
    assert ("11 contexts are too few for a verdict" in told) == (contexts == 11)

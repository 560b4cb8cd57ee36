"""benchmarks.distributed: its fit, its formulas, its table; the recorded run keeps its word."""

import json

import pytest

from benchmarks import distributed, distributed_worker
from benchmarks.distributed import fit, model, table, with_formula
from course import recorded
from reference.distributed import MERGES


def merge_row(ranks, merge, messages, sent, ms, how="ring"):
    return {"kind": "merge", "ranks": ranks, "merge": merge, "how": how, "rows": 32,
            "messages": messages, "sent": sent, "ms": ms}  # fmt: skip


def test_the_fit_finds_a_latency_and_a_bandwidth():
    rows = [merge_row(2, "gather", 1, n, 0.3 + 2e-6 * n) for n in (1e3, 1e5, 1e7)]
    a, b = fit(rows)
    assert a == pytest.approx(0.3) and b == pytest.approx(2e-6)


def test_the_model_is_fitted_to_two_ranks_and_asked_for_four():
    two = [merge_row(2, "gather", 1, n, 0.3 + 2e-6 * n) for n in (1e3, 1e5, 1e7)]
    four = [merge_row(4, "gather", 3, 3e5, 3 * (0.9 + 0.6))]
    found = model([*two, *four])
    assert found["ms_per_round"] == pytest.approx(0.3, abs=1e-4)
    assert found["ms_per_mb"] == pytest.approx(2.0, abs=1e-4)
    assert [r["ratio"] for r in found["ratios"]] == [1, 1, 1, pytest.approx(3.0)]


def test_formulas():
    assert with_formula(merge_row(4, "gather", 3, 0, 1))["formula"] == 3 * 32 * (128 * 4 + 4)
    wire = {"kind": "wire", "ranks": 4, "merge": "heads", "rows": 32, "times": 8, "bytes": 0}
    assert with_formula(wire)["formula"] == 8 * 3 * 32 * (128 * 4 + 4)
    assert "formula" not in with_formula({"kind": "step"})


def test_the_table_shows_every_kind_of_row():
    rows = [with_formula(merge_row(2, "heads", 1, 8256, 0.5))]
    rows += [{"kind": "step", "ranks": 2, "length": 4096, "attend_ms": 1.0, "ms": 1.5}]
    wire = {"kind": "wire", "ranks": 2, "merge": "gather", "rows": 32, "times": 1, "bytes": 33024}
    text = table([*rows, with_formula(wire)])
    assert "8,256" in text and "4,096" in text and "1.000" in text


def test_the_sizes_can_be_shared_out():
    assert all(rows % distributed_worker.HEADS[0] == 0 for rows in distributed_worker.ROWS)
    assert distributed.D == distributed_worker.D


@pytest.mark.skipif(recorded.load("distributed") is None, reason="no run is recorded")
def test_the_recorded_run():
    record = recorded.load("distributed")
    rows = record["rows"]
    assert {row["ranks"] for row in rows} == set(distributed.RANKS)
    counted = [row for row in rows if row["kind"] == "merge" and "sent" in row]
    assert {row["merge"] for row in counted} == set(MERGES)
    assert [row for row in counted if row["sent"] != row["formula"]] == []
    wire = [row for row in rows if row["kind"] == "wire" and row["formula"]]
    assert all(0.98 < row["bytes"] / row["formula"] < 1.1 for row in wire)  # TCP's headers
    again = model(rows)
    assert json.loads(json.dumps(again)) == record["model"]

"""Records grow cell by cell, survive interruption, and never mix code versions or machines."""

import json
from argparse import Namespace

import pytest

from benchmarks.record import Record

HEADER = {"code": "abc", "gpu": "H200", "driver": "1", "torch": "2", "triton": "3"}


def one(ms):
    return {"x_ms": ms, "cannot": {}}


def test_a_record_is_on_disk_after_every_cell(tmp_path):
    path = tmp_path / "deep" / "run.json"
    record = Record(path, HEADER, resume=False)
    for i in range(3):
        record.put(f"cell {i}", one(float(i)))
        stored = json.loads(path.read_text())
        assert [r["cell"] for r in stored["rows"]] == [f"cell {n}" for n in range(i + 1)]
    assert stored["gpu"] == "H200" and stored["rows"][2]["x_ms"] == 2.0
    assert [f.name for f in path.parent.iterdir()] == ["run.json"]  # no draft left over


def test_resume_keeps_rows_and_a_new_one_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "run.json"
    first = Record(path, HEADER | {"peers": {"x": "1", "gone": "2"}}, resume=False)
    first.put("a", one(1.0))
    first.put("b", one(2.0))
    again = Record(path, HEADER | {"peers": {"x": "1"}}, resume=True)
    assert again.kept == 2 and again.dropped == 0
    again.put("a", one(5.0))
    stored = json.loads(path.read_text())
    assert {r["cell"]: r["x_ms"] for r in stored["rows"]} == {"a": 5.0, "b": 2.0}
    assert stored["peers"] == {"x": "1", "gone": "2"}


@pytest.mark.parametrize("key", HEADER)
def test_rows_of_other_code_or_another_machine_are_dropped(tmp_path, key):
    path = tmp_path / "run.json"
    Record(path, HEADER, resume=False).put("a", one(1.0))
    again = Record(path, HEADER | {key: "other"}, resume=True)
    assert again.rows == {} and again.dropped == 1


def test_without_resume_a_record_starts_anew(tmp_path):
    path = tmp_path / "run.json"
    Record(path, HEADER, resume=False).put("a", one(1.0))
    Record(path, HEADER, resume=False).put("b", one(1.0))
    assert [r["cell"] for r in json.loads(path.read_text())["rows"]] == ["b"]


def test_a_cell_is_held_once_everyone_has_a_time_or_a_reason():
    record = Record(None, HEADER, resume=False)
    record.put("a", {"x_ms": 1.0, "z_eager_ms": 1.0, "cannot": {"y": "no", "z graph": "no"}})
    assert record.holds("a", ["x", "y", "z"]) and record.holds("a", [])
    assert not record.holds("a", ["x", "w"]) and not record.holds("b", [])


def test_an_empty_record_is_json(tmp_path):
    path = tmp_path / "run.json"
    Record(path, HEADER, resume=False).write()
    assert json.loads(path.read_text()) == HEADER | {"rows": []}


@pytest.fixture
def session(monkeypatch, tmp_path):
    """A session with a made-up ceiling; `**options` as on the command line."""
    pytest.importorskip("triton", reason="triton has no wheels for this system")
    from benchmarks import session as module

    monkeypatch.setattr(module.ceilings, "measure", lambda quick: {"read_GBps": 100.0})
    monkeypatch.setattr(module.ceilings, "table", lambda row: "")

    def make(**options):
        defaults = {"name": "decode", "quick": True, "out": str(tmp_path / "run.json")}
        rest = {"only": None, "peers": None, "budget": None, "resume": False, "commit": None}
        return module.Session(Namespace(**(defaults | rest | options)))

    return make


def cells_of(log, names, measure=None):
    from benchmarks.session import Cell

    def cell(name):
        def run():
            log.append(name)
            return measure(name) if measure else one(1.0)

        return Cell(name, ("x",), run)

    return [cell(name) for name in names]


def test_a_session_measures_what_is_wanted_and_missing(session):
    log = []
    session(only="a").run("decode", cells_of(log, ["a 1", "b", "a 2"]), "how")
    assert log == ["a 1", "a 2"]
    record = session(resume=True).run("decode", cells_of(log, ["a 1", "b", "a 2"]), "how")
    assert log == ["a 1", "a 2", "b"] and list(record.rows) == ["a 1", "a 2", "b"]
    assert record.rows["b"]["read_GBps"] == 100.0 and record.header["protocol"] == "how"


def test_a_budget_ends_a_run_before_it_is_over(session, monkeypatch):
    from benchmarks import session as module

    clock = iter([float(x) for x in range(0, 10_000, 10)])  # ten seconds per look
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    log = []
    record = session(budget=60).run("decode", cells_of(log, list("abcdefgh")), "how")
    assert 0 < len(log) < 8 and list(record.rows) == log


def test_a_wrong_answer_fails_the_session(session):
    one_session = session()
    row = {"cannot": {"flash_decoding": "wrong: max error 3", "flex": "out of memory"}}
    one_session.run("decode", cells_of([], ["a"], lambda _: row), "how")
    assert len(one_session.failed) == 1 and "max error 3" in one_session.failed[0]


def test_peers_are_chosen_by_their_whole_name(session):
    assert session().wants("flex")
    chosen = session(peers="sdpa.*|flex")
    wanted = ("sdpa", "sdpa_math", "flex", "flex_max", "flash_attn")
    assert [chosen.wants(name) for name in wanted] == [True, True, True, False, False]
    assert chosen.wants("flash_decoding", ours=True)


def test_a_quick_run_writes_nothing_unless_told_where(session, tmp_path):
    from benchmarks.protocol import RESULTS

    assert session(out=None).path("decode") is None
    assert session(out=None, quick=False).path("decode") == RESULTS / "decode.json"
    whole = session(name="all", out=str(tmp_path))
    assert whole.path("splits") == tmp_path / "splits.json"


def test_the_record_names_the_commit_it_is_told(session):
    assert session(commit="cafe").header("how")["commit"] == "cafe"
    header = session().header("how", peers={"x": "missing"})
    assert header["peers"] == {"x": "missing"} and len(header["code"]) == 12


def test_compiled_benchmarks_need_a_gpu(session):
    from kernels.runtime import INTERPRETED

    if not INTERPRETED:
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="needs a GPU; --quick shows that it runs"):
        session(quick=False).run("decode", [], "how")

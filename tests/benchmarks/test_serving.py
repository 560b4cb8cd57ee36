"""python -m benchmarks serving: all contestants answer the same, and the run writes its record."""

import json
import sys
from argparse import Namespace

import pytest

pytest.importorskip("transformers", reason="needs transformers: pip install .[hf]")

from benchmarks import serving as module
from benchmarks.model import as_transformers, read_model, share_angles
from benchmarks.serving import QUICK, chunks, gaps_meanwhile, prompts, throughput


@pytest.fixture(scope="module")
def pair():
    model = read_model(quick=True)
    for weight in model.parameters():  # logits that differ, so that no choice is a near tie
        if weight.ndim == 2:
            weight.mul_(weight.shape[1] ** -0.5 / 0.02)
    peer = as_transformers(model)
    share_angles(model, peer)
    return model, peer


def test_everyone_answers_the_same_requests_with_the_same_tokens(pair):
    rows = throughput(*pair, prompts(quick=True), QUICK._replace(rounds=2))
    assert [row["contestant"] for row in rows] == [
        "engine", "one after another", "transformers generate_batch", "transformers generate"
    ]  # fmt: skip
    for row in rows:
        assert row["same_tokens"] == row["requests"] == 8 and row["rounds"] == 2
        assert row["ms"] > 0 and row["tokens_per_s"] > 0
    assert rows[0]["ratio"] == 1.0


def test_a_contestant_that_answers_otherwise_is_seen(pair, monkeypatch):
    right = module.one_by_one

    def wrong(model, asked, new):
        first, *others = right(model, asked, new)
        return [[*first[:-1], first[-1] ^ 1], *others]

    monkeypatch.setattr(module, "one_by_one", wrong)
    rows = throughput(*pair, prompts(quick=True), QUICK)
    assert {row["contestant"]: row["same_tokens"] for row in rows}["one after another"] == 7


@pytest.mark.parametrize("step_tokens, steps", [(8, 6), (None, 1)])
def test_the_gaps_are_those_from_the_arrival_to_the_newcomers_first_token(pair, step_tokens, steps):
    gaps, ttft = gaps_meanwhile(pair[0], [1, 2, 3], list(range(40)), QUICK, step_tokens)
    assert len(gaps) == steps  # 40 tokens beside one that decodes: seven a step
    assert 0.0 < ttft <= sum(gaps)  # the first gap begins with the token before the arrival


def test_a_row_for_chunks_and_one_without(pair):
    cut, whole = chunks(pair[0], prompts(quick=True), QUICK)
    assert (cut["step_tokens"], whole["step_tokens"]) == (8, None)
    assert cut["long_prompt"] == whole["long_prompt"] == 40
    assert whole["gaps"] == 1 and whole["share_of_whole"] == 1.0
    assert cut["share_of_whole"] == pytest.approx(
        cut["largest_gap_ms"] / whole["largest_gap_ms"], abs=1e-4
    )


def test_a_quick_run_writes_a_record(tmp_path, capsys):
    out = tmp_path / "serving.json"
    module.main(Namespace(quick=True, out=str(out)))
    record = json.loads(out.read_text())
    assert {"date", "cpu", "threads", "torch", "transformers", "protocol", "model"} <= set(record)
    assert [row["part"] for row in record["rows"]] == ["throughput"] * 4 + ["chunks"] * 2
    text = capsys.readouterr().out
    assert "one after another" in text and "40 tokens arrive, in one piece" in text


def test_without_the_model_it_says_what_to_run(monkeypatch):
    def missing(quick):
        raise FileNotFoundError("SmolLM2 is not here yet: run `make model`")

    monkeypatch.setattr(module, "read_model", missing)
    with pytest.raises(SystemExit, match="run `make model`"):
        module.main(Namespace(quick=False, out=None))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SystemExit, match=r"transformers.*pip install"):
        module.main(Namespace(quick=False, out=None))

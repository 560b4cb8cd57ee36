"""python -m benchmarks speculative: the record is what its protocol says, and can be made again."""

import json
from argparse import Namespace
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from benchmarks import protocol
from benchmarks import speculative as module
from reference import checkpoint
from reference.pretrained import load
from reference.speculative import expected_tokens


@pytest.fixture(scope="module")
def record():
    return protocol.load("speculative")


@pytest.fixture(scope="module")
def task():
    return module.byte_task(quick=False)


def test_the_record_has_every_model_task_and_draft(record, task):
    assert record["protocol"] == module.PROTOCOL
    assert record["text"] == sha256(module.TEXT.read_bytes()).hexdigest()
    file = checkpoint.WEIGHTS / checkpoint.FILE
    assert record["models"]["bytes"] == sha256(file.read_bytes()).hexdigest()
    assert {"commit", "cpu", "threads", "torch", "load"} <= set(record)
    rows = {(r["model"], r["task"], r["temperature"], r["draft"]) for r in record["rows"]}
    ours = {
        ("bytes", "continue", t, name) for t in (0.0, 1.0) for name in module.drafts_for(task, t)
    }
    assert ours < rows and len(rows) == len(record["rows"])
    assert {r[1] for r in rows} == {"continue", "copy", "answer"}
    passes = {(r["model"], r["queries"]) for r in record["passes"]}
    assert passes == {(m, n) for m in ("bytes", "smollm2") for n in module.QUERIES}


def test_the_numbers_of_a_row_fit_together(record):
    for row in record["rows"]:
        accepted = row["tokens_per_step"] * row["passes"] - row["passes"]
        assert accepted == pytest.approx(row["drafted"] * row["drafted_and_kept"], abs=1)
        assert row["tokens"] <= row["passes"] + accepted + 1  # the last pass may give too many
        assert 0 <= row["drafted_and_kept"] <= row["acceptance"] <= 1
        best = expected_tokens(row["acceptance_by_place"])
        assert 1 <= row["tokens_per_step"] <= best + 0.01  # had every pass had a full draft
        low, middle, high = row["ratio_quartiles"]
        assert 0 < low <= middle == row["ratio"] <= high


def test_plain_and_speculative_wrote_the_same(record):
    assert [r["draft"] for r in record["rows"] if r["temperature"] == 0 and not r["same"]] == []


@pytest.mark.parametrize("name", ["look-up, 8 tokens", "1 of 4 layers, 3 tokens"])
def test_the_counts_can_be_made_again(record, task, name):
    """Greedy, one prompt: as often accepted as all four together, but for the sample."""
    one = task._replace(prompts=task.prompts[:1], tokens=48)
    texts, timings = module.run_all(one, module.drafts_for(one, 0.0)[name], 0.0)
    plain, _ = module.run_all(one, None, 0.0)
    assert texts == plain
    found = module.counted(timings)
    assert found["tokens"] == 47 and found["passes"] < 47
    assert sum(len(t.steps) for t in timings) == found["passes"]


def test_a_pass_is_repeated_on_the_same_keys():
    model = checkpoint.load()
    rows = module.passes("bytes", model, rounds=2, context=40)
    assert [r["queries"] for r in rows] == list(module.QUERIES)
    assert rows[0]["ratio"] == 1 and all(r["ms"] > 0 for r in rows)


def test_attention_with_a_mask_is_the_naive_one():
    q, k, v = torch.randn(3, 1, 4, 2, 8).unbind(0)
    lengths = torch.tensor([4], dtype=torch.int32)
    causal = torch.ones(4, 4).tril().bool()
    plain, masked = module.attend(q, k, v, lengths), module.attend(q, k, v, lengths, mask=causal)
    torch.testing.assert_close(plain, masked)


def test_a_quick_run_writes_a_record(tmp_path, capsys):
    out = tmp_path / "speculative.json"
    module.main(Namespace(quick=True, out=str(out)))
    found = json.loads(out.read_text())
    assert {"date", "torch", "protocol", "models", "text", "passes", "load"} <= set(found)
    assert {row["model"] for row in found["rows"]} == {"bytes"}
    assert all(row["same"] for row in found["rows"] if row["temperature"] == 0)
    assert "look-up, tree of 3" in capsys.readouterr().out


def test_without_the_model_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(module, "load", lambda: load(Path("nowhere.gguf")))
    with pytest.raises(SystemExit, match=r"there is nothing at nowhere\.gguf"):
        module.main(Namespace(quick=False, out=None))

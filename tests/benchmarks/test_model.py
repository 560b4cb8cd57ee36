"""python -m benchmarks model: both sides compute the same step, and the run writes its record."""

import json
import sys
from argparse import Namespace

import pytest
import torch

from benchmarks import model as module
from benchmarks.model import Ours, Theirs, as_transformers, read_model, verify

pytest.importorskip("transformers", reason="needs transformers: pip install .[hf]")


@pytest.fixture(scope="module")
def pair():
    model = read_model(quick=True)
    for weight in model.parameters():  # scores that differ, so that a missing key shows
        if weight.ndim == 2:
            weight.mul_(weight.shape[1] ** -0.5 / 0.02)
    peer = as_transformers(model)
    module.share_angles(model, peer)
    return model, peer


@pytest.mark.parametrize("context", [1, 2, 17, 64])
def test_both_compute_the_same_step_again_and_again(pair, context):
    model, peer = pair
    ours = Ours(model, context)
    theirs = Theirs(peer, ours.cache, context)
    first, again = theirs(), theirs()
    assert torch.equal(first, again) and torch.equal(ours(), ours())
    assert verify(ours(), first, context) < 1e-5


def test_a_key_less_or_another_angle_is_noticed(pair):
    model, peer = pair
    ours = Ours(model, 40)
    theirs = Theirs(peer, ours.cache, 40)
    ours.context -= 1
    with pytest.raises(AssertionError, match="of the largest at 40 keys"):
        verify(ours(), theirs(), 40)
    nan = torch.full((1, 1, 3), torch.nan)
    with pytest.raises(AssertionError):
        verify(nan, torch.ones(1, 1, 3), 40)


def test_the_weights_are_shared(pair):
    model, peer = pair
    assert peer.model.embed_tokens.weight.data_ptr() == model.embedding.weight.data_ptr()
    gate = peer.model.layers[1].mlp.gate_proj.weight
    assert gate.data_ptr() == model.blocks[1].gate_up.weight.data_ptr()
    assert peer.lm_head.weight.data_ptr() == model.embedding.weight.data_ptr()


def test_a_quick_run_writes_a_record(tmp_path, capsys):
    out = tmp_path / "model.json"
    module.main(Namespace(quick=True, out=str(out)))
    record = json.loads(out.read_text())
    assert {"date", "cpu", "threads", "torch", "transformers", "protocol", "model"} <= set(record)
    (row,) = record["rows"]
    assert row["context"] == 40 and row["rounds"] == 3
    assert row["ours_ms"] > 0 and row["transformers_ms"] > 0 and row["ours_peak_bytes"] > 0
    assert row["cache_bytes"] == 40 * 2 * 2 * 2 * 16 * 4
    assert f"{row['ratio']:.2f}×" in capsys.readouterr().out


def test_without_the_model_it_says_what_to_run(monkeypatch):
    def missing(quick):
        raise FileNotFoundError("SmolLM2 is not here yet: run `make model`")

    monkeypatch.setattr(module, "read_model", missing)
    with pytest.raises(SystemExit, match="run `make model`"):
        module.main(Namespace(quick=False, out=None))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SystemExit, match=r"transformers.*pip install"):
        module.main(Namespace(quick=False, out=None))

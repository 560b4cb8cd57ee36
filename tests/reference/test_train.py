"""reference.corpus and reference.train: the same seed gives the same text and weights."""

import doctest
import json

import pytest
import torch
from small_models import TINY

from reference import train as module
from reference.attention import attention
from reference.checkpoint import load, metadata, text_loss
from reference.corpus import HOLD_OUT, PIECE, collect, docstrings, documents, lesson_prose, pieces
from reference.train import batches, learning_rate, optimizer_for, parser, sdpa, train
from reference.transformer import Transformer

TEXT = b"split the keys, attend, merge the parts. " * 20


def test_the_corpus_is_prose_and_docstrings(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# One\n", "two\n"]},
        {"cell_type": "code", "source": ["secret = 1"]},
        {"cell_type": "markdown", "source": "three"},
    ]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    assert lesson_prose(tmp_path / "a.ipynb") == "# One\ntwo\n\nthree"
    code = (
        '"""Module."""\n\nclass A:\n    """Class."""\n\n    def f(self):\n        """Method."""\n'
    )
    (tmp_path / "a.py").write_text(code + '\n\ndef g():\n    x = """no docstring"""\n')
    assert docstrings(tmp_path / "a.py") == "Module.\n\nClass.\n\nMethod."


def test_pieces_are_cut_between_paragraphs():
    document = "\n\n".join("x" * 70 for _ in range(100))
    parts = list(pieces(document))
    assert "".join(parts) == document + "\n\n"
    assert all(PIECE <= len(part) < PIECE + 72 for part in parts[:-1])
    assert all(part.endswith("x\n\n") for part in parts)
    assert list(pieces("")) == ["\n\n"]


def test_the_same_text_every_time_and_no_piece_twice():
    training, held_out = collect()
    assert (training, held_out) == collect()
    parts = [piece.encode() for document in documents() for piece in pieces(document)]
    assert len(training) + len(held_out) == sum(map(len, parts))
    kept_out = [part for part in parts if part in held_out and part not in training]
    assert len(kept_out) == pytest.approx(len(parts) / HOLD_OUT, abs=1)
    assert b"".join(kept_out) == held_out
    assert len(training) > 200_000


def test_an_installed_package_has_no_lessons(tmp_path):
    with pytest.raises(FileNotFoundError, match="train from a checkout"):
        collect(tmp_path)


def trained(steps: int, seed: int = 0, bf16: bool = False) -> tuple[Transformer, list[float]]:
    torch.manual_seed(seed)
    model = Transformer(TINY)
    options = {"rows": 4, "length": 40, "peak": 1e-2, "seed": seed, "bf16": bf16}
    return model, list(train(model, TEXT, steps=steps, **options))


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_three_steps_lower_the_loss(bf16):
    model, losses = trained(3, bf16=bf16)
    assert losses[0] == pytest.approx(5.545, abs=0.05)  # log 256: it knows nothing
    assert losses[2] < losses[1] < losses[0]
    assert text_loss(model, TEXT) < losses[0] - 0.1
    assert all(w.dtype == torch.float32 for w in model.parameters())


def test_a_seed_settles_the_weights():
    (first, losses), (again, _), (other, _) = trained(2), trained(2), trained(2, seed=1)
    weights = [torch.cat([w.flatten() for w in m.parameters()]) for m in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert len(losses) == 2


def test_batches_are_stretches_of_the_text():
    text = bytes(range(50))
    stream = batches(text, 3, 9, seed=0)
    drawn = torch.cat([next(stream) for _ in range(100)])
    assert drawn.shape == (300, 10) and drawn.dtype == torch.int64
    assert (drawn.diff(dim=1) == 1).all()
    assert set(drawn[:, 0].tolist()) == set(range(41))  # every stretch, first and last too
    with pytest.raises(ValueError, match="at least 51 bytes; got 50"):
        next(batches(text, 3, 50, seed=0))


def test_the_rate_rises_and_falls():
    rates = [learning_rate(step, 40, 1.0) for step in range(40)]
    assert max(rates) == 1.0 and rates.index(1.0) == 1
    assert rates[1:] == sorted(rates[1:], reverse=True) and 0 < rates[-1] < 0.01
    assert [learning_rate(step, 1, 1.0) for step in range(1)] == [1.0]


def test_scales_do_not_decay():
    groups = optimizer_for(Transformer(TINY), 1e-3).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert sum(len(group["params"]) for group in groups) == len(
        list(Transformer(TINY).parameters())
    )
    assert {w.ndim for w in groups[1]["params"]} == {1}


def test_the_attention_it_trains_with_is_attention():
    q = torch.randn(2, 9, 6, 4, dtype=torch.float64)
    k, v = torch.randn(2, 2, 9, 2, 4, dtype=torch.float64)
    assert torch.allclose(sdpa(q, k, v, causal=True), attention(q, k, v, causal=True), atol=1e-12)


def test_the_best_weights_are_written(tmp_path, monkeypatch):
    """The held-out loss is made to rise after the second look, whose weights are kept."""
    monkeypatch.setattr(module, "Config", lambda: TINY)
    monkeypatch.setattr(module, "collect", lambda: (TEXT * 2, TEXT[:200]))
    looks = iter([3.0, 2.0, 2.5])
    monkeypatch.setattr(module, "text_loss", lambda *_: next(looks))
    options = parser().parse_args(["--out", str(tmp_path), "--steps", "5", "--every", "2"])
    assert module.run(options) == 2.0
    assert metadata(tmp_path)["steps"] == "4 of 5"
    assert load(tmp_path).config == TINY


def test_it_stops_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Config", lambda: TINY)
    monkeypatch.setattr(module, "collect", lambda: (TEXT * 2, TEXT[:200]))
    options = parser().parse_args(["--out", str(tmp_path), "--minutes", "0"])
    assert options.steps > 1
    files = []
    for _ in range(2):
        module.run(options)
        files.append(load(tmp_path).state_dict())
    assert metadata(tmp_path)["steps"] == f"1 of {options.steps}"
    assert all(torch.equal(w, files[1][name]) for name, w in files[0].items())  # seeded


def test_the_weights_of_the_course_are_not_overwritten_unasked():
    assert parser().parse_args([]).out.parts[-2:] == ("build", "weights")


def test_examples():
    assert doctest.testmod(module).failed == 0

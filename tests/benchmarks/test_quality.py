"""python -m benchmarks quality: the record is what its protocol says, and can be made again."""

import json
from argparse import Namespace
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from benchmarks import protocol
from benchmarks import quality as module
from reference import checkpoint
from reference.corpus import UNSEEN, collect, documents, lesson_prose
from reference.pretrained import load
from reference.quantized_cache import Format


@pytest.fixture(scope="module")
def record():
    return protocol.load("quality")


@pytest.fixture(scope="module")
def small():
    return module.small_model()


def test_the_record_has_every_model_and_format(record):
    rows = {(row["model"], row["k"], row["v"]) for row in record["rows"]}
    pairs = {(str(k), str(v)) for k, v in module.FORMATS}
    assert rows == {(model, *pair) for model in ("bytes", "smollm2") for pair in pairs}
    assert len(pairs) == len(module.FORMATS) == 20
    assert record["text"] == sha256(module.TEXT.read_bytes()).hexdigest()
    file = checkpoint.WEIGHTS / checkpoint.FILE
    assert record["models"]["bytes"] == sha256(file.read_bytes()).hexdigest()
    assert record["protocol"] == module.PROTOCOL
    for row in record["rows"]:
        assert row["tokens"] >= 8192 and row["low"] <= row["ratio"] <= row["high"]
        assert len(row["window_losses"]) == row["tokens"] // (module.LENGTH - 1)


@pytest.mark.parametrize("pair", [module.FORMATS[0], (Format(torch.float8_e5m2, "tensor"),) * 2])
def test_the_record_can_be_made_again(record, small, pair):
    """Sums in another order move a loss by 1e-6; a number that crosses a boundary, the rest."""
    (row,) = (
        r for r in record["rows"] if (r["model"], r["k"], r["v"]) == ("bytes", *map(str, pair))
    )
    again = [float(x.mean()) for x in module.losses(small, *pair, small.windows[:2])]
    assert again == pytest.approx(row["window_losses"][:2], abs=2e-3)


def test_a_loss_is_not_another_format_s(record, small):
    """The tolerance above can fail: between formats there is more than that."""
    pair = (Format(torch.float8_e5m2, "tensor"),) * 2
    fp32 = record["rows"][0]["window_losses"][:2]
    assert all(
        abs(float(x.mean()) - loss) > 2e-3
        for x, loss in zip(module.losses(small, *pair, small.windows[:2]), fp32, strict=True)
    )


def test_the_channels_can_be_found_again(record, small):
    again, stored = module.channels(small), record["channels"]["bytes"]
    assert again["layer"] == stored["layer"]
    for name in ("k", "v", "k_spread", "v_spread"):
        torch.testing.assert_close(
            torch.tensor(again[name]), torch.tensor(stored[name]), rtol=1e-3, atol=1e-3
        )
    assert torch.tensor(record["channels"]["smollm2"]["k"]).shape == (3, 64)


def test_no_model_learns_from_the_text(small):
    text = module.TEXT.read_text(encoding="utf-8")
    training, held_out = collect()
    for lesson in UNSEEN:
        prose = lesson_prose(checkpoint.WEIGHTS.parents[1] / "notebooks" / lesson)
        assert prose not in set(documents())
        paragraphs = [p for p in text.split("\n\n") if len(p) > 200 and p in prose]
        assert not any(p.encode() in training + held_out for p in paragraphs)
    assert small.windows.numel() > 8192


def test_a_quick_run_writes_a_record(tmp_path, capsys):
    out = tmp_path / "quality.json"
    module.main(Namespace(quick=True, out=str(out)))
    found = json.loads(out.read_text())
    assert {"date", "torch", "protocol", "models", "text", "channels"} <= set(found)
    assert [row["k"] for row in found["rows"]] == ["fp32", "e5m2 per tensor"]
    assert found["rows"][0]["ratio"] == 1 < found["rows"][1]["low"]
    assert "e5m2 per tensor" in capsys.readouterr().out


def test_without_the_model_it_says_what_to_do(monkeypatch):
    def missing():
        return load(Path("nowhere.gguf"))

    monkeypatch.setattr(module, "load_pretrained", missing)
    with pytest.raises(SystemExit, match=r"there is nothing at nowhere\.gguf"):
        module.main(Namespace(quick=False, out=None))

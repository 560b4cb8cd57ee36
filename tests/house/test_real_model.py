"""What a lesson says of SmolLM2 is the same whether the model is here or only its record."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks import quality
from course import real_model, recorded
from reference import checkpoint, pretrained

NUMBERS = ("k", "v", "k_spread", "v_spread")


@pytest.fixture
def record():
    return recorded.load("quality")


def test_without_the_model_the_record_speaks_and_says_so(record):
    found = real_model.channels(None)
    assert found.source == real_model.origin(record)
    assert found.source == f"recorded on {record['date'][:10]}, torch {record['torch'][:6]}"
    kept = record["channels"]["smollm2"]
    assert found.layer == kept["layer"] and found.tokens is None
    for name in NUMBERS:
        assert torch.equal(getattr(found, name), torch.tensor(kept[name]))
    assert found.k.shape == found.v.shape == (3, 64)
    assert found.k_spread.shape == found.v_spread.shape == (30,)


def test_with_neither_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(recorded, "load", lambda name: None)
    with pytest.raises(FileNotFoundError, match="run `make model`"):
        real_model.channels(None)


def test_load_gives_none_where_there_is_no_model(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "SMOLLM2", tmp_path / "none.gguf")
    assert real_model.load() is None


def test_what_is_computed_is_what_the_benchmark_records():
    """The course's own model in place of SmolLM2: the same sums, so equal but for the digits."""
    small = quality.small_model()
    tokenizer = SimpleNamespace(encode=lambda text: quality.as_bytes(text).tolist())
    found = real_model.channels(pretrained.Pretrained(small.model, tokenizer))
    kept = quality.channels(small)
    assert found.source == "computed now" and found.layer == kept["layer"]
    for name, digits in zip(NUMBERS, (4, 4, 3, 3), strict=True):
        stored = torch.tensor(kept[name])
        assert (getattr(found, name) - stored).abs().max() <= 0.51 * 10**-digits
    for one, largest in zip(found.tokens, (found.k, found.v), strict=True):
        assert one.shape == (2048, 2, 16) and torch.equal(one.abs().amax(0), largest)


def test_the_lesson_reads_the_text_that_the_benchmark_calibrates_on():
    assert real_model.LENGTH == quality.LENGTH
    assert real_model.WINDOWS == quality.CALIBRATION_WINDOWS
    assert checkpoint.WEIGHTS / checkpoint.HELD_OUT == quality.CALIBRATION


@pytest.mark.skipif(not pretrained.SMOLLM2.exists(), reason="needs the model: make model")
def test_the_model_and_its_record_agree(record):
    """Sums in another order move a key by some 1e-5 of itself; the record has four decimals.

    What the lesson says of single tokens, which no record holds, is checked here, too.
    """
    found = real_model.channels(real_model.load())
    stored = real_model.channels(None)
    assert found.source == "computed now" and found.layer == stored.layer
    for name in NUMBERS:
        torch.testing.assert_close(
            getattr(found, name), getattr(stored, name), rtol=1e-3, atol=1e-3
        )
    k, v = found.tokens
    finer = {name: _finer(x) for name, x in (("k", k), ("v", v))}
    assert finer["k"]["channel"] > 1.5 * finer["k"]["token"]
    assert finer["v"]["token"] > finer["v"]["channel"]
    assert (k[:, 0].abs().argmax(-1) == found.k[0].argmax()).float().mean() > 0.99
    assert all(8 < x.abs().max() / x.square().mean().sqrt() < 9 for x in (k, v))


def _finer(x: torch.Tensor) -> dict[str, float]:
    """By how much the rms of the scales is smaller than one for all; x: (tokens, Hkv, D)."""
    a = x.abs()
    largest = {"token": a.amax(-1), "channel": a.amax(0)}
    return {per: float(a.max() / m.square().mean().sqrt()) for per, m in largest.items()}


def test_spread_is_the_largest_channel_over_the_median():
    largest = torch.tensor([[[1.0, 2.0, 8.0]], [[3.0, 3.0, 3.0]]])  # two layers, one head
    assert real_model.spread(largest).tolist() == [4.0, 1.0]

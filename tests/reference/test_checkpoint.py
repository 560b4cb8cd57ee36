"""reference.checkpoint: the weights that come with the course, and their metadata."""

import hashlib
import json
import math
import re

import pytest
import torch
from small_models import TINY, small_model

from reference.checkpoint import (
    FILE,
    HELD_OUT,
    WEIGHTS,
    held_out,
    load,
    metadata,
    save,
    text_loss,
    windows,
)
from reference.corpus import collect
from reference.flash_decoding import flash_decode
from reference.flash_decoding_cpu import flash_decode_threads
from reference.generate import generate
from reference.train import sdpa
from reference.transformer import KVCache

TEXT = bytes(range(97, 123)) * 4


def test_the_stored_loss_is_the_loss():
    """Summing in another order on another CPU moves a mean over thousands of bytes far less."""
    text, about = held_out(), metadata()
    assert hashlib.sha256(text).hexdigest() == about["held_out_sha256"]
    assert len(text) > 8000
    assert text_loss(load(), text, attend=sdpa) == pytest.approx(
        float(about["held_out_loss"]), abs=1e-4
    )


def test_the_model_is_small_and_has_learned():
    assert (WEIGHTS / FILE).stat().st_size <= 3_000_000
    # Byte frequencies, which ignore order: their entropy is the best loss without any context.
    text = held_out()
    p = torch.bincount(torch.tensor(list(text))) / len(text)
    entropy = -float((p * p.clamp(min=1e-9).log()).sum())
    assert float(metadata()["held_out_loss"]) < entropy / 2


def test_it_writes_english():
    """Nine words in ten are words of the course, and many of them are different."""
    known = set(re.findall(r"[a-z]+", b" ".join(collect()).decode().lower()))
    model, words = load(), []
    options = {"max_bytes": 200, "temperature": 0.5, "attend": flash_decode_threads}
    for seed, prompt in enumerate((b"The last query ", b"With one split, ")):
        got = b"".join(generate(model, prompt, **options, seed=seed))
        words += re.findall(r"[a-z]+", got.decode(errors="replace").lower())[1:-1]
    long = [word for word in words if len(word) > 3]
    assert len(long) > 25 and len(set(long)) > 12
    assert sum(word in known for word in words) > 0.9 * len(words)


def test_saved_and_read_again(tmp_path):
    model = small_model(dtype=torch.float32)
    loss = save(model, tmp_path / "new" / "folder", TEXT, {"seed": "7"})
    folder = tmp_path / "new" / "folder"
    about, again = metadata(folder), load(folder)
    assert again.config == TINY and json.loads(about["config"])["width"] == TINY.width
    assert about["seed"] == "7" and held_out(folder) == TEXT
    assert all(
        torch.equal(w, model.state_dict()[name].half().float())
        for name, w in again.state_dict().items()
    )
    assert f"{loss:.6f}" == about["held_out_loss"] == f"{text_loss(again, TEXT):.6f}"
    assert loss != text_loss(model, TEXT)  # it is the loss of the rounded weights
    assert not any(w.requires_grad for w in again.parameters()) and not again.training
    assert load(folder, dtype=torch.bfloat16).norm.weight.dtype == torch.bfloat16


def test_loss_of_a_text():
    """Window by window, against the definition; also through a cache."""
    model = small_model()
    wanted = []
    for start in range(0, len(TEXT) - 1, TINY.context):
        part = torch.tensor([list(TEXT[start : start + TINY.context + 1])])
        p = torch.log_softmax(model(part[:, :-1]), -1)
        wanted += [-float(p[0, i, part[0, i + 1]]) for i in range(part.shape[1] - 1)]
    assert len(wanted) == len(TEXT) - 1
    assert text_loss(model, TEXT) == pytest.approx(sum(wanted) / len(wanted), rel=1e-12)

    def make_cache(rows):
        return KVCache(TINY, rows, dtype=torch.float64)

    through = text_loss(model, TEXT, attend=flash_decode, make_cache=make_cache)
    assert through == pytest.approx(text_loss(model, TEXT), rel=1e-12)
    with torch.no_grad():
        model.embedding.weight.zero_()
    assert text_loss(model, TEXT) == pytest.approx(math.log(256))
    for text in (b"", b"a"):
        with pytest.raises(ValueError, match="at least 2 bytes"):
            text_loss(model, text)


@pytest.mark.parametrize("size", [2, 5, 8, 9, 10, 17])
def test_windows_cover_every_target_once(size):
    text = bytes(range(size))
    targets = [byte for window in windows(text, 4) for row in window for byte in row[1:].tolist()]
    assert targets == list(text[1:])


def test_misuse(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path)
    save(small_model(dtype=torch.float32), tmp_path, TEXT, {"config": '{"layers": 3}'})
    with pytest.raises(RuntimeError, match=r"size mismatch|Missing key"):
        load(tmp_path)
    assert {file.name for file in WEIGHTS.iterdir()} == {FILE, HELD_OUT}

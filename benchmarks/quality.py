"""What an eight-bit KV cache does to the perplexity of two models.

    python -m benchmarks quality [--quick] [--out FILE]

The model of this course (bytes) and SmolLM2-135M-Instruct (after `make model`) predict the same
text: `unseen.txt`, the prose of lessons 11 and 12 as they were when both models had long been
trained. Every cache rounds what it stores; everything else is fp32. Nothing here is timed, so any
machine gives the same table, but for the last digits. Text, models and formats are named in the
record: run it again and compare.
"""

from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.protocol import RESULTS, save
from course.real_model import channels_of
from reference import checkpoint
from reference.flash_decoding_cpu import flash_decode_threads
from reference.perplexity import compare, cut, perplexity, token_losses
from reference.pretrained import SMOLLM2
from reference.pretrained import load as load_pretrained
from reference.quantized_cache import (
    STATIC,
    Format,
    QuantizedKVCache,
    calibrate,
)
from reference.transformer import Transformer

TEXT = Path(__file__).with_name("unseen.txt")
CALIBRATION = checkpoint.WEIGHTS / checkpoint.HELD_OUT
LENGTH = 512  # tokens per window: the context of the smaller model
CALIBRATION_WINDOWS = 4

FP32, BF16 = Format(torch.float32), Format(torch.bfloat16)
INT8, E4M3, E5M2 = torch.int8, torch.float8_e4m3fn, torch.float8_e5m2
SAME = [FP32, BF16, *(Format(*x) for x in product((INT8, E4M3, E5M2), ("tensor", "head", "token")))]
DIFFERENT = [
    (Format(INT8, "tensor"), BF16),
    (BF16, Format(INT8, "tensor")),
    (Format(E4M3, "tensor"), BF16),
    (BF16, Format(E4M3, "tensor")),
    (Format(E5M2, "tensor"), BF16),
    (BF16, Format(E5M2, "tensor")),
    (Format(INT8, "token"), Format(E5M2, "tensor")),
    (Format(E5M2, "tensor"), Format(INT8, "token")),
    (Format(INT8, "channel"), Format(INT8, "token")),
]
FORMATS = [(format, format) for format in SAME] + DIFFERENT
"""Pairs (K, V). The first is what all others are compared with."""

PROTOCOL = (
    f"windows of {LENGTH} tokens of benchmarks/unseen.txt, each from an empty cache, all tokens "
    "but the first predicted; weights and arithmetic fp32, K (rotated) and V rounded when stored; "
    f"static scales: the largest magnitudes of the first {CALIBRATION_WINDOWS} windows of "
    "reference/weights/held_out.txt, what exceeds them is clamped; ratio = perplexity / perplexity "
    "with an fp32 cache; low, high: its 95 % interval, 10,000 bootstrap draws of whole windows; "
    "window_losses: nats per token of each window; channels: the largest |x| of each channel of K "
    "and V over the calibration windows, `spread` = largest / median over a layer's channels."
)


class Subject(NamedTuple):
    """A model, its text and its calibration text in windows int64 (n, LENGTH), its file's sum."""

    name: str
    model: Transformer
    windows: Tensor
    calibration: Tensor
    sum: str


def as_bytes(text: str) -> Tensor:
    """The tokens of the course's own model: UTF-8 bytes, int64 (n,)."""
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).long()


def small_model() -> Subject:
    """The course's own model, whose tokens are bytes."""
    file = checkpoint.WEIGHTS / checkpoint.FILE
    return _subject("bytes", checkpoint.load(), as_bytes, file)


def smollm2() -> Subject:
    """SmolLM2. Raises FileNotFoundError before `make model`."""
    model, tokenizer = load_pretrained()
    return _subject("smollm2", model, lambda text: torch.tensor(tokenizer.encode(text)), SMOLLM2)


def _subject(name: str, model: Transformer, encode: Callable[[str], Tensor], file: Path) -> Subject:
    windows, calibration = (
        cut(encode(path.read_text(encoding="utf-8")), LENGTH) for path in (TEXT, CALIBRATION)
    )
    total = sha256(file.read_bytes()).hexdigest()
    return Subject(name, model, windows, calibration[:CALIBRATION_WINDOWS], total)


def losses(subject: Subject, k: Format, v: Format, windows: Iterable[Tensor]) -> Iterator[Tensor]:
    """The losses (LENGTH − 1,) of each window, read through a cache in these formats."""
    model, attend = subject.model, flash_decode_threads
    static = k.per in STATIC or v.per in STATIC
    scales = calibrate(model, subject.calibration, k, v, attend) if static else (None, None)

    def make_cache() -> QuantizedKVCache:
        return QuantizedKVCache(model.config, k, v, scales=scales, capacity=LENGTH)

    return token_losses(model, windows, make_cache, attend)


def measure(subject: Subject, formats: list[tuple[Format, Format]]) -> list[dict[str, Any]]:
    """One row per pair of formats; the first pair is the one that all are compared with."""
    rows, before = [], None
    bar = tqdm(total=len(formats) * len(subject.windows), desc=subject.name, unit="window")
    for k, v in formats:
        after = []
        for loss in losses(subject, k, v, subject.windows):
            after.append(loss)
            bar.update()
        found = torch.stack(after)
        before = found if before is None else before
        ratio = compare(found, before)
        config = subject.model.config
        per_head = k.bytes_per_token(config.D) + v.bytes_per_token(config.D)
        rows.append({
            "model": subject.name,
            "k": str(k),
            "v": str(v),
            "perplexity": round(perplexity(found), 5),
            **{name: round(x, 6) for name, x in ratio._asdict().items()},
            "bytes_per_token": config.layers * config.Hkv * per_head,
            "tokens": found.numel(),
            "window_losses": [round(x, 6) for x in found.mean(1).tolist()],
        })  # fmt: skip
    bar.close()
    return rows


def channels(subject: Subject) -> dict[str, Any]:
    """How much the channels of K and of V differ in size: in every layer, and one layer whole."""
    found = channels_of(subject.model, subject.calibration)
    return {
        "layer": found.layer,
        **{
            name: [[round(c, 4) for c in head] for head in getattr(found, name).tolist()]
            for name in ("k", "v")
        },
        **{
            name: [round(s, 3) for s in getattr(found, name).tolist()]
            for name in ("k_spread", "v_spread")
        },
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    head = f"{'model':8} {'K':17} {'V':17} {'perplexity':>10}   ratio (95 % interval)"
    return "\n".join([head, *(
        f"{r['model']:8} {r['k']:17} {r['v']:17} {r['perplexity']:>10.4f}   "
        f"{r['ratio']:.4f} ({r['low']:.4f} to {r['high']:.4f})"
        for r in rows
    )])  # fmt: skip


def main(options: Namespace) -> None:
    """Measure both models, print the table, write the record."""
    try:
        subjects = [small_model()] if options.quick else [small_model(), smollm2()]
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from error
    formats = FORMATS
    if options.quick:
        formats = [(FP32, FP32), (Format(E5M2, "tensor"),) * 2]
        subjects = [subject._replace(windows=subject.windows[:2]) for subject in subjects]
    rows = [row for subject in subjects for row in measure(subject, formats)]
    print(table(rows))
    path = Path(options.out) if options.out else RESULTS / "quality.json"
    text = sha256(TEXT.read_bytes()).hexdigest()
    models = {subject.name: subject.sum for subject in subjects}
    outliers = {subject.name: channels(subject) for subject in subjects}
    save(path, PROTOCOL, rows, models=models, text=text, channels=outliers)
    print(f"written: {path}")

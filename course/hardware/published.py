"""Figures that others measured on an A100, beside the model's: where they agree and where not.

**The post** (Dao, Haziza, Massa & Sizov 2023, "Flash-Decoding for long-context inference"): one
attention layer, fp16, 16 query heads, 2 KV heads, D 128; it says all that the model needs, except
which A100 it was.

**The article**: a table for a "Llama-3-70B class" model (64 query heads, 8 KV heads, D 128) that
does not say how many layers its milliseconds are for, nor how the keys were split.

- *Not all 80 layers*: 65,536 tokens of 80 layers are 21.5 GB of keys and values. Reading these in
  2.8 ms takes 7,670 GB/s, nearly four times what an A100 has. *Not one*: its 0.27 GB in 2.8 ms
  would be 5 % of the bandwidth. `bandwidth_needed` does this sum.
- *Splits*: Flash-Decoding is as fast as FlashAttention-2 at 512 tokens, and twice as fast at 4,096.
  That is what splits of a fixed size do: one split up to 2,048 keys, two at 4,096. A rule that
  fills the GPU at any length would be more than four times as fast at 4,096.

Two numbers are chosen after the fact, so this is an interpretation, not a proof: splits of
SPLIT_KEYS = 2,048 keys, and LAYERS = 13 (a sixth of the model). The speed-up column does not depend
on LAYERS. Everything else is `kernels.explain`'s default.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from course.hardware.launch import predict_fa2, predict_flash_decoding
from course.hardware.specifications import resolve
from kernels.devices import Device
from kernels.split_rules import Rule, splits_like_fa2

SPLIT_KEYS = 2048
LAYERS = 13
HEADS = (64, 8)
A100 = "A100 80GB SXM"


@dataclass(frozen=True)
class Published:
    """What was published for one shape: the times of FlashAttention-2 and Flash-Decoding, µs."""

    batch: int
    heads: tuple[int, int]
    length: int
    fa2_us: float
    flash_decoding_us: float


ARTICLE = tuple(
    Published(1, HEADS, length, fa2_us, flash_decoding_us)
    for length, fa2_us, flash_decoding_us in (
        (512, 400, 400),
        (4096, 1800, 900),
        (16384, 6200, 1200),
        (65536, 24500, 2800),
    )
)
ARTICLE_SPEED_UPS = (1.0, 2.0, 5.1, 8.7)  # the article's own column

POST = (
    Published(1, (16, 2), 65536, 2300, 64.4),
    Published(1, (16, 2), 131072, 4592, 106.6),
    Published(8, (16, 2), 8192, 530, 56.4),
)


@dataclass(frozen=True)
class Compared:
    """A published row beside the model's prediction, µs."""

    published: Published
    fa2_us: float
    flash_decoding_us: float

    @property
    def speed_up(self) -> float:
        """Predicted: how many times as fast Flash-Decoding is."""
        return self.fa2_us / self.flash_decoding_us

    @property
    def published_speed_up(self) -> float:
        """Published: how many times as fast Flash-Decoding is."""
        return self.published.fa2_us / self.published.flash_decoding_us

    @property
    def errors(self) -> tuple[float, float, float]:
        """Predicted over published, less 1: of FlashAttention-2, Flash-Decoding, the speed-up."""
        return (
            self.fa2_us / self.published.fa2_us - 1,
            self.flash_decoding_us / self.published.flash_decoding_us - 1,
            self.speed_up / self.published_speed_up - 1,
        )


def compare_article(
    *,
    split_keys: int | None = SPLIT_KEYS,
    layers: float = LAYERS,
    device: Device | str = A100,
) -> list[Compared]:
    """Predict the article's table.

    split_keys: keys per split; None: as many splits as `kernels.heuristics` chooses, which is what
    this course's kernel would do. layers: what the time of one layer is multiplied by.

    >>> [round(row.speed_up, 1) for row in compare_article()]
    [1.0, 1.6, 6.1, 9.6]
    >>> [round(row.speed_up, 1) for row in compare_article(split_keys=None)]
    [1.1, 4.4, 8.5, 11.8]

    Published: 1.0, 2.0, 5.1, 8.7. With splits of a fixed size the model is within 20 % of these;
    the second line shows what more splits of short contexts would give.
    """
    return _compare(ARTICLE, "bf16", split_keys, layers, device)


def compare_post(device: Device | str = A100) -> list[Compared]:
    """Predict the post's table: one layer, splits by the rule in FlashAttention-2's code.

    >>> [(round(row.fa2_us), round(row.flash_decoding_us)) for row in compare_post()]
    [(1985, 63), (3960, 106), (504, 63)]
    """
    return _compare(POST, "fp16", None, 1, device, rule=splits_like_fa2)


def bandwidth_needed(row: Published, layers: int) -> float:
    """Return the GB/s it takes to read 16-bit K and V of `layers` layers in the published time.

    >>> round(bandwidth_needed(ARTICLE[-1], 80)), round(bandwidth_needed(ARTICLE[-1], 13))
    (7670, 1246)
    """
    kv_bytes = 2 * row.batch * row.length * row.heads[1] * 128 * 2
    return layers * kv_bytes / (row.flash_decoding_us * 1e3)


def _compare(
    rows: Sequence[Published],
    dtype: str,
    split_keys: int | None,
    layers: float,
    device: Device | str,
    rule: Rule | None = None,
) -> list[Compared]:
    compared = []
    for row in rows:
        call = {
            "batch": row.batch,
            "heads": row.heads,
            "head_dim": 128,
            "length": row.length,
            "dtype": dtype,
            "device": resolve(device),
        }
        fa2 = predict_fa2(**call)
        split = predict_flash_decoding(**call, split_keys=split_keys)
        if rule is not None:
            split = predict_flash_decoding(**call, num_splits=rule(split.shape))
        compared.append(Compared(row, layers * fa2.time_us, layers * split.time_us))
    return compared


def as_text(rows: Sequence[Compared]) -> str:
    """Return compared rows as aligned text: published → predicted, milliseconds."""
    head = (
        f"{'batch':>5}{'keys':>9}{'FA-2 ms':>18}{'Flash-Decoding ms':>22}{'speed-up':>16}{'off':>7}"
    )
    lines = [head]
    for row in rows:
        seen = row.published
        fa2 = f"{seen.fa2_us / 1e3:.2f} → {row.fa2_us / 1e3:.2f}"
        split = f"{seen.flash_decoding_us / 1e3:.3f} → {row.flash_decoding_us / 1e3:.3f}"
        gain = f"{row.published_speed_up:.1f} → {row.speed_up:.1f}"
        off = f"{100 * row.errors[2]:+.0f} %"
        lines.append(f"{seen.batch:>5}{seen.length:>9,}{fa2:>18}{split:>22}{gain:>16}{off:>7}")
    return "\n".join(lines)

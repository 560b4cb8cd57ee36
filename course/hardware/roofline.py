"""The roofline: a kernel takes at least bytes / bandwidth and at least operations / peak.

Which of the two is longer depends on its **intensity**, operations per byte, and on the device's
**ridge point**, the intensity at which both take equally long:

    attainable      peak ┤            ┌──────────    intensity above the ridge: arithmetic
    operations           │          ╱
    per second           │        ╱  bandwidth · intensity    below it: memory
                         └───────┴──────────────
                                 ridge = peak / bandwidth

Nothing here knows about programs or launches (`course.hardware.launch` does): these are bounds.

Source: Williams, Waterman & Patterson 2009, "Roofline: an insightful visual performance model".
"""

from dataclasses import dataclass

from course.hardware.sizes import check_counts, check_shape, element_bytes, positive
from course.hardware.specifications import resolve
from kernels.devices import Device

NO_BF16 = ("sm_70", "sm_75")  # their tensor cores multiply fp16, but not bf16


@dataclass(frozen=True)
class Work:
    """What a kernel has to do: operations, and bytes that it moves to and from memory."""

    operations: float
    bytes: float

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.operations / self.bytes

    def __add__(self, other: "Work") -> "Work":
        """One after the other, counted as one."""
        return Work(self.operations + other.operations, self.bytes + other.bytes)


def peak_tflops(device: Device | str, dtype: str = "bf16") -> float:
    """Return the peak rate of dense matrix products of a dtype, fp32 sums, 10¹² operations/s.

    >>> peak_tflops("H100 SXM"), peak_tflops("H100 SXM", "fp32"), peak_tflops("T4", "fp16")
    (989.4, 67.0, 65.0)

    The tensor cores of a V100 or a T4 do not support bf16, so there it is done in fp32. TF32 is not
    counted: in this course, fp32 means fp32. Raises ValueError for dtypes other than these three.
    """
    device = resolve(device)
    if dtype not in ("fp32", "bf16", "fp16"):
        raise ValueError(f"dtype must be fp32, bf16 or fp16; got {dtype!r}")
    plain = dtype == "fp32" or (dtype == "bf16" and device.arch in NO_BF16)
    return device.fp32_tflops if plain else device.tensor_tflops


def ridge_point(device: Device | str, dtype: str = "bf16") -> float:
    """Return the intensity, in operations per byte, from which arithmetic limits a device.

    >>> round(ridge_point("A100 80GB SXM")), round(ridge_point("H100 SXM"))
    (153, 295)
    """
    device = resolve(device)
    return peak_tflops(device, dtype) * 1e3 / device.bandwidth


def attainable_tflops(intensity: float, device: Device | str, dtype: str = "bf16") -> float:
    """Return the roof at an intensity (operations per byte), in 10¹² operations per second.

    >>> attainable_tflops(1.0, "H100 SXM"), attainable_tflops(1000.0, "H100 SXM")
    (3.35, 989.4)

    At one operation per byte, an H100 can use 3.35 of its 989 TFLOP/s: one for each byte it reads.
    """
    positive("intensity", intensity)
    device = resolve(device)
    return min(peak_tflops(device, dtype), device.bandwidth * intensity / 1e3)


def roofline_us(work: Work, device: Device | str, dtype: str = "bf16") -> float:
    """Return the least time for some work, µs: memory's or arithmetic's, whichever is longer.

    >>> roofline_us(Work(operations=1e12, bytes=1e6), "A100 80GB SXM") > 3205
    True
    """
    device = resolve(device)
    memory_us = work.bytes / (device.bandwidth * 1e3)
    return max(memory_us, work.operations / (peak_tflops(device, dtype) * 1e6))


def _columns(head_dim: int, value_dim: int | None) -> int:
    """D + Dv: what one key and its value hold, or one row of q and of o."""
    if value_dim is None:
        return 2 * head_dim
    check_counts(value_dim=value_dim)
    return head_dim + value_dim


def decode_work(
    *,
    batch: int,
    heads: tuple[int, int],
    head_dim: int,
    length: int,
    queries: int = 1,
    dtype: str = "bf16",
    kv_dtype: str | None = None,
    value_dim: int | None = None,
) -> Work:
    """Count one layer's decode attention: each of B·Lq·Hq query rows with all `length` keys.

    Operations: QKᵀ and PV, a multiplication and an addition each: 2·B·Lq·Hq·Lk·(D + Dv). Bytes: K
    and V once for all G query heads that share them (B·Lk·Hkv·(D + Dv) elements of kv_dtype), q and
    o once. value_dim: Dv; D if None.
    """
    columns = _columns(head_dim, value_dim)
    check_shape(batch=batch, heads=heads, head_dim=head_dim, length=length, queries=queries)
    B, (Hq, Hkv) = batch, heads
    size, kv_size = element_bytes(dtype), element_bytes(kv_dtype or dtype)
    moved = B * columns * (length * Hkv * kv_size + queries * Hq * size)
    return Work(2.0 * B * queries * Hq * length * columns, float(moved))


def decode_intensity(group: int, queries: int = 1, kv_dtype: str = "bf16") -> float:
    """Return the limit of decode attention's intensity in a long context: 2·G·Lq / bytes.

    group: G = Hq / Hkv. queries: Lq. A key element is multiplied for each of G·Lq query rows, a
    value element likewise: two operations per row, for `kv_dtype`'s bytes per element.

    >>> decode_intensity(1), decode_intensity(8), decode_intensity(8, queries=4)
    (1.0, 8.0, 32.0)
    >>> decode_intensity(8, kv_dtype="fp8")
    16.0

    Neither the batch nor the length matters: more users bring more keys of their own.
    """
    check_counts(group=group, queries=queries)
    return 2 * group * queries / element_bytes(kv_dtype)


def prefill_work(
    *,
    batch: int,
    heads: tuple[int, int],
    head_dim: int,
    length: int,
    causal: bool = True,
    fused: bool = True,
    dtype: str = "bf16",
    value_dim: int | None = None,
) -> Work:
    """Count one layer's attention over a whole prompt.

    Operations: 2·B·Hq·(D + Dv) for every pair of a query and a key that it sees. Bytes: q, k, v and
    o once; if not fused, scores and probabilities (B·Hq·N² each) are also written and read back.
    What FlashAttention's query tiles read again is assumed to come from the L2 cache. value_dim:
    Dv, the width of v and o; D if None.
    """
    columns = _columns(head_dim, value_dim)
    check_shape(batch=batch, heads=heads, head_dim=head_dim, length=length)
    B, (Hq, Hkv), N = batch, heads, length
    pairs = N * (N + 1) / 2 if causal else N * N
    elements = B * N * columns * (Hq + Hkv)
    elements += 0 if fused else 4 * B * Hq * N * N
    return Work(2.0 * B * Hq * columns * pairs, float(elements * element_bytes(dtype)))


def prefill_intensity(
    length: int, group: int = 1, *, causal: bool = True, dtype: str = "bf16"
) -> float:
    """Return the intensity of FlashAttention over a whole prompt: G·(N + 1) / ((G + 1)·bytes).

    Twice that without a mask (and with N for N + 1). It grows with the prompt: every key that is
    read is multiplied by all queries from its position on.

    >>> prefill_intensity(8191, group=8) > 12 * ridge_point("H100 SXM")
    True

    A prompt of 8k tokens is far to the right of an H100's ridge; its decode, at 8, far to the left.
    """
    check_counts(length=length, group=group)
    heads = (group, 1)
    return prefill_work(
        batch=1, heads=heads, head_dim=1, length=length, causal=causal, dtype=dtype
    ).intensity


def linear_work(tokens: int, inputs: int, outputs: int, dtype: str = "bf16") -> Work:
    """Count a linear layer: tokens (rows) times a weight matrix (inputs, outputs).

    >>> round(linear_work(1, 4096, 4096).intensity), round(linear_work(128, 4096, 4096).intensity)
    (1, 120)

    Here a batch helps: its rows share the weights, whereas they never share keys.
    """
    check_counts(tokens=tokens, inputs=inputs, outputs=outputs)
    elements = inputs * outputs + tokens * (inputs + outputs)
    return Work(2.0 * tokens * inputs * outputs, float(elements * element_bytes(dtype)))

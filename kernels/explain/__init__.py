"""Why a decode call takes as long as it does: programs, waves, bytes, and a predicted time.

    >>> print(explain(batch=1, heads=(32, 8), head_dim=128, length=65536, device="H100 SXM"))
    H100 SXM: batch 1, heads 32/8, D 128, 65,536 keys, bf16
      splits    32 of 2,048 keys, in blocks of 64
      programs  256 on 264 slots
      waves     0.97, 97 % busy
      bytes     268.4 MB of K and V, 528.4 kB of partial results twice
      time      112.2 µs = 89.2 memory + 2.8 idle + 20.0 launch + 0.2 merge
      bound by  memory bandwidth
      a model from datasheet figures, not a measurement

This is arithmetic on shapes; nothing runs. **The model** (`kernels.explain.model`):

    time      = stage 1 + launches + merge
    stage 1   = max(bytes / (bandwidth · reachable), operations / peak,
                    tiles · clocks of a tile / (SMs · clock)) / occupancy

and its assumptions:

1. K and V are read once, from memory and not from the L2 cache; q is read and partial results are
   written once.
2. A good kernel reaches `device.reachable` of a datasheet's bandwidth, 90 %, and all of its peak,
   counted for the rows of a tile with their padding: one row is padded, too, for tensor cores.
3. A wave of programs starts when the previous one is done, and every split is as long as the
   longest, which has whole blocks of keys. Programs are dealt out to SMs in turn, and an SM draws
   no more than its share of bandwidth and arithmetic, so that a wave takes as long as its fullest
   SM: fewer programs than SMs take as long as one on each, one more than SMs as long as two on
   each. occupancy is the share not lost this way. Tiles of query rows (there are several from 65
   rows per KV head on) read the same K and V at the same time, which speeds up none of them: more
   than two of them are slower.
4. The clocks of a tile are counted in the machine code that Triton 3.9 makes of the split kernel
   (`kernels.explain.counted`): those in which an SM issues the instructions of a tile, or in which
   its busiest pipe works on it, whichever is more. Where that takes longer than the bytes, the
   call is not bound by memory, and `bound` says by what. Only the commonest configurations are
   counted: bf16 and fp16 with D 64, 128 or 256, and with D 128 also pages and eight bits.
5. Each launch takes `device.launch_us`; the merge of splits is a second one, and reads the
   partial results at the bandwidth of assumption 2.

Left out: clocks that fall under load, rows of different length (`kernels.plan`), and, unless a
`Device` says otherwise, the latency of the first loads (`fill_us`): so predictions are too fast for
short splits.

Compared with published measurements on an A100, taken to be the 80 GB one, in µs (fp16, heads 16/2,
D 128, batch × keys; splits by FlashAttention-2's rule, as the code of that time had it):

                   Flash-Decoding                         FlashAttention-2: program per query head
                   1 × 65,536   1 × 131,072   8 × 8,192   1 × 65,536   1 × 131,072   8 × 8,192
    published            64.4         106.6        56.4        2,300         4,592         530
    this model           63.3         105.8        63.4        1,985         3,960         504

Sources: the figures are those of Dao, Haziza, Massa & Sizov 2023, "Flash-Decoding for long-context
inference"; Williams, Waterman & Patterson 2009, "Roofline" (the maximum of two times); waves and
split rules: `kernels.split_rules`.
"""

import torch

from kernels.devices import Device
from kernels.explain.checks import check_counts, check_dtypes, check_keys
from kernels.explain.model import Explanation
from kernels.explain.spent import Spent, spent_by
from kernels.heuristics import DecodeChoice, choose_decode

DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.int8,
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
}
_NO_E4M3 = (
    "flash_decode refuses this call: {0.arch} cannot convert float8_e4m3fn, sm_89 is the first "
    "that can; take float8_e5m2 or int8"
)


def explain(
    *,
    batch: int,
    heads: tuple[int, int],
    head_dim: int,
    length: int,
    queries: int = 1,
    dtype: str = "bf16",
    kv_dtype: str | None = None,
    value_dim: int | None = None,
    latent: bool = False,
    capacity: int | None = None,
    window: int | None = None,
    page_size: int | None = None,
    num_splits: int | None = None,
    device: Device | str | None = None,
) -> Explanation:
    """Say what `kernels.flash_decoding.flash_decode` does with these shapes, and how long it takes.

    Args:
        batch, queries: B and Lq, at least 1. heads: (Hq, Hkv). head_dim: D. length: keys per
            row, at least 0.
        dtype: of q: "fp32", "bf16" or "fp16". kv_dtype: of the cache: the same if None, or
            "int8", "e4m3" or "e5m2".
        value_dim: Dv; head_dim if None. latent: the values are a part of the keys (MLA).
        capacity: keys that a row has room for; None: `length`. The number of splits is chosen
            from it, since the host knows no more.
        window: keys before a query that it sees. page_size: tokens per page; None: not paged.
        num_splits: as given to `flash_decode`; None: chosen as there.
        device: a `Device`, the name of one of `kernels.devices.DEVICES`, or None: `Device.here()`.

    Returns:
        An `Explanation`, which prints. Times are predictions of the model, in µs. It has a note
        where `flash_decode` refuses the call: "e4m3" on an NVIDIA GPU before sm_89.

    Raises:
        TypeError: a number that is not an int, heads that are not a pair.
        ValueError: a number out of range, a dtype or device that is not known, Hq not a multiple
            of Hkv, a capacity below the length.
    """
    kv_dtype, value_dim = kv_dtype or dtype, head_dim if value_dim is None else value_dim
    capacity = length if capacity is None else capacity
    counts = {"batch": batch, "head_dim": head_dim, "queries": queries, "value_dim": value_dim}
    check_counts(counts, heads, {"num_splits": num_splits, "page_size": page_size})
    check_keys(length, capacity, window)
    check_dtypes(dtype, kv_dtype)
    device = Device.named(device) if isinstance(device, str) else device or Device.here()
    sight = capacity if window is None else min(capacity, window + queries)
    fast = dtype != "fp32" and device.tensor_cores
    choice = _choose(counts, heads, kv_dtype, fast, sight, device.sms, num_splits, latent)
    keys, rows = min(length, sight), batch * queries * heads[0]
    pages = 0 if page_size is None else batch * -(-keys // page_size)
    return Explanation(
        device=device,
        call=_in_words(counts, heads, length, window, dtype, kv_dtype),
        keys=keys,
        shape=choice.shape,
        kv_bytes=batch * keys * heads[1] * choice.columns * DTYPES[kv_dtype].itemsize,
        other_bytes=rows * ((head_dim + value_dim) * DTYPES[dtype].itemsize + 4) + 4 * pages,
        **_cut(choice, keys, rows, batch * heads[1], head_dim, value_dim),
        peak_tflops=_peak(device, fast),
        **_of_the_kernel(choice, head_dim, kv_dtype, page_size, device),
    )


def _peak(device: Device, dots: bool) -> float:
    """Return how many operations the device can do, 10¹² per second; dots: on tensor cores."""
    return device.tensor_tflops if dots else device.fp32_tflops


def _of_the_kernel(
    choice: DecodeChoice, D: int, kv_dtype: str, page_size: int | None, device: Device
) -> dict[str, Spent | str | None]:
    """Look up what it spends on a tile, and say so where `flash_decode` would refuse the call."""
    spent = None
    if choice.columns == 2 * D:  # else values of another width, or none of their own
        tile = (choice.launch.block_m, choice.launch.block_n)
        spent = spent_by(device.arch, kv_dtype, D, *tile, page_size)
    refused = kv_dtype == "e4m3" and not device.has_e4m3
    return {"spent": spent, "note": _NO_E4M3.format(device) if refused else ""}


def _choose(
    counts: dict[str, int],
    heads: tuple[int, int],
    kv_dtype: str,
    tensor_cores: bool,
    sight: int,
    sms: int,
    num_splits: int | None,
    latent: bool,
) -> DecodeChoice:
    """Choose as `flash_decode` does; sight: keys that a row can see."""
    return choose_decode(
        batch=counts["batch"],
        queries=counts["queries"],
        heads=heads,
        head_dim=counts["head_dim"],
        value_dim=counts["value_dim"],
        element_size=DTYPES[kv_dtype].itemsize,
        tensor_cores=tensor_cores,
        max_len=sight,
        num_sms=sms,
        num_splits=num_splits,
        latent=latent,
    )


def _cut(
    choice: DecodeChoice, keys: int, rows: int, readers: int, D: int, Dv: int
) -> dict[str, int]:
    """Count splits, programs, and what grows with them; readers: B·Hkv, rows: B·Lq·Hq."""
    launch, m_tiles, splits = choice.launch, choice.shape.m_tiles, choice.num_splits
    blocks = -(-keys // launch.block_n)
    chunk = max(1, -(-blocks // splits))  # blocks per split
    whole = readers * m_tiles
    return {
        "splits": splits,
        "split_keys": min(chunk * launch.block_n, keys),
        "block_n": launch.block_n,
        "programs": whole * splits,
        "busy": whole * -(-blocks // chunk),
        "m_tiles": m_tiles,
        "partial_bytes": 4 * splits * rows * (Dv + 1) if splits > 1 else 0,
        "operations": 2 * whole * launch.block_m * keys * (D + Dv),
    }


def _in_words(
    counts: dict[str, int],
    heads: tuple[int, int],
    length: int,
    window: int | None,
    dtype: str,
    kv_dtype: str,
) -> str:
    """Return the shapes in words, for the first line of the printed block."""
    parts = [f"batch {counts['batch']}", f"heads {heads[0]}/{heads[1]}"]
    if counts["queries"] > 1:
        parts.append(f"{counts['queries']} queries")
    D, Dv = counts["head_dim"], counts["value_dim"]
    parts += [f"D {D}" if Dv == D else f"D {D} and {Dv}", f"{length:,} keys"]
    parts += [] if window is None else [f"window {window:,}"]
    return ", ".join([*parts, dtype if dtype == kv_dtype else f"{dtype} on {kv_dtype}"])

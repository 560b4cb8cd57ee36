"""Programs, waves and predicted time of one decode step's attention: FA-2 and Flash-Decoding.

Both are computed by `kernels.explain`, whose docstring says what the model assumes. In short:

    time      = stage 1 + launches + merge
    stage 1   = max(bytes / reachable bandwidth, operations / peak) / occupancy

What our kernel was counted to spend on a tile, which `explain` knows too, is left out: the lessons
compare the sum with other people's kernels.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from course.hardware.specifications import limits, resolve
from kernels.devices import Device
from kernels.explain import explain
from kernels.explain.model import Explanation


def predict_flash_decoding(
    *,
    batch: int,
    heads: tuple[int, int],
    head_dim: int,
    length: int,
    dtype: str = "bf16",
    num_splits: int | None = None,
    split_keys: int | None = None,
    device: Device | str,
) -> Explanation:
    """Predict Flash-Decoding with one query: one program per (row, KV head, split), and a merge.

    num_splits: how many; None: as `kernels.heuristics` chooses. split_keys: instead, how many keys
    per split, whatever the length. The rest is as in `kernels.explain.explain`.

    >>> said = predict_flash_decoding(
    ...     batch=1, heads=(64, 8), head_dim=128, length=65536, device="A100 80GB SXM")
    >>> said.splits, said.programs, round(said.time_us)
    (27, 216, 168)

    Raises ValueError if both are given or split_keys is below 1; otherwise as `explain` does.
    """
    if split_keys is not None:
        if num_splits is not None or split_keys < 1:
            got = f"num_splits={num_splits}, split_keys={split_keys}"
            raise ValueError(f"give num_splits or split_keys, not both, and at least 1; got {got}")
        num_splits = max(1, math.ceil(length / split_keys))
    return _sum(
        batch=batch,
        heads=heads,
        head_dim=head_dim,
        length=length,
        dtype=dtype,
        num_splits=num_splits,
        device=resolve(device),
    )


def _sum(**call: Any) -> Explanation:
    """Explain a call by bytes, operations and launches alone."""
    return replace(explain(**call), spent=None)


def predict_fa2(
    *,
    batch: int,
    heads: tuple[int, int],
    head_dim: int,
    length: int,
    dtype: str = "bf16",
    packed: bool = False,
    device: Device | str,
) -> Explanation:
    """Predict FlashAttention-2 with one query: one program per (row, query head), no splits.

    Each program walks through its head's keys alone. The G programs that share a KV head draw the
    same bytes, whether from memory or from the L2 cache, at the pace of their SM. So each of them
    is counted, and `kv_bytes` is what the programs draw: G times what is in memory. packed: the G
    query rows of a KV head share a program, as in flash-attn when a row has one query.

    >>> call = {"batch": 1, "heads": (64, 8), "head_dim": 128, "length": 65536}
    >>> each, packed = (
    ...     predict_fa2(**call, packed=p, device="A100 80GB SXM") for p in (False, True))
    >>> each.programs, packed.programs, round(each.time_us), round(packed.time_us)
    (64, 8, 1985, 1985)

    64 or 8 programs on 108 SMs: each walks through 65,536 keys, and they take as long as one would.
    Flash-Decoding takes 168 µs in the same model.
    """
    share = not packed and heads[0] % heads[1] == 0  # if it is not a multiple, `explain` says so
    return _sum(
        batch=batch,
        heads=(heads[0], heads[0]) if share else heads,
        head_dim=head_dim,
        length=length,
        dtype=dtype,
        num_splits=1,
        device=resolve(device),
    )


@dataclass(frozen=True)
class WaveCounts:
    """How programs fill a GPU.

    programs: those with keys. slots: how many run at once. full: waves in which every slot is
    taken; tail: programs in the last wave, if it is not full. busy_sms: SMs that have a program in
    the last wave. efficiency: share of slots taken, over all waves, 0 to 1.
    """

    programs: int
    slots: int
    full: int
    tail: int
    busy_sms: int
    efficiency: float


def count_waves(explanation: Explanation) -> WaveCounts:
    """Count the waves of a launch.

    >>> starved = explain(
    ...     batch=1, heads=(32, 32), head_dim=128, length=4096, num_splits=1, device="A100 40GB")
    >>> count_waves(starved)
    WaveCounts(programs=32, slots=216, full=0, tail=32, busy_sms=32, efficiency=0.14814814814814814)

    32 heads on 108 SMs: 76 SMs have nothing to do.
    """
    full, tail = divmod(explanation.busy, explanation.slots)
    last = tail or (explanation.slots if full else 0)
    return WaveCounts(
        programs=explanation.busy,
        slots=explanation.slots,
        full=full,
        tail=tail,
        busy_sms=min(last, explanation.device.sms),
        efficiency=explanation.efficiency,
    )


def resident_programs(
    device: Device | str, *, registers: int, shared_bytes: int, num_warps: int = 4
) -> int:
    """Return how many programs of a kernel an SM holds at once: 0 if not even one fits.

    registers: per thread. shared_bytes: per program. `kernels.compile_report` measures both.
    `dataclasses.replace(explanation, programs_per_sm=…)` predicts with the result.

    >>> [resident_programs(d, registers=128, shared_bytes=64 * 1024) for d in ("A100 40GB", "A10")]
    [2, 1]
    """
    return limits(device).resident_blocks(
        registers=registers, shared_bytes=shared_bytes, num_warps=num_warps
    )

"""Decode attention on this machine, whatever it is: who can run, who is right, and how fast.

On an NVIDIA or AMD GPU the contestants are those of `benchmarks.peers`, timed in CUDA graphs; on a
CPU they are those below, timed by the host's clock. In both cases every answer is judged before it
is timed, inputs rotate through more sets than the largest cache holds, and contestants take turns.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.contest import Entrant, compete, reason
from benchmarks.cpu import sdpa
from benchmarks.judge import Judge, full_rows
from benchmarks.timing import Call, HostClock, cold_bytes, number_of_sets, take_turns
from reference.attention import attention
from reference.flash_decoding_cpu import flash_decode_threads

Inputs = tuple[Tensor, Tensor, Tensor]
Shape = tuple[int, int, int, int]  # B, Hq, Hkv, Lk

D = 128
SHAPE: Shape = (1, 32, 8, 8192)
QUICK_SHAPE: Shape = (1, 8, 2, 2048)
ROUNDS = 15
CACHE_IF_UNKNOWN = 32 * 2**20
THREADS = max(1, torch.get_num_threads() - 1)
"""One thread fewer than PyTorch takes by default. With a thread on every core, anything else the
machine does holds up one of them, and every call waits for the slowest."""
ROOT = Path(__file__).resolve().parents[1]
GPU_ONLY = ("flash-attn", "FlashInfer", "xformers")


@dataclass
class SideBySide:
    """A cell. By contestant: quartiles in ms, [first, median, third]; cannot: why not timed."""

    shape: Shape
    dtype: str
    kv_bytes: int
    sets: int
    quartiles: dict[str, list[float]] = field(default_factory=dict)
    cannot: dict[str, str] = field(default_factory=dict)


def last_level_cache() -> int | None:
    """Bytes of this processor's largest cache, as Linux reports it; None if it does not."""
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text(encoding="utf-8").strip()
        if text[:-1].isdigit() and text[-1] in "KM":
            sizes.append(int(text[:-1]) * {"K": 2**10, "M": 2**20}[text[-1]])
    return max(sizes, default=None)


def cold() -> int:
    """Bytes of inputs to rotate through on this CPU: twice its largest cache."""
    return 2 * (last_level_cache() or CACHE_IF_UNKNOWN)


def flex(sets: Sequence[Inputs]) -> list[Call]:
    """FlexAttention, compiled here and now; needs a C++ compiler and half a minute."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)

    def prepared(q: Tensor, k: Tensor, v: Tensor) -> Call:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return lambda: compiled(q, k, v, enable_gqa=True).transpose(1, 2)

    return [prepared(*s) for s in sets]


def entrants_on_cpu(sets: Sequence[Inputs], quick: bool) -> tuple[list[Entrant], dict[str, str]]:
    """Who runs on a CPU, and why the others do not."""
    q, k, v = sets[0]
    judge = Judge(q, full_rows(k, v), kv_heads=k.shape[2], longest=k.shape[1])
    functions = {"naive": attention, "SDPA": sdpa, "Flash-Decoding": flash_decode_threads}
    entrants = [
        Entrant(name, [lambda f=f, s=s: f(*s) for s in sets], judge(name, ours=name != "SDPA"))
        for name, f in functions.items()
    ]
    cannot = dict.fromkeys(GPU_ONLY, "needs a GPU")
    if quick:
        return entrants, {
            "FlexAttention": "left out of a quick run: it has to be compiled"
        } | cannot
    try:
        calls = flex(sets)
        calls[0]()
    except Exception as error:
        return entrants, {"FlexAttention": reason(error)} | cannot
    return [*entrants, Entrant("FlexAttention", calls, judge("FlexAttention", ours=False))], cannot


def on_cpu(shape: Shape, *, quick: bool, rounds: int = ROUNDS) -> SideBySide:
    """Judge, then time, every contestant that runs on this CPU (fp32). shape: B, Hq, Hkv, Lk."""
    B, Hq, Hkv, Lk = shape
    kv_bytes = 2 * B * Lk * Hkv * D * 4
    count = number_of_sets(kv_bytes, cold())
    sets = [
        (torch.randn(B, 1, Hq, D), *(torch.randn(B, Lk, Hkv, D) for _ in "kv"))
        for _ in range(count)
    ]
    cell = SideBySide(shape, "float32", kv_bytes, count)
    entrants, cell.cannot = entrants_on_cpu(sets, quick)
    right = {}
    for entrant in entrants:
        if problem := entrant.check(entrant.calls[0]()):
            cell.cannot[entrant.name] = f"wrong: {problem}"
        else:
            right[entrant.name] = lambda turn, c=entrant.calls: c[turn % len(c)]()
    times = take_turns(right, HostClock(), rounds, warm_up=1, warm_up_ms=0.0)
    cell.quartiles = {name: statistics.quantiles(ms) for name, ms in times.items()}
    return cell


def on_gpu(shape: Shape) -> SideBySide:
    """Judge, then time in CUDA graphs, every peer that is installed (bf16)."""
    from benchmarks.decode import entrants_of, make_sets
    from benchmarks.peers import LABELS, PEERS

    B, _, Hkv, Lk = shape
    kv_bytes = 2 * B * Lk * Hkv * D * 2
    count = number_of_sets(kv_bytes, cold_bytes())
    cell = SideBySide(shape, "bfloat16", kv_bytes, count)
    cell.cannot = {peer.name: peer.missing() for peer in PEERS if peer.missing()}
    present = [peer for peer in PEERS if not peer.missing()]
    ready, unprepared = entrants_of(present, make_sets(*shape, count))
    times, failed = compete(ready, on_gpu=True)
    cell.cannot |= unprepared | failed
    timed = {peer.name: times.get(f"{peer.name}_ms_quartiles") for peer in present}
    cell.quartiles = {LABELS[name]: ms for name, ms in timed.items() if ms}
    cell.cannot = {LABELS.get(name, name): why for name, why in cell.cannot.items()}
    return cell


def side_by_side(shape: Shape, *, quick: bool) -> SideBySide:
    """`on_gpu` if there is a GPU and triton, else `on_cpu`."""
    return on_gpu(shape) if has_gpu() else on_cpu(shape, quick=quick)


def has_gpu() -> bool:
    """Whether kernels are compiled for a GPU here."""
    if not torch.cuda.is_available():
        return False
    from kernels.runtime import INTERPRETED

    return not INTERPRETED


def table(cell: SideBySide) -> str:
    """The cell as text: one line per contestant, fastest first, then who was not timed, and why."""
    B, Hq, Hkv, Lk = cell.shape
    size = f"{cell.kv_bytes / 2**20:g} MiB of K and V, {cell.sets} sets in turn"
    lines = [f"B {B}, heads {Hq}/{Hkv}, {Lk:,} tokens, D {D}, {cell.dtype}: {size}"]
    best = min((q[1] for q in cell.quartiles.values()), default=0.0)
    for name, (q1, median, q3) in sorted(cell.quartiles.items(), key=lambda item: item[1][1]):
        rate = cell.kv_bytes / median / 1e6
        ends = f"{q1:.3f} … {q3:.3f}"
        lines.append(f"  {name:<24}{median:>9.3f} ms  ({ends})  {median / best:>6.2f} ×  "
                     f"{rate:>7.1f} GB/s")  # fmt: skip
    return "\n".join(lines + [f"  {name:<24}– {why}" for name, why in cell.cannot.items()])

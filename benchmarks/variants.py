"""Caches as servers have them: paged, quantised, ragged; and what a call costs the host.

    python -m benchmarks variants [options as for decode]

Cells are called "paged B1 32/8 65536", "quantised …", "ragged …" and "host …". Peers take part
in the host cells only; elsewhere our kernel is compared with itself. For peers, see `decode`.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.contest import Entrant, reason
from benchmarks.decode import QUICK_COLD_BYTES, make_sets
from benchmarks.grid import D, Shape, kv_bytes_of, name_of
from benchmarks.judge import Judge, full_rows
from benchmarks.peers import PEERS
from benchmarks.ragged import WAYS, compare_in, ragged, sets_for
from benchmarks.record import Record
from benchmarks.session import Cell, Session
from benchmarks.timing import (
    Call,
    cold_bytes,
    host_microseconds,
    median_and_quartiles,
    number_of_sets,
)
from kernels.flash_decoding import flash_decode
from kernels.runtime import INTERPRETED, device
from reference.quantization import dequantize, quantize

SHAPES = [(1, 32, 8, 16384), (1, 32, 8, 65536), (8, 32, 8, 32768)]  # 64 MiB, 256 MiB, 1 GiB
QUANTISED = {
    "int8": torch.int8,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
HOST = ("flash_decoding", "fa2", "sdpa", "flash_attn", "flash_attn_3", "flashinfer")

PROTOCOL = (
    "Timing and judging as in decode. paged: the same bytes as one contiguous cache, and as pages "
    "of 16 and 256 keys in random order through a block table. quantised: bf16 against int8 and "
    "fp8 with a scale per KV head, of the same values; kv_bytes is that of bf16. ragged: 64 rows, "
    "one long and 63 short ones, pages of 256 keys; planned: with a plan made earlier, as for all "
    "layers after the first; planned_here: the plan made in the timed call; fixed: a fixed number "
    "of splits, no plan; ideal_ms: the bytes of all valid keys over read_GBps. host: the host's "
    "clock around 100 eager calls while the GPU is busy with something else, microseconds per "
    "call, median of 9."
)


def random_table(B: int, pages: int, count: int) -> Tensor:
    """A block table (B, pages) of page numbers below `count`, in random order, none twice."""
    return torch.randperm(count, device=device())[: B * pages].view(B, pages).to(torch.int32)


def paged_row(k: Tensor, v: Tensor, table: Tensor) -> Callable[[int, int], tuple[Tensor, Tensor]]:
    """Rows of a paged cache (pages, page_size, Hkv, D), all of their pages full."""
    return lambda b, h: tuple(x[table[b].long(), :, h].flatten(0, 1) for x in (k, v))


def paged(session: Session, B: int, Hq: int, Hkv: int, Lk: int, pages: Sequence[int]) -> dict:
    """One row: contiguous against pages of several sizes, over the same memory."""
    row = {"kind": "paged", "B": B, "Hq": Hq, "Hkv": Hkv, "Lk": Lk}
    row["kv_bytes"] = kv_bytes_of(B, Hkv, Lk)
    sets = make_sets(B, Hq, Hkv, Lk, sets_for(session, row["kv_bytes"]))
    q, k, v = sets[0]
    check = Judge(q, full_rows(k, v), kv_heads=Hkv, longest=Lk)("contiguous", ours=True)
    lengths = torch.full((B,), Lk, dtype=torch.int32, device=q.device)
    entrants = [Entrant("contiguous", [partial(flash_decode, *s, lengths) for s in sets], check)]
    for size in pages:
        table = random_table(B, Lk // size, B * Lk // size)
        views = [(q, *(x.view(-1, size, Hkv, D) for x in (k, v))) for q, k, v in sets]
        judge = Judge(q, paged_row(*views[0][1:], table), kv_heads=Hkv, longest=Lk)
        calls = [partial(flash_decode, *s, lengths, block_table=table) for s in views]
        entrants.append(Entrant(f"paged_{size}", calls, judge(f"paged_{size}", ours=True)))
    return compare_in(row, entrants)


def quantised(session: Session, B: int, Hq: int, Hkv: int, Lk: int) -> dict:
    """One row: a bf16 cache against 8-bit ones of the same values."""
    row = {"kind": "quantised", "B": B, "Hq": Hq, "Hkv": Hkv, "Lk": Lk}
    row["kv_bytes"] = kv_bytes_of(B, Hkv, Lk)
    sets = make_sets(B, Hq, Hkv, Lk, sets_for(session, 3 * row["kv_bytes"]))
    q, k, v = sets[0]
    judge = Judge(q, full_rows(k, v), kv_heads=Hkv, longest=Lk)
    entrants = [Entrant("bf16", [partial(flash_decode, *s) for s in sets], judge("bf16", True))]
    cold = QUICK_COLD_BYTES if session.quick else cold_bytes()
    wanted = number_of_sets(row["kv_bytes"] // 2, cold)
    for name, dtype in QUANTISED.items():
        calls: list[Call] = []
        for i in range(wanted):
            q, *kv = sets[i % len(sets)]
            (k, ks), (v, vs) = (quantize(x, dtype, per="head") for x in kv)
            calls.append(partial(flash_decode, q, k, v, k_scale=ks, v_scale=vs))
            if i == 0:
                judge = Judge(q, dequantised_rows(k, ks, v, vs), kv_heads=Hkv, longest=Lk)
        entrants.append(Entrant(name, calls, judge(name, ours=True)))
    return compare_in(row, entrants)


def dequantised_rows(
    k: Tensor, k_scale: Tensor, v: Tensor, v_scale: Tensor
) -> Callable[[int, int], tuple[Tensor, Tensor]]:
    """Rows of a quantised cache (B, Lk, Hkv, D) with one scale per head: fp64, exact."""

    def row(b: int, h: int) -> tuple[Tensor, Tensor]:
        parts = ((k[b, :, h], k_scale[h]), (v[b, :, h], v_scale[h]))
        return tuple(dequantize(x, scale, torch.float64) for x, scale in parts)

    return row


def host(B: int, Hq: int, Hkv: int, Lk: int) -> dict:
    """One row: microseconds that an eager call takes of the host's time."""
    row: dict = {"kind": "host", "B": B, "Hq": Hq, "Hkv": Hkv, "Lk": Lk, "cannot": {}}
    if INTERPRETED:
        return row | {"cannot": {"host": "needs a GPU: interpreted, the whole call is host work"}}
    sets = make_sets(B, Hq, Hkv, Lk, 1)
    for peer in PEERS:
        if peer.name not in HOST or peer.missing():
            continue
        try:
            samples = host_microseconds(peer.prepare(sets)[0])
        except Exception as error:
            row["cannot"][peer.name] = reason(error)
        else:
            row |= median_and_quartiles(f"{peer.name}_host_us", samples)
    return row


def cells_of(session: Session) -> list[Cell]:
    """All cells; those that a target names and that are quick come first."""
    shapes, pages = (SHAPES, (16, 256)) if not session.quick else ([(1, 2, 1, 128)], (16, 64))
    lengths = [131072] + [1024] * 63 if not session.quick else [200, 70, 1]
    page, heads = (256, (32, 8)) if not session.quick else (32, (2, 1))
    host_shape = (1, 32, 8, 4096) if not session.quick else (1, 2, 1, 64)

    def shaped(kind: str, shape: Shape, who: Sequence[str], measure: Callable) -> Cell:
        return Cell(f"{kind} {name_of(shape)}", who, lambda: measure(*shape))

    who = ["contiguous", *(f"paged_{p}" for p in pages)]
    cells = [shaped("host", host_shape, (), host)]
    name = f"ragged {name_of((len(lengths), *heads, max(lengths)))}"
    cells += [Cell(name, WAYS, lambda: ragged(session, lengths, *heads, page))]
    cells += [shaped("paged", s, who, partial(paged, session, pages=pages)) for s in shapes]
    names = ["bf16", *QUANTISED]
    large = [s for s in shapes if session.quick or kv_bytes_of(s[0], *s[2:]) >= 2**28]
    return cells + [shaped("quantised", s, names, partial(quantised, session)) for s in large]


def run(session: Session) -> Record:
    """Measure all cells, as far as the session's options and budget let it."""
    return session.run("variants", cells_of(session), PROTOCOL)


def table(rows: Sequence[dict]) -> str:
    """The rows as text: one line per way of doing it."""
    lines = ["kind        B  heads    length  way                ms  quartiles"]
    for row in rows:
        start = f"{row['kind']:<9} {row['B']:>3}  {row['Hq']:>2}/{row['Hkv']:<2} {row['Lk']:>8,}"
        for key, value in row.items():
            if f"{key}_quartiles" in row and "_eager_" not in key:
                low, _, high = row[f"{key}_quartiles"]
                name, unit = key.rsplit("_", 1)
                lines.append(f"{start}  {name:<12} {value:>8.4f}  {low:.4f} … {high:.4f} {unit}")
        if "ideal_ms" in row:
            lines.append(f"{start}  {'ideal':<12} {row['ideal_ms']:>8.4f}  bytes over read_GBps")
        lines += [f"{start}  {name:<12} {why}" for name, why in row["cannot"].items()]
    return "\n".join(lines)

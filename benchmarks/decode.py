"""Decoding one token on a GPU: our kernel, ours without splitting, and every installed peer.

    python -m benchmarks decode [--only REGEX] [--peers REGEX] [--budget SECONDS] [--resume]
                                [--quick] [--out FILE] [--figure FILE]

A cell is called "B1 64/8 4096": batch, query heads and KV heads, length. The cells that the
targets name come first, then the rest by size. --quick runs tiny shapes, interpreted if there is
no GPU: it shows that the harness works, and writes nothing unless given --out.
"""

from collections.abc import Sequence

import torch

from benchmarks.contest import Entrant, compete, reason
from benchmarks.grid import D, Shape, best_peer, full_grid, kv_bytes_of, name_of
from benchmarks.judge import Judge, full_rows
from benchmarks.machine import free_bytes
from benchmarks.peers import LABELS, PEERS, Peer, roll_call
from benchmarks.record import Record
from benchmarks.session import Cell, Session
from benchmarks.timing import cold_bytes, number_of_sets
from kernels.runtime import INTERPRETED, device

QUICK_COLD_BYTES = 2**19
QUICK_GRID = [(1, 4, 2, 130), (2, 2, 1, 64)]

PROTOCOL = (
    "Lq=1, D=128, bf16, all rows full; fresh normal random data. Before any timing, every "
    "contestant's answer at this very shape is judged against fp64 (ours by the course's rule, "
    "peers at 16 times plain PyTorch's error); after it, that of its CUDA graph. Caches rotate "
    "through several sets, together at least 4 L2 caches and 256 MiB (a single set from 8 GiB on). "
    "NAME_ms: a CUDA graph of one call per set, replayed between two CUDA events, divided by its "
    "calls; NAME_eager_ms: one call between two events, with an idle GPU before. Contestants take "
    "turns; 3 warm-up rounds; median and quartiles of 7 to 25 rounds. GBps: bytes of K and V over "
    "flash_decoding_ms. share_of_read: GBps over read_GBps, the best of several readers of 4 GiB. "
    "peers: which are installed, and which are missing; cannot: which were not timed in a cell, "
    "and why. Interpreted: the host's clock; not a measurement."
)


def make_sets(B: int, Hq: int, Hkv: int, Lk: int, sets: int) -> list[tuple[torch.Tensor, ...]]:
    """`sets` sets of random q (B, 1, Hq, D), k and v (B, Lk, Hkv, D): one allocation for each."""
    make = {"dtype": torch.bfloat16, "device": device()}
    q = torch.randn(sets, B, 1, Hq, D, **make)
    k, v = (torch.randn(sets, B, Lk, Hkv, D, **make) for _ in "kv")
    return list(zip(q, k, v, strict=True))


def entrants_of(
    peers: Sequence[Peer], sets: Sequence[tuple[torch.Tensor, ...]]
) -> tuple[list[Entrant], dict[str, str]]:
    """The contestants that can be prepared for these inputs, and why the others cannot."""
    q, k, v = sets[0]
    judge = Judge(q, full_rows(k, v), kv_heads=k.shape[2], longest=k.shape[1])
    ready, cannot = [], {}
    for peer in peers:
        try:
            calls = peer.prepare(sets)
        except Exception as error:
            cannot[peer.name] = reason(error)
        else:
            ready.append(Entrant(peer.name, calls, judge(peer.name, peer.ours)))
    return ready, cannot


def measure(session: Session, B: int, Hq: int, Hkv: int, Lk: int, peers: Sequence[Peer]) -> dict:
    """One row: shape, times of all contestants, bandwidth of ours."""
    kv_bytes = kv_bytes_of(B, Hkv, Lk)
    row: dict = {"B": B, "Hq": Hq, "Hkv": Hkv, "Lk": Lk, "kv_bytes": kv_bytes}
    cold = QUICK_COLD_BYTES if session.quick else cold_bytes()
    wanted = number_of_sets(kv_bytes, cold)
    if wanted * kv_bytes > free_bytes():
        return row | {"cannot": dict.fromkeys((p.name for p in peers), "out of memory")}
    sets = make_sets(B, Hq, Hkv, Lk, wanted)
    ready, cannot = entrants_of(peers, sets)
    times, failed = compete(ready, on_gpu=not INTERPRETED)
    row |= {"sets": wanted, **times}
    if "flash_decoding_ms" in row:
        gbs = kv_bytes / row["flash_decoding_ms"] / 1e6
        row |= {"GBps": round(gbs, 1), "share_of_read": round(gbs / session.read_gbs, 3)}
    return row | {"cannot": cannot | failed}


def run(session: Session) -> Record:
    """Measure the grid, as far as the session's options and budget allow."""
    peers = [p for p in PEERS if session.wants(p.name, p.ours) and not p.missing()]
    names = [p.name for p in peers]

    def cell(shape: Shape) -> Cell:
        return Cell(name_of(shape), names, lambda: measure(session, *shape, peers))

    cells = [cell(shape) for shape in (QUICK_GRID if session.quick else full_grid())]
    return session.run("decode", cells, PROTOCOL, peers=roll_call(PEERS))


def table(rows: Sequence[dict]) -> str:
    """The rows as text; × is the gain of Flash-Decoding over FlashAttention-2 with one query."""
    head = "  B  heads   length     FA-2 ms       FD ms  eager ms      ×   FD GB/s  of read"
    lines = [f"{head}  best peer"]
    for r in sorted(rows, key=lambda r: (r["B"], r["Hq"], r["Hkv"], r["Lk"])):
        start = f"{r['B']:>3}  {r['Hq']:>2}/{r['Hkv']:<2} {r['Lk']:>8,} "
        if "flash_decoding_ms" not in r:
            lines.append(f"{start}  not timed: {r['cannot'].get('flash_decoding', '')}")
            continue
        fd, fa2, best = r["flash_decoding_ms"], r.get("fa2_ms"), best_peer(r)
        eager = r.get("flash_decoding_eager_ms", fd)
        gain = f"{fa2 / fd:.1f}" if fa2 else "–"
        peer = f"{LABELS[best[0]]} {best[1]:.4f} ms ({best[1] / fd:.2f} ×)" if best else "–"
        lines.append(
            f"{start}{fa2 or float('nan'):>11.4f} {fd:>11.4f} {eager:>9.4f} {gain:>6} "
            f"{r['GBps']:>9.1f} {r['share_of_read']:>8.0%}  {peer}"
        )
    return "\n".join(lines)

"""What this project set out to reach on a GPU, and whether a record shows that it did.

    python -m benchmarks targets

Every target is a number, fixed before the first run, and is judged only from the medians in the
records. *Open*: what was measured meets it, but cells are missing. Megabytes are 10⁶ bytes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.grid import HEADS, best_peer, full_grid, kv_bytes_of, name_of

Rows = Sequence[Mapping]
MB = 10**6


@dataclass(frozen=True)
class Verdict:
    """target: what was wanted. got: what was measured. met: None if it is too early to say."""

    target: str
    got: str
    met: bool | None

    def __str__(self) -> str:
        """A line: met, not met, open; the target; what was measured."""
        state = {True: "met", False: "NOT MET", None: "open"}[self.met]
        return f"{state:<8} {self.target:<62} {self.got}"


Found = tuple[str, float]
"""A cell's name and its figure."""


def verdict(
    target: str, found: Iterable[Found], least: float, *, of: int, unit: str = "×"
) -> Verdict:
    """At least `least` in every one of `of` cells: judged by the lowest figure found."""
    found = list(found)
    if not found:
        return Verdict(target, "not measured", None)
    cell, worst = min(found, key=lambda item: item[1])
    shown = f"{worst:.1%}" if unit == "%" else f"{worst:.2f} {unit}"
    missing = f", {of - len(found)} cells missing" if len(found) < of else ""
    number = f" (lowest of {len(found)}: {cell})" if of > 1 else f" ({cell})"
    met = False if worst < least else None if missing else True
    return Verdict(target, f"{shown}{number}{missing}", met)


def decode_rows(rows: Rows) -> list[Mapping]:
    """Rows with the head counts that the targets name, in which our kernel has a time."""
    timed = [r for r in rows if "flash_decoding_ms" in r]
    return [r for r in timed if (r["Hq"], r["Hkv"]) in HEADS]


def expected(rows: Rows, low: float = 0, high: float = float("inf")) -> int:
    """How many cells of the grid hold low to high bytes of K and V and fit in the GPU's memory."""
    too_large = {
        r["cell"] for r in rows if r["cannot"].get("flash_decoding", "").startswith("out of memory")
    }
    cells = [s for s in full_grid() if s[1:3] in HEADS and name_of(s) not in too_large]
    return sum(low <= kv_bytes_of(s[0], s[2], s[3]) < high for s in cells)


def share_of_read(rows: Rows) -> list[Verdict]:
    """How much of the read bandwidth Flash-Decoding reaches."""
    verdicts = []
    for least, low, high in ((0.90, 256 * MB, float("inf")), (0.75, 64 * MB, 256 * MB)):
        where = f"KV ≥ {low // MB} MB" + (f", < {high // MB:.0f} MB" if high < 1e12 else "")
        found = [
            (r["cell"], r["share_of_read"])
            for r in decode_rows(rows)
            if low <= r["kv_bytes"] < high
        ]
        text = f"at least {least:.0%} of the read bandwidth, {where}"
        verdicts.append(verdict(text, found, least, of=expected(rows, low, high), unit="%"))
    return verdicts


def against_peers(rows: Rows) -> list[Verdict]:
    """Not slower than the best peer anywhere, faster in most cells."""
    peers = [(r, best_peer(r)) for r in decode_rows(rows)]
    found = [(f"{r['cell']}, {p[0]}", p[1] / r["flash_decoding_ms"]) for r, p in peers if p]
    verdicts = [verdict("not slower than the best peer in any cell", found, 1.0, of=expected(rows))]
    faster = sum(ratio > 1 for _, ratio in found)
    text = "faster than the best peer in most cells"
    if not found:
        return [*verdicts, Verdict(text, "not measured", None)]
    decided = len(found) >= expected(rows)
    met = 2 * faster > len(found) if decided else None
    return [*verdicts, Verdict(text, f"in {faster} of {len(found)}", met)]


def speed_ups(rows: Rows) -> list[Verdict]:
    """Gain over FlashAttention-2 with one query."""
    wanted = [((1, 64, 8, n), x) for n, x in ((4096, 2.0), (16384, 5.1), (65536, 8.7))]
    wanted.append(((1, 16, 2, 131072), 40.0))
    verdicts = []
    for shape, least in wanted:
        found = [
            (r["cell"], r["fa2_ms"] / r["flash_decoding_ms"])
            for r in rows
            if r["cell"] == name_of(shape) and "fa2_ms" in r and "flash_decoding_ms" in r
        ]
        text = f"{least:g} × FlashAttention-2 with one query, {name_of(shape)}"
        verdicts.append(verdict(text, found, least, of=1))
    return verdicts


def ratios(rows: Rows, kind: str, over: str, under: str, low: float = 0) -> list[Found]:
    """`over_ms / under_ms` of the rows of a kind that hold at least `low` bytes of K and V."""
    keys = (f"{over}_ms", f"{under}_ms")
    chosen = [r for r in rows if r["kind"] == kind and r["kv_bytes"] >= low]
    return [(r["cell"], r[keys[0]] / r[keys[1]]) for r in chosen if all(k in r for k in keys)]


def caches(rows: Rows) -> list[Verdict]:
    """Paged, quantised and ragged caches, and the host's share of a call."""
    rows = [r for r in rows if "kind" in r]
    sized = [r for r in rows if "kv_bytes" in r]
    verdicts = []
    for page in (16, 256):
        found = ratios(sized, "paged", "contiguous", f"paged_{page}", 64 * MB)
        text = f"pages of {page}: at most 5 % slower than contiguous, ≥ 64 MB"
        verdicts.append(verdict(text, found, 1 / 1.05, of=3))
    for name in ("int8", "fp8_e4m3", "fp8_e5m2"):
        found = ratios(sized, "quantised", "bf16", name, 256 * MB)
        text = f"{name} at least 1.7 × faster than bf16, ≥ 256 MB"
        verdicts.append(verdict(text, found, 1.7, of=2))
    found = ratios(sized, "ragged", "ideal", "planned")
    text = "ragged batch: at most 15 % over bytes / read bandwidth"
    verdicts.append(verdict(text, found, 1 / 1.15, of=1))
    text = "eager call: at most 15 µs of the host's time"
    host = [r for r in rows if "flash_decoding_host_us" in r]
    if not host:
        return [*verdicts, Verdict(text, "not measured", None)]
    us = host[0]["flash_decoding_host_us"]
    return [*verdicts, Verdict(text, f"{us:.1f} µs ({host[0]['cell']})", us <= 15)]


def prefill(rows: Rows) -> list[Verdict]:
    """FlashAttention-2 at 8,192 tokens against PyTorch's flash backend."""
    verdicts = []
    for direction, least in (("forward", 1.2), ("backward", 1.0)):
        for causal in (True, False):
            cells = [r for r in rows if r.get("direction") == direction and r["causal"] == causal]
            both = [r for r in cells if {"sdpa_flash_ms", "flash_attention_ms"} <= r.keys()]
            found = [
                (r["cell"], r["sdpa_flash_ms"] / r["flash_attention_ms"])
                for r in both
                if r["Lk"] == 8192
            ]
            mask = "causal" if causal else "no mask"
            text = f"{direction} at 8,192, {mask}: {least:g} × SDPA's flash backend"
            verdicts.append(verdict(text, found, least, of=2))
    return verdicts


JUDGES: dict[str, tuple[Callable[[Rows], list[Verdict]], ...]] = {
    "decode": (share_of_read, against_peers, speed_ups),
    "variants": (caches,),
    "prefill": (prefill,),
}


def evaluate(records: Mapping[str, Mapping | None]) -> list[Verdict]:
    """A verdict on every target, from the records (by name; None or missing: not made yet)."""
    rows = {name: (records.get(name) or {}).get("rows", []) for name in JUDGES}
    return [v for name, judges in JUDGES.items() for judge in judges for v in judge(rows[name])]


def report(records: Mapping[str, Mapping | None]) -> str:
    """The verdicts as text, under the GPUs that the records come from."""
    gpus = sorted({r["gpu"] for name, r in records.items() if r and name in JUDGES and "gpu" in r})
    verdicts = evaluate(records)
    peers = (records.get("decode") or {}).get("peers", {})
    absent = [name for name, what in peers.items() if what.startswith("missing")]
    met = sum(v.met is True for v in verdicts)
    title = f"targets on {' and '.join(gpus) or 'no GPU yet'}: {met} of {len(verdicts)} met"
    lines = [title, *(f"  {v}" for v in verdicts)]
    if absent:
        lines.append(f"  peers missing on that machine: {', '.join(absent)}")
    return "\n".join(lines)

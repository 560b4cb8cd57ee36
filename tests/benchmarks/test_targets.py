"""Targets are judged by a record's numbers: here, rows made up to meet them and to miss them."""

import pytest

from benchmarks import grid, targets
from benchmarks.targets import evaluate, report

FAST = {"flash_decoding_ms": 1.0, "fa2_ms": 50.0, "sdpa_ms": 2.0, "share_of_read": 0.95}


def decode_row(shape, **more):
    B, Hq, Hkv, Lk = shape
    row = {"cell": grid.name_of(shape), "B": B, "Hq": Hq, "Hkv": Hkv, "Lk": Lk, "cannot": {}}
    return row | {"kv_bytes": grid.kv_bytes_of(B, Hkv, Lk)} | FAST | more


def whole_grid(**changes):
    """One row per cell, meeting every target; `changes`: what differs, by cell name."""
    return [decode_row(s, **changes.get(grid.name_of(s), {})) for s in grid.full_grid()]


def variants():
    rows = [
        {"kind": "paged", "kv_bytes": size, "contiguous_ms": 1.0, "paged_16_ms": 1.04,
         "paged_256_ms": 1.0}
        for size in (67e6, 268e6, 1e9)
    ]  # fmt: skip
    rows += [
        {"kind": "quantised", "kv_bytes": size, "bf16_ms": 1.8, "int8_ms": 1.0, "fp8_e4m3_ms": 1.0,
         "fp8_e5m2_ms": 1.0}
        for size in (268e6, 1e9)
    ]  # fmt: skip
    rows.append({"kind": "ragged", "kv_bytes": 8e8, "ideal_ms": 1.0, "planned_ms": 1.1})
    rows.append({"kind": "host", "flash_decoding_host_us": 12.0})
    return [{"cell": f"{r['kind']} {i}", "cannot": {}} | r for i, r in enumerate(rows)]


def prefill():
    return [
        {"cell": f"{d} {c} {h}", "direction": d, "causal": c, "Lk": 8192, "flash_attention_ms": 1.0,
         "sdpa_flash_ms": 1.3, "cannot": {}}
        for d in ("forward", "backward") for c in (True, False) for h in (16, 32)
    ]  # fmt: skip


def records(decode=None, variant=None, fa2=None):
    parts = {"decode": decode or whole_grid(), "variants": variant or variants()}
    return {name: {"gpu": "made up", "rows": rows}
            for name, rows in (parts | {"prefill": fa2 or prefill()}).items()}  # fmt: skip


def missed(verdicts):
    return [v.target for v in verdicts if v.met is not True]


def test_rows_that_meet_everything_meet_everything():
    verdicts = evaluate(records())
    assert missed(verdicts) == [] and len(verdicts) == 19
    assert report(records()).startswith("targets on made up: 19 of 19 met")


def test_nothing_measured_is_nothing_met():
    verdicts = evaluate({"decode": None})
    assert len(verdicts) == 19
    assert {(v.got, v.met) for v in verdicts} == {("not measured", None)}
    assert "no GPU yet: 0 of 19 met" in report({})


@pytest.mark.parametrize(
    ("cell", "change", "target"),
    [
        ("B64 32/8 16384", {"share_of_read": 0.89}, "90% of the read"),
        ("B1 32/8 16384", {"share_of_read": 0.74}, "75% of the read"),
        ("B1 8/1 512", {"flex_ms": 0.999}, "best peer in any cell"),
        ("B1 64/8 4096", {"fa2_ms": 1.9}, "2 × FlashAttention-2"),
        ("B1 64/8 16384", {"fa2_ms": 5.0}, "5.1 × FlashAttention-2"),
        ("B1 64/8 65536", {"fa2_ms": 8.6}, "8.7 × FlashAttention-2"),
        ("B1 16/2 131072", {"fa2_ms": 39.0}, "40 × FlashAttention-2"),
    ],
)
def test_one_slow_cell_misses_one_target(cell, change, target):
    verdicts = [v for v in evaluate(records(whole_grid(**{cell: change}))) if v.met is False]
    assert len(verdicts) == 1 and target in verdicts[0].target and cell in verdicts[0].got


def test_short_contexts_need_not_fill_the_memory():
    small = [s for s in grid.full_grid() if grid.kv_bytes_of(s[0], *s[2:]) < 64e6]
    slow = {grid.name_of(s): {"share_of_read": 0.1} for s in small}
    assert slow and missed(evaluate(records(whole_grid(**slow)))) == []


def test_the_eager_time_of_a_peer_does_not_count():
    change = {"B1 8/1 512": {"flex_eager_ms": 0.1}}
    assert missed(evaluate(records(whole_grid(**change)))) == []


def test_faster_in_most_cells_is_more_than_half_of_them():
    cells = [grid.name_of(s) for s in grid.full_grid() if s[1:3] in grid.HEADS]
    even = {c: {"sdpa_ms": 1.0} for c in cells[: len(cells) // 2 + 1]}
    assert missed(evaluate(records(whole_grid(**even)))) == [
        "faster than the best peer in most cells"
    ]


def test_a_part_of_the_grid_leaves_a_target_open_but_a_miss_is_a_miss():
    rows = [decode_row((8, 32, 8, 131072))]
    verdict = evaluate({"decode": {"rows": rows}})[0]
    assert verdict.met is None and "cells missing" in verdict.got and "95.0%" in verdict.got
    rows[0]["share_of_read"] = 0.5
    assert evaluate({"decode": {"rows": rows}})[0].met is False


def test_what_does_not_fit_in_memory_is_not_missing():
    rows = whole_grid()
    largest = max(rows, key=lambda r: r["kv_bytes"])
    for key in FAST:
        del largest[key]
    assert missed(evaluate(records(rows))) != []
    largest["cannot"] = {"flash_decoding": "out of memory"}
    assert missed(evaluate(records(rows))) == []


@pytest.mark.parametrize(
    ("kind", "key", "value", "target"),
    [
        ("paged", "paged_16_ms", 1.06, "pages of 16"),
        ("paged", "paged_256_ms", 1.06, "pages of 256"),
        ("quantised", "int8_ms", 1.07, "int8"),
        ("quantised", "fp8_e4m3_ms", 1.07, "fp8_e4m3"),
        ("quantised", "fp8_e5m2_ms", 1.07, "fp8_e5m2"),
        ("ragged", "planned_ms", 1.16, "ragged"),
        ("host", "flash_decoding_host_us", 15.1, "eager call"),
    ],
)
def test_slow_variants_miss(kind, key, value, target):
    rows = variants()
    next(r for r in rows if r["kind"] == kind)[key] = value
    wrong = missed(evaluate(records(variant=rows)))
    assert len(wrong) == 1 and target in wrong[0]


@pytest.mark.parametrize(("direction", "ratio"), [("forward", 1.19), ("backward", 0.99)])
@pytest.mark.parametrize("causal", [True, False])
def test_slow_prefill_misses(direction, ratio, causal):
    rows = prefill()
    which = next(r for r in rows if (r["direction"], r["causal"]) == (direction, causal))
    which["sdpa_flash_ms"] = ratio
    wrong = missed(evaluate(records(fa2=rows)))
    assert len(wrong) == 1 and f"{direction} at 8,192, {'causal' if causal else 'no'}" in wrong[0]


def test_missing_peers_are_named():
    made = records()
    made["decode"]["peers"] = {"sdpa": "2.11", "xformers": "missing: xformers is not installed"}
    assert report(made).endswith("peers missing on that machine: xformers")


def test_the_grid_is_that_of_the_targets():
    shapes = grid.full_grid()
    assert len(set(shapes)) == len(shapes)
    assert {s[3] for s in shapes} == {512 << i for i in range(9)}
    assert {s[0] for s in shapes} == {1, 8, 64}
    assert {s[1:3] for s in shapes} == {(32, 8), (64, 8), (8, 1), (32, 32), (16, 2)}
    assert [grid.name_of(s) for s in shapes[:2]] == ["B1 16/2 131072", "B1 64/8 4096"]
    assert targets.expected([], 0) == sum(s[1:3] != (16, 2) for s in shapes)

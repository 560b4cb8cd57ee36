"""The GPU benchmarks run from start to finish, interpreted on tiny shapes."""

import json
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton", reason="triton has no wheels for this system")

from benchmarks import __main__ as command
from benchmarks import ceilings, figure, grid, machine, peers, prefill, ragged, splits
from kernels.runtime import INTERPRETED

NAMES = ("decode", "variants", "prefill", "splits")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """`python -m benchmarks all --quick`: what it printed, and the records by name."""
    out = tmp_path_factory.mktemp("records")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "all", "--quick", "--out", str(out)],
        capture_output=True,
        text=True,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, {n: json.loads((out / f"{n}.json").read_text()) for n in NAMES}


def test_records_say_how_they_came_about(quick):
    _, records = quick
    said = {"date", "commit", "code", "cpu", "torch", "triton", "gpu", "protocol", "read_GBps"}
    for record in records.values():
        assert said | {"ceilings", "rows", "quick"} <= record.keys()
        assert len(record["code"]) == 12 and record["rows"]


@pytest.mark.parametrize("name", ["decode", "prefill", "variants"])
def test_all_of_ours_were_right_and_timed(quick, name):
    _, records = quick
    ours = {
        "decode": {"flash_decoding", "fa2", "sdpa"},
        "prefill": {"flash_attention", "sdpa"},
        "variants": {"contiguous", "paged_16", "paged_64", "bf16", "int8", "fp8_e4m3", "fp8_e5m2"}
        | set(ragged.WAYS),
    }
    timed = {key[:-3] for r in records[name]["rows"] for key in r if key.endswith("_ms")}
    assert ours[name] <= timed
    failed = {k: v for r in records[name]["rows"] for k, v in r["cannot"].items()}
    assert set(failed) <= {"host"}


def test_what_lessons_read_is_there(quick):
    _, records = quick
    for row in records["decode"]["rows"]:
        times = [row[key] for key in ("fa2_ms", "sdpa_ms", "flash_decoding_ms")]
        assert min(times) > 0 and {"B", "Hq", "Hkv", "Lk", "share_of_read", "GBps"} <= row.keys()


def test_splits_rows_hold_a_curve(quick):
    row = quick[1]["splits"]["rows"][0]
    assert row["num_splits"] == [1, 2, 3] and len(row["ms"]) == 3 and row["chosen"] >= 1


def test_missing_peers_are_named_once(quick):
    said = quick[1]["decode"]["peers"]
    assert set(said) == {p.name for p in peers.PEERS} and said["flash_decoding"] == "ours"
    for name, module in (("xformers", "xformers"), ("flashinfer_tc", "flashinfer")):
        if not machine.version_of(module, f"{module}-python"):
            assert said[name] == f"missing: {module} is not installed"


@pytest.mark.skipif(not INTERPRETED, reason="on a GPU it does measure")
def test_an_interpreted_run_says_that_it_measures_nothing(quick):
    said, records = quick
    assert said.count("measures nothing") == 4 and "targets on" not in said
    assert records["decode"]["gpu"].startswith("none")
    assert records["decode"]["peers"]["flex"] == "needs a GPU"


@pytest.mark.parametrize("name", NAMES)
def test_every_record_can_be_drawn(quick, name, tmp_path):
    drawn = figure.draw(name, quick[1][name])
    drawn.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000
    assert "measures nothing" in drawn.get_suptitle() or not INTERPRETED
    with pytest.raises(ValueError, match="was timed"):
        figure.draw(name, quick[1][name] | {"rows": []})


def test_the_reader_reads_everything():
    x = torch.randint(-(2**31), 2**31, (4 * 1024,), dtype=torch.int32)
    for place in (0, 1023, 1024, 4095):
        x[place] = 2**31 - 1
        assert ceilings.read(x, 512, 4, 1).max() == 2**31 - 1
        x[place] = -5
    with pytest.raises(ValueError, match="multiple of 512"):
        ceilings.read(x[:-1], 512, 4, 1)


def test_prefill_judges_gradients_too():
    make = torch.Generator().manual_seed(1)
    shapes = ((1, 8, 4, 16), (1, 8, 2, 16), (1, 8, 2, 24))
    qkv = [torch.randn(s, generator=make).bfloat16() for s in shapes]
    do = torch.randn(1, 8, 4, 24, generator=make).bfloat16()
    check = prefill.judge(qkv, do, True, True)("flash_attention")
    got = prefill.gradients(prefill.naive, qkv, do, True)()
    assert check(got) == ""
    assert "too far" in check((got[0], got[1] * 1.5, got[2]))
    assert prefill.flops(2, 16, 8192, True, False) == 4 * 2 * 16 * 8192**2 * 128 / 2
    assert prefill.flops(2, 16, 8192, False, True) == 10 * 2 * 16 * 8192**2 * 128
    assert prefill.flops(1, 1, 1, False, False, prefill.MLA) == 2 * (192 + 128)
    assert prefill.flops(1, 1, 1, False, True, prefill.MLA) == 2 * (3 * 192 + 2 * 128)


def test_a_ragged_table_gives_every_row_its_own_pages():
    table = ragged.ragged_table([100, 1, 33], page=32, count=4 + 1 + 2)
    assert table.dtype == torch.int32 and table.shape == (3, 4)
    used = table[table >= 0]
    assert sorted(used.tolist()) == list(range(7)) and (table >= 0).sum(1).tolist() == [4, 1, 2]


def test_regret_of_a_choice():
    row = {"num_splits": [1, 2, 4], "ms": [4.0, 2.0, 3.0]}
    for chosen, lost in ((2, 0.0), (4, 0.5), (3, 0.25), (1, 1.0), (8, None)):
        assert splits.regret(row | {"chosen": chosen}) == lost


def test_remarks_on_splits_score_the_rules_and_fit_the_costs():
    """A made-up GPU on which a second launch costs nothing: the fit must find that out."""
    tried = [1, 2, 4, 8, 16, 32]
    rows = [
        {"B": 1, "Hq": 32, "Hkv": 8, "Lk": n, "num_splits": tried, "ms": [1 / s for s in tried]}
        for n in (2048, 4096, 8192)
    ]
    told = splits.remarks({"gpu": "NVIDIA H200", "rows": rows})
    assert "regret on 3 curves, recorded on H200" in told
    assert "never split" in told and "best for this run: Costs(merge=32768" in told
    assert splits.remarks({"gpu": "none: interpreted", "rows": rows}) == ""


def test_the_digest_changes_with_the_code(tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "a.py").write_text("x = 1\n")
    before = machine.code_digest(tmp_path)
    (tmp_path / "kernels" / "a.py").write_text("x = 2\n")
    assert (
        machine.code_digest(tmp_path)
        != before
        == "".join(c for c in before if c in "0123456789abcdef")
    )


def test_the_command_line_takes_what_the_makefile_says():
    options = command.parser().parse_args(["all"])
    assert (options.quick, options.resume, options.budget, options.out) == (
        False,
        False,
        None,
        None,
    )
    one = command.parser().parse_args(
        ["decode", "--only", "B1 ", "--budget", "500", "--resume", "--figure", "x.png"]
    )
    assert one.budget == 500.0 and one.figure == "x.png"
    assert grid.D == prefill.D == 128

"""python -m reference.serving: several answers in one terminal; and loads at random times."""

import doctest
import io
import re

import pytest
import torch
from serving_models import tiny

from reference import checkpoint
from reference.generate import generate
from reference.pretrained import SMOLLM2
from reference.serving import Engine, Request, SimulatedClock, demo, load
from reference.serving.load import byte_requests, poisson, run_with_progress


def test_examples():
    assert doctest.testmod(load).failed == 0


@pytest.mark.parametrize("attend", ["threads", "reference"])
def test_the_demo_answers_as_generate_does_and_ends_with_the_table(attend, capsys):
    arguments = ["--demo", "--requests", "3", "--rate", "100", "--max-tokens", "6"]
    assert demo.main([*arguments, "--attend", attend]) == 0
    out, err = capsys.readouterr()
    model = checkpoint.load()
    for i, text in enumerate(demo.TEXTS[:3]):
        alone = b"".join(generate(model, text.encode(), max_bytes=6)).decode(errors="replace")
        assert f"[{i + 1}] {alone.strip()}\n" in out
    assert err == "" and "3 requests, 18 tokens in" in out
    assert re.search(r"^TTFT +[\d,.]+ +[\d,.]+ +[\d,.]+$", out, re.MULTILINE)


def test_the_kernel_attends_on_request(capsys):
    pytest.importorskip("triton", reason="triton has no wheels for this system")
    arguments = ["--demo", "--requests", "1", "--max-tokens", "2", "--attend", "kernel"]
    assert demo.main(arguments) == 0
    alone = b"".join(generate(checkpoint.load(), demo.TEXTS[0].encode(), max_bytes=2)).decode()
    assert f"[1] {alone.strip()}\n" in capsys.readouterr().out


@pytest.mark.skipif(not SMOLLM2.is_file(), reason="needs the model: make model")
def test_the_real_model_answers_several_questions(capsys):
    arguments = ["--demo", "--model", "smollm2", "--requests", "2", "--rate", "100"]
    assert demo.main([*arguments, "--max-tokens", "3"]) == 0
    out = capsys.readouterr().out
    assert "[1] " in out and "[2] " in out and "2 requests, 6 tokens" in out


def test_what_is_missing_is_said_in_a_sentence(capsys, tmp_path):
    assert demo.main(["--demo", "--model", str(tmp_path / "none")]) == 1
    assert "there is nothing at" in capsys.readouterr().err
    assert demo.main(["--demo", "--num-pages", "3", "--requests", "1"]) == 1
    assert "need 6 pages of 16 tokens; there are 3 in all" in capsys.readouterr().err


def test_ctrl_c_cancels_all_and_still_shows_the_table(capsys, monkeypatch):
    shown = 0

    def show(self, engine, done=None):
        nonlocal shown
        shown += 1
        if shown == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(demo.Board, "show", show)
    assert demo.main(["--demo", "--requests", "2", "--rate", "1e9"]) == 130
    out = capsys.readouterr().out
    assert out.count("cancelled") == 2 and "2 requests, 4 tokens in" in out


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_every_request_has_a_line_that_is_redrawn():
    engine = Engine(tiny(), num_pages=40, page_size=4, clock=SimulatedClock(lambda load: 1.0))
    out = Terminal()
    board = demo.Board(out)
    board.width = 20
    asked = [Request([65, n], max_tokens=30, id=n) for n in (1, 2)]
    demo.serve(engine, asked, board)
    first, *later = out.getvalue().split("\x1b[2A")
    assert len(later) == 59  # every event but the first redraws both lines
    assert first.count("\n") == 2 and "▸" in first
    last = [line.removeprefix("\x1b[2K") for line in later[-1].splitlines()]
    assert [line[:5] for line in last] == ["  1 ✓", "  2 ✓"]
    assert all(len(line) <= 20 for line in last)
    text = " ".join(engine.answers[1].text.split())
    assert last[0] == f"  1 ✓ …{text[-13:]}"


def test_arrivals_are_poissons():
    times = torch.tensor(poisson(20_000, rate=4.0, seed=3), dtype=torch.float64)
    gaps = times.diff()
    # The mean of n exponential times has a deviation of mean / √n, the variance of √8 var / √n.
    n = len(gaps)
    assert times[0] == 0 and abs(gaps.mean() - 0.25) < 4 * 0.25 / n**0.5
    assert abs(gaps.var() - 0.0625) < 4 * 8**0.5 * 0.0625 / n**0.5
    assert poisson(5, 1.0, seed=1) == poisson(5, 1.0, seed=1) != poisson(5, 1.0, seed=2)


@pytest.mark.parametrize("count, rate", [(0, 1.0), (3, 0.0), (3, -1.0)])
def test_a_load_needs_a_count_and_a_rate(count, rate):
    with pytest.raises(ValueError, match="count must be at least 1 and rate above 0"):
        poisson(count, rate)


def test_a_load_of_bytes():
    found = byte_requests(b"abcdefgh" * 4, 50, 2.0, prompt=(3, 9), answer=(1, 4), common=b"? ")
    assert [r.arrival for r in found] == poisson(50, 2.0)
    assert {len(r.prompt) - 2 for r in found} == set(range(3, 10))
    assert {r.max_tokens for r in found} == {1, 2, 3, 4}
    assert all(r.prompt[:2] == b"? " and r.prompt[2:] in b"abcdefgh" * 4 for r in found)
    with pytest.raises(ValueError, match="must have 9 bytes or more; got 8"):
        byte_requests(b"abcdefgh", 1, 1.0, prompt=(3, 9))


def test_progress_counts_the_answered(capsys):
    engine = Engine(tiny(), num_pages=40, page_size=4, clock=SimulatedClock(lambda load: 0.1))
    asked = [Request([n], max_tokens=3, arrival=n / 10) for n in range(5)]
    answers = run_with_progress(engine, asked)
    assert [answer.order for answer in answers] == list(range(5))
    assert all(answer.reason == "length" for answer in answers)
    assert "5/5" in capsys.readouterr().err

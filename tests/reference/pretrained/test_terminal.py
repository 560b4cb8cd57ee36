"""python -m reference.generate: it streams, says how long things took, and ends cleanly."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from llamas import llama, write_folder, write_gguf

from reference import pretrained
from reference.generate import generate_tokens
from reference.pretrained import load, terminal

ROOT = Path(__file__).resolve().parents[3]
LAST = (
    r"TTFT \d+\.\d ms for (\d+) (token|byte)s; TPOT \d+\.\d\d ms \(median of (\d+)\); "
    r"\d+\.\d tokens/s; stopped: (.+)\n"
)


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = terminal.main(arguments)
    return status, *capsys.readouterr()


def ending(out: str) -> tuple[str, list[str]]:
    """The answer, and the four numbers and words of the last line."""
    answer, last = out.rsplit("\n\n", 1)
    return answer, list(re.fullmatch(LAST, last).groups())


@pytest.mark.parametrize("attend", ["reference", "threads", "kernel"])
def test_an_answer_and_its_times(tmp_path, capsys, attend):
    if attend == "kernel":
        pytest.importorskip("triton", reason="triton is not installed: no kernel to run")
    write_folder(tmp_path)
    model, tokenizer = load(tmp_path)
    prompt = tokenizer.chat("the cache?")
    wanted = tokenizer.decode(generate_tokens(model, prompt, max_tokens=5, stop=[2]))
    options = ("--attend", attend, "--max-tokens", "5", "--device", "cpu")
    status, out, err = run(capsys, "the cache?", "--model", str(tmp_path), *options)
    answer, numbers = ending(out)
    assert (status, answer, err) == (0, wanted, "")
    assert numbers == [str(len(prompt)), "token", "4", "length"]


def test_raw_text_and_seeds(tmp_path, capsys):
    write_gguf(tmp_path / "a.gguf", llama())
    asked = ("the cache", "--model", str(tmp_path / "a.gguf"), "--raw", "--max-tokens", "9")
    answers = []
    for more in ((), ("--temperature", "1"), ("--temperature", "1", "--seed", "1")):
        status, out, _ = run(capsys, *asked, *more)
        answer, numbers = ending(out)
        assert status == 0 and numbers[0] == "4"  # t, he, Ġ, cache: no frame
        answers.append(answer)
    assert len(set(answers)) == 3


def test_without_a_model_named_it_is_the_byte_level_one(capsys):
    status, out, _ = run(capsys, "The cache is", "--max-tokens", "4")
    answer, numbers = ending(out)
    assert status == 0 and len(answer.encode()) == 4
    assert numbers == ["12", "byte", "3", "length"]


def test_what_is_missing_is_said_in_a_sentence(capsys, monkeypatch, tmp_path):
    for module in (pretrained, terminal):
        monkeypatch.setattr(module, "SMOLLM2", tmp_path / "none.gguf")
    status, out, err = run(capsys, "Why?", "--model", "smollm2")
    assert (status, out) == (1, "") and "run `make model`" in err and err.count("\n") == 1
    status, _, err = run(capsys, "Why?", "--model", str(tmp_path / "x"))
    assert status == 1 and "nothing at" in err
    write_folder(tmp_path, attention_bias=True)
    status, _, err = run(capsys, "Why?", "--model", str(tmp_path))
    assert status == 1 and err == "attention_bias must be False; got True\n"
    write_folder(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    status, _, err = run(capsys, "Why?", "--model", str(tmp_path))
    assert status == 1 and "A package is missing" in err and "make lab" in err


def heed_interrupts():
    """What is started in the background of a shell ignores Ctrl-C, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_it_streams_and_ctrl_c_ends_it():
    """A real interrupt to a real process, when three bytes have come."""
    command = [sys.executable, "-m", "reference.generate", "The cache", "--max-tokens", "400"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heed_interrupts,
    ) as process:
        first = process.stdout.read(3)
        assert len(first) == 3 and process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, b"")
    answer, numbers = ending((first + out).decode())
    assert 3 <= len(answer.encode()) < 400 and numbers[3] == "Ctrl-C"


def test_ctrl_c_before_the_first_token(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(terminal, "answer", interrupted)
    assert run(capsys, "Why?") == (130, "\nStopped before the first token.\n", "")

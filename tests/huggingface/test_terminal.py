"""python -m course.huggingface: it answers, says what attended, and checks itself."""

import copy
import json
from pathlib import Path

import pytest
import torch
from hf_families import family
from llamas import MERGES, SPECIAL, TEMPLATE, llama, vocabulary, write_gguf

import course.huggingface.__main__ as terminal
from course.huggingface import register
from course.huggingface.models import as_transformers, read
from reference.generate import generate_tokens
from reference.pretrained import SMOLLM2, load
from reference.pretrained.tokenizer import byte_level

pytest.importorskip("transformers", reason="needs transformers: pip install .[hf]")

GIVEN = Path(__file__).resolve().parents[1] / "given" / "smollm2_greedy.json"


@pytest.fixture
def gguf(tmp_path) -> str:
    write_gguf(tmp_path / "a.gguf", llama())
    return str(tmp_path / "a.gguf")


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = terminal.main(arguments)
    return status, *capsys.readouterr()


def test_an_answer_and_a_check(gguf, capsys):
    model, tokenizer = load(gguf)
    prompt = tokenizer.chat("the cache?")
    wanted = list(generate_tokens(model, prompt, max_tokens=5, stop=tokenizer.stop))
    options = ("--model", gguf, "--max-tokens", "5", "--attend", "reference", "--check")
    status, out, err = run(capsys, "the cache?", *options)
    text, counted, same = out.rsplit("\n", 3)[:3]
    assert (status, err) == (0, "")
    assert text.removesuffix("\n") == tokenizer.decode(wanted)
    assert counted == f"LlamaForCausalLM, {len(prompt)} + 5 tokens, attention: reference"
    assert same == "the same tokens as transformers' own attention (sdpa)"


def test_a_check_can_fail(gguf, capsys, monkeypatch):
    answer = terminal.answer

    def one_too_few(ready, name, *rest):
        return answer(ready, name, *rest)[: -1 if name == "sdpa" else None]

    monkeypatch.setattr(terminal, "answer", one_too_few)
    options = ("--model", gguf, "--max-tokens", "5", "--attend", "reference", "--check")
    status, out, _ = run(capsys, "the cache?", *options)
    assert status == 1 and "OTHER tokens as transformers' own" in out


def folder_of(tmp_path) -> str:
    """A model that is no Llama: sinks and windows, with a tokenizer of its own."""
    model = family("gpt_oss", vocab_size=len(vocabulary()))
    model.generation_config.eos_token_id = 2
    model.save_pretrained(tmp_path)
    byte_level(vocabulary(), MERGES, SPECIAL).save(str(tmp_path / "tokenizer.json"))
    more = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(more))
    return str(tmp_path)


@pytest.mark.parametrize("raw", [False, True])
def test_a_folder_of_any_architecture(tmp_path, capsys, raw):
    folder = folder_of(tmp_path)
    options = ["--model", folder, "--max-tokens", "4", "--attend", "reference", "--check"]
    status, out, _ = run(capsys, "the cache", *options, *(["--raw"] if raw else []))
    assert status == 0
    assert f"GptOssForCausalLM, {4 if raw else 23} + 4 tokens" in out  # t, he, Ġ, cache; the frame
    assert "the same tokens as transformers' own attention (eager)" in out
    assert read(folder, "the", raw=True).stop == [2]


def test_what_is_missing_is_said_in_a_sentence(tmp_path, capsys):
    status, out, err = run(capsys, "?", "--model", str(tmp_path / "nothing.gguf"))
    assert (status, out) == (1, "") and "must be a folder or a .gguf file" in err
    status, out, err = run(capsys, "?", "--model", str(tmp_path))
    assert (status, out) == (1, "") and "config.json" in err


def test_half_a_character_waits(capsys):
    printer = terminal.Printer(lambda tokens: bytes(tokens).decode(errors="replace"))
    printer.put(torch.tensor([[1, 2, 3]]))  # the prompt
    for byte in "aé".encode():
        printer.put(torch.tensor([byte]))
    assert capsys.readouterr().out == "aé"
    printer.put(torch.tensor([0xC3]))
    assert capsys.readouterr().out == ""
    printer.end()
    assert capsys.readouterr().out == "\ufffd"


@pytest.mark.skipif(not SMOLLM2.exists(), reason="SmolLM2 is not here: `make model` fetches it")
def test_smollm2_writes_its_recorded_tokens():
    recorded = json.loads(GIVEN.read_text(encoding="utf-8"))["answers"][1]
    ready = read("smollm2", recorded["question"])
    assert ready.prompt == recorded["prompt"]
    name = register("reference_for_tests", backend="reference")
    assert terminal.answer(ready, name, len(recorded["tokens"])) == recorded["tokens"]


def test_the_weights_are_not_copied():
    model = llama()
    peer = as_transformers(model)
    assert peer.model.embed_tokens.weight.data_ptr() == model.embedding.weight.data_ptr()
    broken = copy.deepcopy(model)
    broken.blocks = broken.blocks[:2]  # of three
    with pytest.raises(RuntimeError, match="weights that ours does not fill"):
        as_transformers(broken)

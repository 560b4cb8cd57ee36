"""The real model, where `make model` has been run: what it is, what it says, and the proof."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rounding import allowed

from course.model import sha256
from reference.flash_decoding import flash_decode
from reference.flash_decoding_cpu import flash_decode_threads
from reference.generate import Timing, generate_tokens
from reference.pretrained import SMOLLM2, load
from reference.transformer import Config, KVCache

if not SMOLLM2.exists():
    pytest.skip("SmolLM2 is not here: `make model` fetches it", allow_module_level=True)
GIVEN = Path(__file__).resolve().parents[2] / "given" / "smollm2_greedy.json"
GREEDY = json.loads(GIVEN.read_text(encoding="utf-8"))
SKY, SUM = GREEDY["answers"]


@pytest.fixture(scope="module")
def pretrained():
    return load()


def greedy(pretrained, answer, attend, **options):
    model, tokenizer = pretrained
    prompt = tokenizer.chat(answer["question"])
    assert prompt == answer["prompt"]
    most = len(answer["tokens"])
    options |= {"max_tokens": most, "stop": tokenizer.stop, "attend": attend}
    return list(generate_tokens(model, prompt, **options))


def test_it_is_the_model_of_the_record(pretrained):
    assert sha256(SMOLLM2) == GREEDY["sha256"]
    model, tokenizer = pretrained
    assert model.config == Config(49152, 30, 576, 9, 3, 64, 1536, 8192, 1e5, 1e-5)
    assert sum(x.numel() for x in model.parameters()) == 134_515_008
    assert (len(tokenizer), tokenizer.stop, tokenizer.eos) == (49152, {2}, "<|im_end|>")


def test_text_becomes_the_tokens_of_its_vocabulary(pretrained):
    tokenizer = pretrained.tokenizer
    words = [tokenizer.decode([token]) for token in tokenizer.encode("The sky is blue, 1984")]
    assert words == ["The", " sky", " is", " blue", ",", " ", "1", "9", "8", "4"]
    shown = tokenizer.inner.decode(SKY["prompt"], skip_special_tokens=False)
    assert shown == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("attend", [flash_decode_threads, flash_decode])
def test_the_recorded_tokens_come_again(pretrained, attend):
    timing = Timing()
    assert greedy(pretrained, SUM, attend, timing=timing, prefill_chunk=16) == SUM["tokens"]
    assert (timing.stopped, timing.prompt_tokens) == ("stop token", 40)
    assert len(timing.tpot_ms) == len(SUM["tokens"]) - 1


@torch.no_grad()
def test_it_is_the_model_that_transformers_runs(pretrained):
    """Logits of a prefill and of 64 steps, each after the recorded tokens; then the tokens."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: .[hf]")
    from benchmarks.model import as_transformers, run_transformers

    model, peer = pretrained.model, as_transformers(pretrained.model)
    prefill, written = len(SKY["prompt"]), SKY["tokens"]
    assert len(written) == 64
    tokens = torch.tensor([[*SKY["prompt"], *written]])
    ours, theirs = KVCache(model.config, capacity=100), transformers.DynamicCache()
    got, wanted = [], []
    for part in tokens.split([prefill] + [1] * 64, dim=1):
        got.append(model(part, ours, flash_decode_threads))
        wanted.append(run_transformers(peer, part, theirs))
    got, wanted = torch.cat(got, 1), torch.cat(wanted, 1)
    truth, most = allowed(copy.deepcopy(model).double(), tokens)
    assert most < 1e-2 * truth.std()
    assert (got - wanted).abs().max() <= most and (wanted - truth).abs().max() <= most
    last = got[0, prefill - 1 : -1]
    assert last.argmax(-1).tolist() == written
    lead = last.topk(2).values.diff(dim=-1).abs().min()
    assert lead > 2 * most  # no rounding can make another token the likeliest


MEMORY = """
from benchmarks.machine import memory_now_and_most
from benchmarks.model import Ours, weight_bytes
from reference.pretrained import load
before, _ = memory_now_and_most()
model = load().model
step = Ours(model, 512)
step(), step()
needed = weight_bytes(model) + 512 * model.config.kv_bytes_per_token()
print((memory_now_and_most()[1] - before) / needed)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no getrusage")
def test_it_takes_little_more_memory_than_weights_and_cache():
    """Of 562 MB; the file is 98 MB, its header's strings 11, the tokenizer 22."""
    command = [sys.executable, "-c", MEMORY]
    share = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 1.0 < share < 1.2

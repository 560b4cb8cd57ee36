"""reference.pretrained on GGUF files, written here by the package gguf."""

import doctest

import pytest
import torch
from llamas import SIZES, UNTIED, llama, neighbours, write_gguf
from small_models import some_tokens

from course.check.guards import empty_is_nan
from reference import pretrained
from reference.pretrained import UnfitError, gguf_file, load
from reference.transformer import Config

pytest.importorskip("gguf")


@pytest.mark.parametrize("config", [SIZES, UNTIED], ids=["tied", "untied"])
def test_what_is_written_is_read(tmp_path, config):
    wanted = llama(config)
    write_gguf(tmp_path / "a.gguf", wanted)
    with empty_is_nan():
        model, tokenizer = load(tmp_path / "a.gguf")
    assert model.config == config
    for (name, x), y in zip(model.named_parameters(), wanted.parameters(), strict=True):
        assert torch.equal(x, y), name
    tokens = some_tokens(1, 20)
    assert torch.equal(model(tokens), wanted(tokens))
    assert (len(tokenizer), tokenizer.stop) == (config.vocabulary, {2})
    assert (tokenizer.bos, tokenizer.eos) == ("<|im_start|>", "<|im_end|>")


def test_neighbouring_rows_are_put_apart():
    rows = torch.arange(24.0)[:, None].expand(-1, 5)
    stored = neighbours(rows, heads=3)
    assert stored[:8, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert torch.equal(gguf_file.halves_apart(stored, heads=3), rows)
    assert not torch.equal(gguf_file.halves_apart(stored, heads=1), rows)
    assert doctest.testmod(gguf_file).failed == 0


def test_eight_bits_are_widened(tmp_path):
    """Q8_0: 32 numbers share a scale, their largest over 127; each is off by half a step.

    The scale is stored in fp16, which adds at most 127 · 2^-11 of it to the largest numbers.
    """
    config = Config(**{**vars(SIZES), "width": 64, "hidden": 96})  # blocks have 32 numbers
    wanted = llama(config)
    wanted.embedding.weight[0, :4] = torch.tensor([0.0, 1.0, -1.0, 0.5])
    write_gguf(tmp_path / "a.gguf", wanted, ("token_embd.weight", "blk.1.attn_k.weight"))
    model = load(tmp_path / "a.gguf").model
    rows = slice(config.Hq * config.D, (config.Hq + config.Hkv) * config.D)
    for got, x in (
        (model.embedding.weight, wanted.embedding.weight),
        (model.blocks[1].qkv.weight[rows], wanted.blocks[1].qkv.weight[rows]),
    ):
        step = x.unflatten(-1, (-1, 32)).abs().amax(-1, keepdim=True) / 127
        error = (got - x).unflatten(-1, (-1, 32)).abs()
        assert (error <= step * (0.5 + 127 * 2**-11) * (1 + 1e-6)).all() and error.max() > 0
    assert torch.equal(model.blocks[0].qkv.weight, wanted.blocks[0].qkv.weight)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "qwen2"}, "general.architecture must be 'llama'; got 'qwen2'"),
        ({"scaling": "linear"}, "llama.rope.scaling.type must be 'none'; got 'linear'"),
        ({"rope_dimensions": 8}, "rope.dimension_count must be the head dimension, 16; got 8"),
        ({"pre": "llama-bpe"}, r"tokenizer must be \('gpt2', 'smollm'\); got \('gpt2', 'llama-bpe"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, fields, message):
    write_gguf(tmp_path / "a.gguf", llama(), **fields)
    with pytest.raises(UnfitError, match=message):
        load(tmp_path / "a.gguf")


def test_a_bias_and_a_missing_tensor_are_named(tmp_path, monkeypatch):
    import llamas

    model, named = llama(), llamas.named_for_gguf
    for change, message in (
        ({"blk.0.attn_q.bias": torch.zeros(96)}, "a bias called model.layers.0.self_attn.q_proj"),
        ({"rope_freqs.weight": torch.ones(8)}, "a tensor called rope_freqs.weight"),
        ({"blk.2.ffn_up.weight": None}, "1 of 29 tensors .* model.layers.2.mlp.up_proj.weight"),
    ):

        def spoilt(model, change=change):
            return {name: x for name, x in (named(model) | change).items() if x is not None}

        monkeypatch.setattr(llamas, "named_for_gguf", spoilt)
        write_gguf(tmp_path / "a.gguf", model)
        with pytest.raises(UnfitError, match=message):
            load(tmp_path / "a.gguf")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_a_file_that_is_cut_or_is_something_else(tmp_path, share):
    path = tmp_path / "a.gguf"
    write_gguf(path, llama())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UnfitError, match=r"a\.gguf is no GGUF file, or is damaged"):
        load(path)


def test_before_make_model(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "SMOLLM2", tmp_path / "none.gguf")
    with pytest.raises(FileNotFoundError, match="run `make model`"):
        load(tmp_path / "none.gguf")

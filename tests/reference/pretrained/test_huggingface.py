"""reference.pretrained on folders in Hugging Face's format, written here."""

import json

import pytest
import torch
from llamas import SIZES, UNTIED, llama, tensors, write_folder
from safetensors.torch import load_file, save_file
from small_models import some_tokens

from course.check.guards import empty_is_nan
from reference.pretrained import UnfitError, load
from reference.pretrained.weights import empty, places
from reference.transformer import Config


def same(a, b) -> bool:
    assert a.config == b.config
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("config", [SIZES, UNTIED], ids=["tied", "untied"])
@pytest.mark.parametrize("shards", [1, 3])
def test_what_is_written_is_read(tmp_path, config, shards):
    wanted = write_folder(tmp_path, llama(config), shards)
    with empty_is_nan():  # a weight that is not filled would show
        model, tokenizer = load(str(tmp_path))
    assert same(model, wanted) and model.config.tied is config.tied
    assert not any(x.requires_grad for x in model.parameters()) and not model.training
    tokens = some_tokens(1, 20)
    assert torch.equal(model(tokens), wanted(tokens))
    assert (len(tokenizer), tokenizer.stop) == (config.vocabulary, {2})


def test_an_empty_model_draws_nothing():
    before = torch.get_rng_state()
    with empty_is_nan():
        model = empty(UNTIED, torch.float32, "cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(x.isnan().all() for x in model.parameters() if x.ndim == 2)


def test_every_place_is_a_part_of_the_model_and_no_two_share_memory():
    model = llama(UNTIED)
    for number, place in enumerate(places(model).values()):
        place.fill_(number)
    assert sum(x.numel() for x in places(model).values()) == sum(
        x.numel() for x in model.parameters()
    )
    assert all(
        (place == number).all() for number, place in enumerate(places(model).values())
    )  # none has overwritten another
    assert model.embedding.weight.unique().tolist() == [0.0]


def test_another_dtype(tmp_path):
    wanted = write_folder(tmp_path)
    model, _ = load(tmp_path, dtype=torch.bfloat16)
    assert model.norm.weight.dtype == torch.bfloat16 and model.angles[0].dtype == torch.float32
    assert same(model, wanted.bfloat16())


def test_the_words_of_transformers_5_and_the_defaults_of_both(tmp_path):
    rope = {"rope_type": "default", "rope_theta": 5000.0}
    wanted = write_folder(tmp_path, rope_theta=None, rope_parameters=rope)
    assert load(tmp_path).model.config == wanted.config
    write_folder(tmp_path, rope_theta=None, rms_norm_eps=None, max_position_embeddings=None)
    found = load(tmp_path).model.config
    assert (found.rope_base, found.norm_eps, found.context) == (10000.0, 1e-6, 2048)
    heads = Config(**{**vars(SIZES), "Hkv": 6, "D": 8})  # both follow from the others if absent
    write_folder(tmp_path, llama(heads), num_key_value_heads=None, head_dim=None)
    assert load(tmp_path).model.config == heads
    write_folder(tmp_path, llama(UNTIED), tie_word_embeddings=None)
    assert load(tmp_path).model.config == UNTIED


LLAMA3 = {"rope_type": "llama3", "factor": 8.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen2"}, "model_type must be 'llama'; got 'qwen2'"),
        ({"model_type": None}, "model_type must be 'llama'; got None"),
        ({"attention_bias": True}, "attention_bias must be False; got True"),
        ({"mlp_bias": True}, "mlp_bias must be False; got True"),
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu'; got 'gelu'"),
        ({"rope_scaling": LLAMA3}, "rope scaling must be 'default'; got 'llama3'"),
        ({"rope_scaling": {"type": "linear"}}, "rope scaling must be 'default'; got 'linear'"),
        ({"rope_parameters": LLAMA3}, "rope scaling must be 'default'; got 'llama3'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor must be 1.0"),
        ({"rope_interleaved": True}, "rope_interleaved must be False; got True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config must be None; got {'bits'"),
        ({"hidden_size": None}, "config.json does not say its hidden_size"),
        ({"num_key_value_heads": 4}, "Hq must be a multiple of Hkv; got 6 and 4"),
        ({"hidden_size": "wide"}, "these sizes make no model"),
        ({"vocab_size": 100}, r"embed_tokens.weight must be \(100, 48\); got \(265, 48\)"),
        ({"num_hidden_layers": 2}, "no place for a tensor called model.layers.2."),
        ({"num_hidden_layers": 4}, r"9 of 38 tensors are missing, such as model.layers.3.input"),
        ({"tie_word_embeddings": False}, "1 of 30 tensors are missing, such as lm_head.weight"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, changes, message):
    write_folder(tmp_path, **changes)
    with pytest.raises(UnfitError, match=message):
        load(tmp_path)


def spoilt(tmp_path, **changes):
    """Write a folder with some tensors replaced, added, or (None) left out."""
    weights = tensors(write_folder(tmp_path)) | changes
    weights = {name: x for name, x in weights.items() if x is not None}
    save_file(weights, tmp_path / "model.safetensors")


def test_tensors_that_do_not_fit_are_named(tmp_path):
    q = "model.layers.1.self_attn.q_proj"
    for changes, message in (
        ({f"{q}.bias": torch.zeros(96)}, f"no place for a bias called {q}.bias"),
        ({f"{q}.weight": torch.zeros(96, 47)}, r"q_proj.weight must be \(96, 48\); got \(96, 47"),
        ({f"{q}.weight": torch.zeros(96, 48).int()}, "must be fp16, bf16, fp32 or fp64; got torch"),
        ({f"{q}.weight": None}, f"1 of 29 tensors are missing, such as {q}.weight"),
    ):
        spoilt(tmp_path, **changes)
        with pytest.raises(UnfitError, match=message):
            load(tmp_path)


def test_what_old_files_carry_is_skipped(tmp_path):
    inverse = "model.layers.0.self_attn.rotary_emb.inv_freq"
    wanted = write_folder(tmp_path)
    spoilt(tmp_path, **{inverse: torch.ones(8), "lm_head.weight": torch.ones(265, 48)})
    assert same(load(tmp_path).model, wanted)


def test_files_that_are_missing_or_damaged(tmp_path):
    write_folder(tmp_path, shards=3)
    shard = tmp_path / "model-00002-of-00003.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnfitError, match=r"model-00002-of-00003\.safetensors is no safe"):
        load(tmp_path)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold model-00002-of-00003\.safe"):
        load(tmp_path)
    shard.write_bytes(whole)
    for name in ("tokenizer.json", "config.json"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text[:50])
        with pytest.raises(UnfitError, match=f"{name} (is not JSON|cannot be read)"):
            load(tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"must hold {name}"):
            load(tmp_path)
        (tmp_path / name).write_text(text)
    with pytest.raises(FileNotFoundError, match=r"nothing at .*elsewhere"):
        load(tmp_path / "elsewhere")


def test_a_tensor_in_two_shards_and_a_shard_elsewhere(tmp_path):
    write_folder(tmp_path, shards=3)
    first, second = (tmp_path / f"model-0000{i}-of-00003.safetensors" for i in (1, 2))
    name, x = next(iter(load_file(first).items()))
    save_file(load_file(second) | {name: x}, second)
    with pytest.raises(UnfitError, match=f"{name} comes twice"):
        load(tmp_path)
    index = {"weight_map": {name: "../model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UnfitError, match=r"in the folder itself; .* names '../model.safetensors'"):
        load(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold model\.safetensors$"):
        load(tmp_path)


def test_stop_tokens_and_templates_from_wherever_they_are(tmp_path):
    write_folder(tmp_path)
    assert load(tmp_path).tokenizer.stop == {2}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [0, 2]}')
    assert load(tmp_path).tokenizer.stop == {0, 2}
    (tmp_path / "generation_config.json").unlink()
    write_folder(tmp_path, eos_token_id=None)
    assert load(tmp_path).tokenizer.stop == {2}  # tokenizer_config.json says <|im_end|>
    more = tmp_path / "tokenizer_config.json"
    several = [{"name": "tool", "template": "a"}, {"name": "default", "template": "the cache"}]
    more.write_text(json.dumps({"chat_template": several}))
    loaded = load(tmp_path).tokenizer
    assert loaded.decode(loaded.chat("?")) == "the cache" and loaded.stop == set()
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }} cache")
    loaded = load(tmp_path).tokenizer
    assert loaded.decode(loaded.chat("the")) == "the cache"
    more.write_text("[]")
    with pytest.raises(UnfitError, match=r"tokenizer_config\.json must hold a dictionary; got a "):
        load(tmp_path)

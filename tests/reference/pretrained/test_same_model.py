"""The same model as in transformers: logits of prefill and of decode steps, tiny and real."""

import copy

import pytest
import torch
from llamas import MERGES, SIZES, SPECIAL, UNTIED, llama, vocabulary, write_gguf
from rounding import allowed
from torch import Tensor

from benchmarks.model import as_transformers, run_transformers
from reference.flash_decoding_cpu import flash_decode_threads
from reference.kv_cache import rotary_table
from reference.pretrained import load
from reference.pretrained.tokenizer import byte_level
from reference.transformer import Config, KVCache, Transformer

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install .[hf]")

PREFILL, STEPS = 40, 64
# No power of two anywhere, an odd number of layers, G = 3, a rope base that is not the default.
LARGER = Config(
    vocabulary=265, layers=5, width=90, Hq=9, Hkv=3, D=10, hidden=70, context=128, rope_base=1e5
)


@torch.no_grad()
def by_steps(model: Transformer, tokens: Tensor, prefill: int) -> Tensor:
    """Our logits, through the cache: a prefill, then token by token, attending by threads."""
    cache = KVCache(model.config, capacity=tokens.shape[1])
    parts = tokens.split([prefill] + [1] * (tokens.shape[1] - prefill), dim=1)
    return torch.cat([model(part, cache, flash_decode_threads) for part in parts], dim=1)


def by_transformers(peer, tokens: Tensor, prefill: int) -> Tensor:
    """The same in transformers, with its cache."""
    cache = transformers.DynamicCache(config=peer.config)
    parts = tokens.split([prefill] + [1] * (tokens.shape[1] - prefill), dim=1)
    return torch.cat([run_transformers(peer, part, cache) for part in parts], dim=1)


def twin(model: Transformer, **changes: object) -> Transformer:
    """The same weights in fp64, perhaps with another configuration."""
    wide = Transformer(Config(**{**vars(model.config), **changes})).double()
    wide.load_state_dict(model.state_dict())
    return wide.requires_grad_(False)


def folder_of(tmp_path, config: Config):
    """A random model in a folder that transformers itself has written, in several shards."""
    peer = as_transformers(llama(config))
    peer.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    byte_level(vocabulary(), MERGES, SPECIAL).save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.mark.parametrize("config", [SIZES, UNTIED, LARGER], ids=["tied", "untied", "larger"])
def test_a_folder_written_by_transformers_gives_its_logits(tmp_path, config):
    model = load(folder_of(tmp_path, config)).model
    assert model.config == config
    peer = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    rng = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, config.vocabulary, (1, PREFILL + STEPS), generator=rng)
    theirs = by_transformers(peer, tokens, PREFILL)
    truth, most = allowed(twin(model), tokens)
    assert most < 1e-3 * truth.std()  # so the comparison says something
    for logits in (by_steps(model, tokens, PREFILL), model(tokens)):
        assert (logits - theirs).abs().max() <= most
    assert (theirs - truth).abs().max() <= most


@pytest.mark.parametrize(
    "changes", [{"rope_base": 10001.0}, {"norm_eps": 2e-3}], ids=["base", "epsilon"]
)
def test_a_model_that_is_nearly_the_same_does_not_pass(changes):
    model = llama(SIZES)
    tokens = torch.arange(104)[None]
    truth, most = allowed(twin(model), tokens)
    assert (twin(model, **changes)(tokens) - truth).abs().max() > 4 * most


def test_the_file_and_the_folder_are_the_same_model(tmp_path):
    wanted = llama(LARGER)
    write_gguf(tmp_path / "a.gguf", wanted)
    model, tokens = load(tmp_path / "a.gguf").model, torch.arange(60)[None]
    theirs = by_transformers(as_transformers(wanted), tokens, 20)
    _, most = allowed(twin(wanted), tokens)
    assert (by_steps(model, tokens, 20) - theirs).abs().max() <= most
    wrong = copy.deepcopy(model)
    wrong.angles = rotary_table(128, 10, 10000.0)
    assert (wrong(tokens) - theirs).abs().max() > 4 * most

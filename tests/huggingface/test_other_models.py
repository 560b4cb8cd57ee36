"""Beyond decoding with a left-padded batch: what works because the mask alone decides."""

import copy

import pytest
import torch
from hf_families import SIZES, family, prompt, spread, truth, write
from torch import Tensor

from course.huggingface import register

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install .[hf]")

RAGGED = prompt((9, 3, 6))
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}


@pytest.fixture(scope="module")
def ours():
    return register("reference_for_tests", backend="reference")


def both(model, ours: str, **given: Tensor) -> tuple[Tensor, Tensor]:
    """The first output of the model with our attention and with SDPA."""
    found = []
    for name in (ours, "sdpa"):
        model.set_attn_implementation(name)
        found.append(model(**given)[0])
    return found[0], found[1]


def most_of(model, given) -> float:
    """How far two fp32 computations of a llama's logits on this prompt may differ."""
    return truth(model, given, write(model, given, "sdpa", 1).tokens)[1]


@torch.no_grad()
def test_padding_on_the_right(ours):
    """The queries that are padding, too, see what SDPA lets them see."""
    model, given = family("llama"), {name: x.flip(1) for name, x in RAGGED.items()}
    mine, theirs = both(model, ours, **given)
    assert (mine - theirs).abs().max() <= most_of(model, RAGGED)


@torch.no_grad()
def test_sequences_packed_into_one_row_by_their_positions(ours):
    model, place = family("llama"), torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    given = {"input_ids": RAGGED["input_ids"][:1], "position_ids": place, "use_cache": False}
    mine, theirs = both(model, ours, **given)
    most = most_of(model, prompt((9,)))
    assert (mine - theirs).abs().max() <= most
    second, _ = both(model, ours, input_ids=given["input_ids"][:, 4:])
    assert (mine[:, 4:] - second).abs().max() <= most


def llama4():
    """Attention in chunks of 4 tokens."""
    config = transformers.Llama4TextConfig(
        **SIZES,
        **TOKENS,
        intermediate_size_mlp=40,
        attention_chunk_size=4,
        layer_types=["chunked_attention", "full_attention"],
        moe_layers=[],
    )
    return transformers.Llama4ForCausalLM(config)


def deepseek():
    """Multi-head latent attention: keys of 12 numbers, values of 8."""
    sizes = {name: x for name, x in SIZES.items() if name != "head_dim"}
    config = transformers.DeepseekV3Config(
        **{**sizes, "num_key_value_heads": 6},
        **TOKENS,
        q_lora_rank=12,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=8,
        first_k_dense_replace=2,
        n_routed_experts=4,
    )
    return transformers.DeepseekV3ForCausalLM(config)


@pytest.mark.parametrize("make", [llama4, deepseek])
def test_other_decoders_write_the_same(ours, make):
    model = spread(make()).eval()
    mine, theirs = (write(model, RAGGED, name, 8) for name in (ours, "sdpa"))
    assert torch.equal(mine.tokens, theirs.tokens)
    right, most = truth(model, RAGGED, mine.tokens)
    assert most < 1e-3 * right.std()
    assert (mine.logits - right).abs().max() <= most


def assert_no_less_exact(mine: Tensor, theirs: Tensor, right: Tensor) -> None:
    """At most twice the error of SDPA in the same dtype, one and a half times on average."""
    mine, theirs = ((x - right).abs() for x in (mine, theirs))
    assert right.std() > 0.1  # an answer, not a constant
    assert mine.max() <= 2 * theirs.max() and mine.mean() <= 1.5 * theirs.mean()


@torch.no_grad()
def test_an_encoder_that_sees_both_ways(ours):
    config = transformers.BertConfig(
        vocab_size=61, hidden_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    model = spread(transformers.BertModel(config)).eval()
    for given in (RAGGED, {"input_ids": RAGGED["input_ids"]}):
        right = both(copy.deepcopy(model).double(), ours, **given)[1]
        assert_no_less_exact(*both(model, ours, **given), right)


def test_cross_attention(ours):
    config = transformers.BartConfig(
        vocab_size=61,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        decoder_start_token_id=1,
        forced_eos_token_id=None,
        **TOKENS,
    )
    model = spread(transformers.BartForConditionalGeneration(config)).eval()
    mine, theirs = (write(model, RAGGED, name, 6) for name in (ours, "sdpa"))
    right = write(model.double(), RAGGED, "sdpa", 6)
    assert torch.equal(mine.tokens, theirs.tokens) and torch.equal(mine.tokens, right.tokens)
    assert_no_less_exact(mine.logits, theirs.logits, right.logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_is_no_less_exact_than_sdpa(ours, dtype):
    model = family("llama").to(dtype)
    mine, theirs = both(model, ours, **RAGGED)
    right = both(copy.deepcopy(model).double(), ours, **RAGGED)[1]
    real = RAGGED["attention_mask"].bool()
    assert_no_less_exact(mine[real], theirs[real], right[real])


@torch.no_grad()
def test_a_compiled_model_reads_each_mask_anew(ours):
    model = family("llama")
    wanted, most = [], most_of(model, RAGGED)
    for lengths in ((9, 3), (4, 9)):
        wanted.append(both(model, ours, **prompt(lengths))[1])
    model.set_attn_implementation(ours)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    for lengths, right in zip(((9, 3), (4, 9)), wanted, strict=True):
        assert (compiled(**prompt(lengths)).logits - right).abs().max() <= most


@torch.no_grad()
def test_a_graph_that_must_be_whole_is_refused(ours):
    model = family("llama")
    model.set_attn_implementation(ours)
    torch.compiler.reset()
    with pytest.raises(Exception, match="the mask is read on the host"):
        torch.compile(model, backend="eager", fullgraph=True)(**RAGGED)

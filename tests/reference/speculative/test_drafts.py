"""reference.speculative.drafts: what is drafted, and that it follows the text whatever happened."""

import doctest
from itertools import pairwise

import pytest
import torch
from small_models import TINY, small_model, some_tokens

from reference.generate import generate_tokens
from reference.paging import PagedKVCache
from reference.speculative import ModelDraft, PromptLookup, TreeDraft, early_exit, probabilities
from reference.speculative import drafts as module
from reference.transformer import Config, Transformer

TEXT = some_tokens(1, 9, seed=4)[0].tolist()


def test_examples():
    assert doctest.testmod(module).failed == 0


def test_lookup_takes_the_longest_end_and_the_latest_place():
    text = [1, 2, 3, 7, 9, 2, 3, 8, 1, 2, 3]
    assert PromptLookup(depth=2)(text, 8).tokens == (7, 9)  # 1 2 3 beats 2 3
    assert PromptLookup(longest=2, depth=2)(text, 8).tokens == (8, 1)  # of two places, the latest
    assert PromptLookup()(text, 1).tokens == (7,)
    assert PromptLookup()([1, 2, 3], 8).tokens == () == PromptLookup()([5], 8).tokens
    assert PromptLookup(longest=3, shortest=2)([3, 1, 3], 8).tokens == ()
    assert PromptLookup()([4, 4, 4, 4], 5).tokens == (4,)  # what followed, and no more
    tree = PromptLookup(branches=3, depth=2)(text, 8)
    assert tree.tokens == (7, 9, 8, 1) and tree.parents == (-1, 0, -1, 2) and tree.q is None


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_model_drafts_what_it_would_write(temperature, layers):
    small = early_exit(small_model(), layers)
    draft, text = ModelDraft(small, 4, temperature=temperature), TEXT
    for seed in range(4):  # the text goes on in all sorts of ways
        tree = draft(text, 9, torch.Generator().manual_seed(seed))
        assert tree.is_chain and len(tree) == 4
        logits = small(torch.tensor([text + list(tree.tokens)]))[0, len(text) - 1 : -1]
        wanted = probabilities(logits, temperature)
        if temperature:
            assert (tree.q - wanted).abs().max() < 1e-12
            assert all(tree.q[i, token] > 0 for i, token in enumerate(tree.tokens))
        else:
            assert tree.tokens == tuple(wanted.argmax(-1).tolist()) and tree.q is None
        text = text + list(tree.tokens[:seed]) + [seed]
    assert len(draft(TEXT[:3], 2, None)) == 2  # another text altogether, and a bound


def test_the_same_seed_drafts_the_same_and_another_does_not():
    draft = ModelDraft(small_model(), 4, temperature=3.0)
    first, again, other = (
        draft(TEXT, 4, torch.Generator().manual_seed(s)).tokens for s in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize("widths", [(3, 2, 1), (1, 1), (4,), (2, 3)], ids=str)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_drafts_a_tree(widths, temperature):
    small = early_exit(small_model(), 1)
    draft, text = TreeDraft(small, widths, temperature=temperature), list(TEXT)
    for seed in range(3):
        tree = draft(text, 9, torch.Generator().manual_seed(seed))
        for node in range(-1, len(tree)):
            depth = 0 if node < 0 else tree.depths[node]
            children = tree.children(node)
            assert len(children) == (widths[depth] if depth < len(widths) else 0)
            path = [tree.tokens[i] for i in tree.path(node)]
            logits = small(torch.tensor([text + path]))[0, -1]
            tokens = [tree.tokens[child] for child in children]
            assert len(set(tokens)) == len(tokens)
            if temperature == 0:
                assert tokens == logits.topk(max(1, len(tokens))).indices.tolist()[: len(tokens)]
                continue
            q = probabilities(logits, 1.0)
            for child, token in zip(children, tokens, strict=True):
                assert (tree.q[child] - q / q.sum()).abs().max() < 1e-12
                q[token] = 0.0  # the younger siblings are drawn from what is left
        text += [tree.tokens[0], seed]
    assert draft(text, 1, torch.Generator().manual_seed(0)).depth == 1
    assert draft(text, 0, None).depth == 0


def test_a_draft_keeps_its_cache_in_pages():
    def paged(capacity):
        cache = PagedKVCache(TINY, 20, 3, dtype=torch.float64, poison=True)
        return cache.batch(cache.new())

    model, text = small_model(), list(TEXT)
    for plain, other in (
        (ModelDraft(model, 3), ModelDraft(model, 3, make_cache=paged)),
        (TreeDraft(model, (2, 2)), TreeDraft(model, (2, 2), make_cache=paged)),
    ):
        for token in (1, 2, 3):
            assert plain(text, 5, None) == other(text, 5, None)
            text.append(token)


def test_few_passes_after_the_first():
    """Only what is new is read: the tokens since the last draft, and then one at a time."""
    seen = []

    def attend(q, k, v, lengths, causal=True):
        seen.append(q.shape[1])
        return module.attention_with_cache(q, k, v, lengths, causal=causal)

    draft = ModelDraft(early_exit(small_model(), 1), 3, attend=attend)
    tree = draft(TEXT, 3, None)
    assert seen == [9, 1, 1]
    seen.clear()
    draft([*TEXT, *tree.tokens, 5], 3, None)  # all accepted: the last one is new to this cache
    assert seen == [2, 1, 1]
    seen.clear()
    draft([*TEXT, tree.tokens[0], 6], 3, None)  # one accepted
    assert seen == [1, 1, 1]


def test_a_text_that_does_not_fit_gets_no_draft():
    small = small_model(Config(layers=1, width=24, Hq=6, Hkv=2, D=4, hidden=20, context=10))
    for draft in (ModelDraft(small, 4), TreeDraft(small, (2, 2))):
        sizes = [draft(list(range(n)), 4, None).depth for n in (8, 10, 11, 30)]
        assert sizes[0] > 0 and sizes[2:] == [0, 0]
    assert ModelDraft(small, 4)(list(range(8)), 4, None).depth == 3  # the third is not read


@pytest.mark.parametrize("tied", [True, False])
def test_early_exit_is_the_front_of_the_model_in_the_same_memory(tied):
    config = Config(layers=3, width=24, Hq=6, Hkv=2, D=4, hidden=20, context=40, tied=tied)
    model = small_model(config)
    small = early_exit(model, 2)
    assert model.config.layers == 3 and len(model.blocks) == 3
    assert small.config.layers == 2 and small.blocks[1] is model.blocks[1]
    own = {x.data_ptr() for x in model.parameters()}
    assert {x.data_ptr() for x in small.parameters()} <= own
    assert small.training == model.training
    full = Transformer(small.config).double()
    full.load_state_dict(small.state_dict())
    tokens = torch.tensor([TEXT])
    assert torch.equal(full(tokens), small(tokens))
    assert torch.equal(early_exit(model, 3)(tokens), model(tokens))
    assert list(generate_tokens(small, TEXT, max_tokens=3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PromptLookup(longest=1, shortest=2), "1 ≤ shortest ≤ longest.*got 2, 1, 8, 1"),
        (lambda: PromptLookup(depth=0), "got 1, 3, 0, 1"),
        (lambda: PromptLookup(branches=0), "got 1, 3, 8, 0"),
        (lambda: ModelDraft(small_model(), 0), "depth must be at least 1; got 0"),
        (lambda: ModelDraft(small_model(), 1, temperature=-1), "at least 0; got -1"),
        (lambda: TreeDraft(small_model(), ()), r"widths must be one number ≥ 1 or more; got \(\)"),
        (lambda: TreeDraft(small_model(), (2, 0)), r"got \(2, 0\)"),
        (lambda: early_exit(small_model(), 3), "layers must lie in 1…2; got 3"),
        (lambda: early_exit(small_model(), 0), "got 0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_draws_without_replacement_end_where_nothing_is_left():
    q = torch.tensor([0.0, 0.4, 0.6], dtype=torch.float64)
    tokens, rows = module.draw_different(q, 5, torch.Generator().manual_seed(0))
    assert sorted(tokens) == [1, 2] and len(rows) == 2
    assert all(row[a] == 0 for a, (_, row) in zip(tokens, pairwise(rows), strict=False))
    assert rows[1][tokens[1]] == 1

"""reference.speculative.acceptance: what comes out has the model's distribution, whatever q was."""

import doctest
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.speculative import Tree, accept, probabilities, residual
from reference.speculative import acceptance as module
from reference.speculative.drafts import draw_different

V, N = 5, 4_000


def furthest(cells: int, n: int, delta: float = 1e-9) -> float:
    """The total variation from the truth that n draws pass with probability below delta.

    A total variation of ε is the excess of some set of tokens: for each of 2^cells − 2 sets
    Hoeffding's inequality gives exp(−2 n ε²).
    """
    return math.sqrt((math.log(2**cells - 2) - math.log(delta)) / (2 * n))


def variation(drawn: list[int], p: torch.Tensor) -> float:
    counts = Counter(drawn)
    return 0.5 * sum(abs(counts[x] / len(drawn) - float(p[x])) for x in range(len(p)))


def rows(seed: int, n: int, sharp: float = 1.5) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return sharp * torch.randn(n, V, dtype=torch.float64, generator=rng)


def test_examples():
    assert doctest.testmod(module).failed == 0


weights = st.lists(st.sampled_from([0.0, 1e-300, 1e-9, 0.1, 0.5, 1.0, 3.0]), min_size=V, max_size=V)


@given(weights, weights)
@settings(max_examples=300, deadline=None)
def test_kept_and_resampled_together_are_p(p, q):
    """Not drawn but summed over all tokens: q(x) · min(1, p(x)/q(x)), and the rest by residual."""
    if sum(p) < 1e-6 or sum(q) < 1e-6:
        return
    p, q = (torch.tensor(x, dtype=torch.float64) for x in (p, q))
    p, q = p / p.sum(), q / q.sum()
    kept = torch.minimum(p, q)
    refused = (q - kept).sum()
    left = residual(p, q)
    assert left.min() >= 0 and abs(left.sum() - 1) < 1e-12
    assert (kept + refused * left - p).abs().max() < 1e-12


def test_equal_distributions_leave_something_to_draw_from():
    p = torch.tensor([0.25, 0.75], dtype=torch.float64)
    assert torch.equal(residual(p, p), p)


def chain(q: torch.Tensor, rng: torch.Generator) -> Tree:
    return Tree.chain([int(torch.multinomial(q[0], 1, generator=rng))], q[:1])


def siblings(q: torch.Tensor, rng: torch.Generator) -> Tree:
    tokens, own = draw_different(q[0], 3, rng)
    return Tree(tuple(tokens), (-1,) * len(tokens), torch.stack(own))


def again_and_again(q: torch.Tensor, rng: torch.Generator) -> Tree:
    """Siblings drawn with replacement: the same token may be tried twice."""
    tokens = torch.multinomial(q[0], 3, replacement=True, generator=rng).tolist()
    return Tree(tuple(tokens), (-1,) * 3, q[[0, 0, 0]])


def sure(q: torch.Tensor, rng: torch.Generator) -> Tree:
    return Tree((2, 0), (-1, -1))


@pytest.mark.parametrize("draft", [chain, siblings, again_and_again, sure])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_first_token_has_the_distribution_of_the_model(draft, temperature):
    """Other seeds would do as well: a right rule fails with a probability below 1e-9."""
    logits = rows(2, 4)
    q, rng = probabilities(rows(6, 1), 1.0), torch.Generator().manual_seed(3)
    drawn, accepted = [], 0
    for _ in range(N):
        tree = draft(q, rng)
        path, token = accept(tree, logits[: len(tree) + 1], temperature, rng)
        accepted += bool(path)
        drawn.append(tree.tokens[path[0]] if path else token)
    p = probabilities(logits[0], temperature)
    assert variation(drawn, p) < furthest(V, N)
    if draft is chain:  # as often as the theory says: 1 − the total variation of p and q
        share = float(torch.minimum(p, q[0]).sum())
        assert abs(accepted / N - share) < math.sqrt(math.log(2 / 1e-9) / (2 * N))  # Hoeffding


def test_the_second_token_too_where_the_first_was_accepted():
    logits = rows(5, 3)
    q, rng = probabilities(rows(6, 2), 1.0), torch.Generator().manual_seed(4)
    seconds = []
    for _ in range(3 * N):
        tokens = torch.multinomial(q, 1, generator=rng)[:, 0].tolist()
        tree = Tree.chain(tokens, q)
        path, token = accept(tree, logits, 1.0, rng)
        if path:
            seconds.append(tokens[1] if len(path) == 2 else token)
    assert len(seconds) > 2000
    assert variation(seconds, probabilities(logits[1], 1.0)) < furthest(V, len(seconds))


def test_the_bound_notices_wrong_rules():
    """Drawing the replacement from p, or accepting whatever p likes best, is far outside it."""
    p, q = probabilities(rows(2, 4), 1.0)[0], probabilities(rows(6, 1), 1.0)[0]
    kept = torch.minimum(p, q)
    from_p = kept + (q - kept).sum() * p
    assert 0.5 * (from_p - p).abs().sum() > 2 * furthest(V, N)
    best = q[p.argmax()] * torch.eye(V)[p.argmax()] + (1 - q[p.argmax()]) * p
    assert 0.5 * (best - p).abs().sum() > 2 * furthest(V, N)


def test_at_temperature_0_only_the_likeliest_stays():
    logits = rows(7, 4)
    best = logits.argmax(-1).tolist()
    worst = logits.argmin(-1).tolist()
    assert accept(Tree.chain(best[:3]), logits) == ((0, 1, 2), best[3])
    assert accept(Tree.chain([best[0], worst[1], best[2]]), logits) == ((0,), best[1])
    assert accept(Tree.chain([worst[0], best[1], best[2]]), logits) == ((), best[0])
    # a draft that was drawn, and one candidate of several
    q = probabilities(rows(8, 3), 1.0)
    assert accept(Tree.chain(best[:3], q), logits) == ((0, 1, 2), best[3])
    forked = Tree((worst[0], best[0], best[2]), (-1, -1, 1))
    assert accept(forked, logits) == ((1, 2), best[3])  # logits[2] is what follows node 1
    assert accept(Tree(), logits[:1]) == ((), best[0])


def test_a_token_that_the_draft_thought_impossible_is_drawn():
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    q, rng = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.Generator().manual_seed(0)
    found = [accept(Tree.chain([0], q), logits, 1.0, rng) for _ in range(200)]
    assert {x.token for x in found if not x.path} == {1}
    assert {x.path for x in found} == {(), (0,)}


def test_underflowed_probabilities_divide_nothing():
    logits = torch.tensor([[0.0, -1e5, 0.0], [0.0, 0.0, 0.0]])
    q = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    for seed in range(20):
        path, token = accept(Tree.chain([1], q), logits, 1.0, torch.Generator().manual_seed(seed))
        assert path == () and token in (0, 2)


def test_errors():
    with pytest.raises(ValueError, match="temperature must be at least 0; got -1"):
        probabilities(torch.ones(3), -1)
    with pytest.raises(ValueError, match=r"logits must be \(3, vocabulary\).*got \(2, 5\)"):
        accept(Tree.chain([1, 2]), rows(0, 2))
    with pytest.raises(ValueError, match=r"got \(5,\)"):
        accept(Tree(), rows(0, 1)[0])

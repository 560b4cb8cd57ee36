"""Random keys for the tests of the online softmax, and the truth to compare with.

Tolerances are derived. A result that went through n additions and d rescalings carries at most
about n + 4 d roundings (a rescaling: one subtraction, one exp within an ulp, two products), in
its numerator and again in its denominator. The shifts are exact, so that they cost nothing.
"""

import math

import torch
from hypothesis import settings
from hypothesis import strategies as st

from reference.online_softmax import init, update

SHIFTS = [0.0, 200.0, -200.0]  # beyond exp's range in fp32 on either side (88, −103)
HIDDEN = -math.inf
quick = settings(max_examples=60, deadline=None)


def roundings(keys: int, rescalings: int, dtype: torch.dtype) -> float:
    """The relative error allowed in a quotient of two sums (see above)."""
    return 2 * (keys + 4 * rescalings + 4) * torch.finfo(dtype).eps


def truth(scores, v):
    """o and lse in fp64, all keys at once; (0, −inf) for rows without keys."""
    scores, v = scores.double(), v.double()
    nothing = torch.full((scores.shape[0], 1), HIDDEN, dtype=scores.dtype)
    m = torch.cat([scores, nothing], -1).amax(-1)  # (rows,)
    m_safe = m.masked_fill(m == HIDDEN, 0.0)
    p = torch.exp(scores - m_safe[:, None])
    total = p.sum(-1)
    return p @ v / total.clamp(min=1)[:, None], m_safe + total.log()  # total ≥ 1, or 0


def assert_same(result, scores, v, rescalings):
    """`result` (o, lse) is the truth for these keys, within the roundings it went through."""
    o, lse = result
    want_o, want_lse = truth(scores, v)
    off = roundings(scores.shape[-1], rescalings, o.dtype)
    largest = v.abs().max().item() if v.numel() else 0.0
    assert not o.isnan().any() and not lse.isnan().any()
    assert torch.equal(lse == -math.inf, want_lse == -math.inf)
    assert (o.double() - want_o).abs().max() <= off * largest
    seen = want_lse > -math.inf
    error = (lse.double() - want_lse)[seen].abs()
    assert (error <= off + 2 * torch.finfo(o.dtype).eps * want_lse[seen].abs()).all()


@st.composite
def keys(draw, min_keys=0, max_keys=16, dtypes=(torch.float32, torch.float64)):
    """Scores (rows, n), some hidden, on a grid of 1/8 (so that ±200 shifts are exact); v (n, D)."""
    n, rows, D = draw(st.integers(min_keys, max_keys)), draw(st.integers(1, 3)), 2
    dtype = draw(st.sampled_from(dtypes))
    score = st.one_of(st.integers(-240, 240).map(lambda i: i / 8), st.just(HIDDEN))
    row = st.lists(score, min_size=n, max_size=n)
    scores = draw(st.lists(row, min_size=rows, max_size=rows))
    value = st.integers(-32, 32).map(lambda i: i / 8)
    v = draw(st.lists(value, min_size=n * D, max_size=n * D))
    return (
        torch.tensor(scores, dtype=dtype).reshape(rows, n),
        torch.tensor(v, dtype=dtype).reshape(n, D),
    )


def seen_by(scores, v, index):
    """The state of a worker that saw all keys of `index` at once."""
    return update(init(scores.shape[0], v.shape[1], dtype=scores.dtype), scores[:, index], v[index])


def partition(draw, n, workers):
    """A random worker for each key; some may get none, and their keys need not be neighbours."""
    owners = draw(st.lists(st.integers(0, workers - 1), min_size=n, max_size=n))
    return [[i for i in range(n) if owners[i] == w] for w in range(workers)]

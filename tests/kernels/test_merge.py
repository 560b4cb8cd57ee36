"""kernels.merge: attention over disjoint sets of keys is merged into one, however grouped."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import DTYPES

from course.check.guards import empty_is_nan
from kernels.merge import merge_states
from kernels.runtime import device
from reference.attention import attention, oracle
from reference.closeness import assert_close_to_oracle
from reference.online_softmax import merge_states as reference_merge

DEVICE = device()
few = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**31 - 1)


def partial_results(seed, cuts, D, dtype, spread=1.0):
    """q, k, v of 40 keys, and attention over each piece between two cuts, in `dtype`."""
    rng = torch.Generator().manual_seed(seed)
    q = spread * torch.randn(1, 4, 4, D, generator=rng)
    k, v = torch.randn(2, 1, 40, 1, D, generator=rng)
    q, k, v = (x.to(DEVICE, dtype) for x in (q, k, v))
    edges = [0, *sorted(cuts), 40]
    pieces = [attention(q, k[:, a:b], v[:, a:b], return_lse=True) for a, b in pairwise(edges)]
    return (q, k, v), [list(x) for x in zip(*pieces, strict=True)]


@few
@given(seed=seeds, cuts=st.lists(st.integers(0, 40), max_size=20), D=st.sampled_from([1, 16, 40]))
def test_any_partition_is_the_whole(seed, cuts, D):
    """Including pieces without keys and pieces of one key; the scores are up to ±200."""
    (q, k, v), (o, lse) = partial_results(seed, cuts, D, torch.float32, spread=20.0)
    with empty_is_nan():
        got = merge_states(o, lse)
    truth = oracle(q, k, v)
    baseline = attention(q, k, v, return_lse=True)
    own = reference_merge(o, lse)  # the pieces are already rounded: no merge can undo that
    for name, x, base, mine, true in zip(("o", "lse"), got, baseline, own, truth, strict=True):
        worse = base if (base - true).abs().max() > (mine - true).abs().max() else mine
        assert_close_to_oracle(x, worse, true, name=name)


@few
@given(seed=seeds, data=st.data())
def test_any_tree_gives_the_same(seed, data):
    """Merge neighbours or strangers, any number at a time: only fp32 rounding differs."""
    _, (o, lse) = partial_results(seed, [3, 3, 10, 17, 18, 30, 40], 16, torch.float32)
    flat = merge_states(o, lse)
    while len(o) > 1:
        some = data.draw(st.permutations(range(len(o))))[: data.draw(st.integers(2, len(o)))]
        merged = merge_states([o[i] for i in some], [lse[i] for i in some])
        o = [x for i, x in enumerate(o) if i not in some] + [merged[0]]
        lse = [x for i, x in enumerate(lse) if i not in some] + [merged[1]]
    # at most 7 merges, each with an exp, a product, a sum and a division
    rounding = {"rtol": 7 * 4 * 2**-23, "atol": 7 * 4 * 2**-23 * 4}  # numbers below 4
    torch.testing.assert_close((o[0], lse[0]), flat, **rounding)


@pytest.mark.parametrize("into", [*DTYPES, None], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(dtype, into):
    """Judged as a merge of these partials: the error from rounding them before is not its own."""
    _, (o, lse) = partial_results(1, [1, 20, 20, 33], 40, dtype)
    got = merge_states(o, lse, dtype=into)
    assert got[0].dtype == (into or dtype) and got[1].dtype == torch.float32
    truth = reference_merge([x.double() for x in o], [x.double() for x in lse])
    baseline = reference_merge(o, lse, dtype=into)
    for name, *three in zip(("o", "lse"), got, baseline, truth, strict=True):
        assert_close_to_oracle(*three, name=name)


@pytest.mark.parametrize("N", [1, 2, 16, 17, 33])
def test_a_stack_and_a_sequence_are_the_same(N):
    rng = torch.Generator().manual_seed(N)
    o = torch.randn(N, 3, 5, generator=rng).to(DEVICE)
    lse = (80 * torch.randn(N, 3, generator=rng)).to(DEVICE)
    o[0, 0], lse[0, 0] = 0.0, -math.inf
    wanted = merge_states(o, lse)
    views = o.transpose(0, 1).contiguous().transpose(0, 1)  # laid out row by row in memory
    for stack in (tuple(o), list(o), views):
        got = merge_states(stack, lse if stack is views else tuple(lse))
        assert all(torch.equal(x, y) for x, y in zip(got, wanted, strict=True))
    truth = reference_merge(o.double(), lse.double())
    for name, *three in zip(("o", "lse"), wanted, reference_merge(o, lse), truth, strict=True):
        assert_close_to_oracle(*three, name=name)


def test_nothing_merged_with_nothing():
    """(0, -inf) is the result of one piece without keys, and of any number of them."""
    o, lse = torch.zeros(3, 2, 4, device=DEVICE), torch.full((3, 2), -math.inf, device=DEVICE)
    with empty_is_nan():
        got = merge_states(o, lse)
        one = merge_states(torch.ones(1, 4, device=DEVICE), torch.ones(1, device=DEVICE))
        none = merge_states(torch.ones(2, 0, 4, device=DEVICE), torch.ones(2, 0, device=DEVICE))
    assert (got[0] == 0).all() and (got[1] == -math.inf).all()
    assert torch.equal(one[0].cpu(), torch.ones(4)) and one[1] == 1.0
    assert none[0].shape == (0, 4) and none[1].shape == (0,)


INF, NAN = math.inf, math.nan
MARKS = {  # lse and the first number of o of each partial; the merged lse and first number of o
    "one mark": ([(INF, 0.0), (0.5, 1.0)], (0.5, 1.0)),
    "a mark last": ([(0.5, 1.0), (INF, 0.0)], (0.5, 1.0)),
    "minus zero": ([(INF, -0.0), (0.5, 1.0)], (0.5, 1.0)),
    "marks of both kinds": ([(INF, 0.0), (-INF, 0.0), (0.0, 2.0), (0.0, 4.0)], (math.log(2), 3.0)),
    "marks alone": ([(INF, 0.0), (INF, 0.0)], (-INF, 0.0)),
    "one of each alone": ([(-INF, 0.0), (INF, 0.0)], (-INF, 0.0)),
    "a single mark": ([(INF, 0.0)], (-INF, 0.0)),
    "more than a block": ([(INF, 0.0)] * 20 + [(-700.0, 5.0)] + [(INF, 0.0)] * 20, (-700.0, 5.0)),
    "no mark: o is not 0": ([(INF, 1.0), (0.5, 1.0)], (NAN, NAN)),
    "no mark, alone": ([(INF, 1.0)], (NAN, NAN)),
    "flash-attn's NaN row": ([(INF, NAN), (0.5, 1.0)], (NAN, NAN)),
    "NaN stays NaN": ([(NAN, 0.0), (0.5, 1.0)], (NAN, NAN)),
    "NaN and a mark": ([(NAN, 0.0), (INF, 0.0)], (NAN, NAN)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("merge", [merge_states, reference_merge], ids=["kernel", "twin"])
@pytest.mark.parametrize(("parts", "wanted"), MARKS.values(), ids=MARKS)
def test_plus_inf_marks_a_partial_without_keys(parts, wanted, merge, dtype):
    """Only the first of D = 5 numbers of o differs from 0: one is enough for "not 0"."""
    o = torch.zeros(len(parts), 2, 5)
    lse = torch.zeros(len(parts), 2)  # of a second row, which has no mark
    lse[:, 0], o[:, 0, 0] = torch.tensor(parts).unbind(1)
    got = merge(o.to(DEVICE, dtype), lse.to(DEVICE))
    found = [got[1][0].item(), got[0][0, 0].item()]
    assert found == pytest.approx(wanted, abs=1e-6, nan_ok=True)
    if math.isnan(wanted[0]):
        assert got[0][0].isnan().all()
    assert got[1][1].item() == pytest.approx(math.log(len(parts)), abs=1e-6)
    assert (got[0][1] == 0).all()


ONES = torch.ones(2, 3, 4)


@pytest.mark.parametrize(
    ("o", "lse", "dtype", "error", "says"),
    [
        (3, ONES[..., 0], None, TypeError, "o must be a tensor or a sequence of tensors; got 3"),
        ([1, 2], ONES[..., 0], None, TypeError, "o must be a tensor or a sequence"),
        (ONES, None, None, TypeError, "lse must be a tensor or a sequence"),
        (ONES, "lse", None, TypeError, "lse must be a tensor or a sequence"),
        ([], [], None, ValueError, "o must hold at least one partial result"),
        (ONES[:0], ONES[:0, :, 0], None, ValueError, "S ≥ 1"),
        (ONES, ONES, None, ValueError, r"got \(2, 3, 4\) and \(2, 3, 4\)"),
        (ONES[..., :0], ONES[..., 0], None, ValueError, "D ≥ 1"),
        (ONES[0, 0, 0], ONES[0, 0, 0], None, ValueError, "S ≥ 1"),
        ([ONES, ONES.half()], [ONES, ONES], None, ValueError, "o: all must have one shape, dtype"),
        ([ONES, ONES[0]], [ONES, ONES], None, ValueError, "o: all must have one shape"),
        (ONES.double(), ONES[..., 0], None, ValueError, "o must be float32 or float16 or bfloat16"),
        (ONES, ONES[..., 0].half(), None, ValueError, "lse must be float32; got torch.float16"),
        (
            ONES,
            ONES[..., 0].to("meta"),
            None,
            ValueError,
            "lse must be on the device of o, ",
        ),
        (ONES.to_sparse(), ONES[..., 0], None, ValueError, "o must be a dense, strided tensor"),
        (ONES, ONES[..., 0], torch.int32, TypeError, "dtype must be float32, float16 or"),
        (ONES, ONES[..., 0], "float32", TypeError, "dtype must be float32, float16 or"),
        (ONES.clone().requires_grad_(), ONES[..., 0], None, ValueError, "requires grad"),
    ],
)
def test_misuse_is_told(o, lse, dtype, error, says):
    with pytest.raises(error, match=says):
        merge_states(o, lse, dtype=dtype)

"""kernels.flash_attention_varlen, forward and backward, and its twin in reference."""

import doctest
import math
from functools import partial

import pytest
import torch
from gradients import autograd, judge_gradients, leaves, random
from shapes import DTYPES

import reference.flash_attention_varlen as twin
from course.check.guards import empty_is_nan
from kernels.flash_attention import flash_attention
from kernels.flash_attention_varlen import flash_attention_varlen
from kernels.runtime import INTERPRETED, device
from reference.closeness import assert_close_to_oracle

DEVICE = device()
# name: (lengths of q, lengths of k); the name is the reason
LENGTHS = {
    "ragged": ([5, 70, 1, 20], [9, 75, 30, 20]),
    "one sequence": ([20], [33]),
    "no tokens in some": ([0, 7, 0, 3, 4, 0], [5, 0, 0, 9, 4, 0]),
    "more queries than keys": ([70, 20], [3, 66]),
    "exactly whole tiles": ([64, 64], [64, 128]),
}
lengths = pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
causals = pytest.mark.parametrize("causal", [True, False], ids=["causal", "all"])


def cumulative(counts):
    return torch.tensor([sum(counts[:i]) for i in range(len(counts) + 1)], dtype=torch.int32)


def inputs(lengths, dtype=torch.float32, heads=(3, 1), D=16):
    """q, k, v with NaN around each row of D numbers, and the sequences."""
    sizes = [(sum(lengths[0]), heads[0]), *[(sum(lengths[1]), heads[1])] * 2]
    x = [random(*s, D, dtype=dtype, device=DEVICE, seed=i) for i, s in enumerate(sizes)]
    longest = (max(n, default=0) for n in lengths)
    return x, (*(cumulative(n).to(DEVICE) for n in lengths), *longest)


@causals
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@lengths
def test_forward(lengths, dtype, causal):
    x, sequences = inputs(lengths, dtype)
    arguments = {"causal": causal, "return_lse": True}
    with empty_is_nan():
        got = flash_attention_varlen(*x, *sequences, **arguments)
    base = twin.flash_attention_varlen(*x, *sequences, **arguments)
    true = twin.flash_attention_varlen(*(y.double() for y in x), *sequences, **arguments)
    assert got[0].is_contiguous() and got[1].dtype == torch.float32
    for name, *three in zip(("o", "lse"), got, base, true, strict=True):
        assert_close_to_oracle(*three, name=name)


@causals
@lengths
def test_gradients(lengths, causal):
    x, sequences = inputs(lengths)
    weights = (random(*x[0].shape, device=DEVICE, seed=7), None)
    both = (
        partial(with_batch(f), sequences=sequences, causal=causal)
        for f in (flash_attention_varlen, twin.flash_attention_varlen)
    )
    judge_gradients(*both, [y[None] for y in x], (weights[0][None], None))


def with_batch(f):
    """Packed attention on tensors with a batch dimension of 1, as `judge_gradients` needs."""

    def run(q, k, v, *, sequences, causal):
        o, lse = f(q[0], k[0], v[0], *sequences, causal=causal, return_lse=True)
        return o[None], lse[None]

    return run


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_gradients_in_16_bits(dtype):
    x, sequences = inputs(LENGTHS["ragged"], dtype, heads=(2, 2), D=40)
    both = (
        partial(with_batch(f), sequences=sequences, causal=True)
        for f in (flash_attention_varlen, twin.flash_attention_varlen)
    )
    do = random(1, *x[0].shape, dtype=dtype, device=DEVICE, seed=7)
    judge_gradients(*both, [y[None] for y in x], (do, None))


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # from the neighbours
def test_a_sequence_does_not_notice_its_neighbours():
    """Its o, lse and gradients are bit for bit those it gets alone, whatever the others hold."""
    x, sequences = inputs(([20, 30, 25], [40, 20, 70]), torch.float16, heads=(4, 2))
    weights = random(*x[0].shape, dtype=torch.float16, device=DEVICE, seed=7), None
    q, k = slice(20, 50), slice(40, 60)
    for y, mine in zip(x, (q, k, k), strict=True):
        keep = y[mine].clone()
        y.fill_(math.nan)
        y[mine] = keep
    attend = partial(flash_attention_varlen, causal=True, return_lse=True)
    run = lambda *y: tuple(z[None] for z in attend(*y, *sequences))  # noqa: E731
    o, lse, grads = autograd(run, leaves(x), (weights[0][None], None))
    alone = [y[None, mine] for y, mine in zip(x, (q, k, k), strict=True)]
    attend = partial(flash_attention, causal=True, return_lse=True)
    wanted = autograd(attend, leaves(alone), (weights[0][None, q], None))
    assert torch.equal(o[:, q], wanted[0]) and torch.equal(lse[:, q], wanted[1])
    for g, mine, w in zip(grads, (q, k, k), wanted[2], strict=True):
        assert torch.equal(g[None, mine], w)


def test_the_longest_may_be_overestimated():
    x, (cu_q, cu_k, _, _) = inputs(LENGTHS["ragged"])
    a = autograd_sum(x, (cu_q, cu_k, 70, 75))
    b = autograd_sum(x, (cu_q, cu_k, 200, 300))
    assert all(map(torch.equal, a, b))


def autograd_sum(x, sequences):
    x = leaves(x)
    o = flash_attention_varlen(*x, *sequences, causal=True)
    return (o, *torch.autograd.grad(o.sum(), x))


def test_nothing_asked_nothing_launched():
    for counts in (([], []), ([0, 0], [0, 0]), ([0], [5]), ([5], [0])):
        x, sequences = inputs(counts)
        o, *grads = autograd_sum(x, sequences)
        assert o.shape == x[0].shape and not o.any()
        assert all(g.shape == y.shape and not g.any() for g, y in zip(grads, x, strict=True))


WRONG = {
    "begin": (ValueError, r"begin with 0.*tokens, 7; got \[1, 7\]", {"cu_seqlens_q": [1, 7]}),
    "end": (
        ValueError,
        r"end with the number of tokens, 9; got \[0, 8\]",
        {"cu_seqlens_k": [0, 8]},
    ),
    "falls": (ValueError, "never fall", {"cu_seqlens_q": [0, 9, 7], "cu_seqlens_k": [0, 2, 9]}),
    "too long": (ValueError, "has 7 tokens, more than .* 6", {"max_seqlen_q": 6}),
    "batch": (ValueError, r"same sequences; got \(2,\) and \(3,\)", {"cu_seqlens_k": [0, 2, 9]}),
    "empty": (ValueError, r"\(B \+ 1,\)", {"cu_seqlens_q": []}),
    "rank": (ValueError, r"q must be \(Tq, Hq, D\).*\(1, 7", {"q": torch.zeros(1, 7, 2, 16)}),
    "heads": (ValueError, "Hq = 3 and Hkv = 2", {"q": torch.zeros(7, 3, 16)}),
    "no tensor": (TypeError, "int32 tensor; got list", {"cu_seqlens_q": ([0, 7],)}),
    "dtype": (TypeError, "int32 tensor; got torch.int64", {"cu_seqlens_q": torch.tensor([0, 7])}),
    "k": (TypeError, "must be tensors", {"k": None}),
}


@pytest.mark.skipif(not INTERPRETED, reason="values of cu_seqlens are not checked on a GPU")
@pytest.mark.parametrize(("error", "says", "given"), WRONG.values(), ids=WRONG)
def test_misuse_is_told(error, says, given):
    kv, defaults = torch.zeros(9, 2, 16), {"cu_seqlens_q": [0, 7], "cu_seqlens_k": [0, 9]}
    given = {"q": torch.zeros(7, 2, 16), "k": kv, "v": kv, "max_seqlen_q": 7, "max_seqlen_k": 9,
             **defaults, **given}  # fmt: skip
    for name in defaults:
        x = given[name]
        given[name] = torch.tensor(x, dtype=torch.int32) if isinstance(x, list) else x
        given[name] = x[0] if isinstance(x, tuple) else given[name]
    with pytest.raises(error, match=says):
        flash_attention_varlen(**given)


def test_the_twin_tells_misuse_too_and_its_example_holds():
    assert doctest.testmod(twin).failed == 0
    for values in ([1, 7], [0, 9, 7], [0, 6]):
        with pytest.raises(ValueError, match=r"cu_seqlens|sequences"):
            twin.sequence_bounds(torch.tensor(values), 7, 7)
    with pytest.raises(TypeError, match="float"):
        twin.sequence_bounds(torch.tensor([0.0, 7.0]), 7, 7)

"""reference.attention is the definition: it agrees with PyTorch's own attention in fp64."""

import doctest
import math

import pytest
import torch
import torch.nn.functional as F

from reference import attention as module
from reference.attention import (
    attention,
    attention_with_cache,
    causal_mask,
    group_queries,
    oracle,
    oracle_with_cache,
    safe_softmax,
)
from reference.closeness import assert_close_to_oracle

HEADS = [
    pytest.param(4, 4, id="mha"),
    pytest.param(6, 2, id="gqa-3-not-a-power-of-2"),
    pytest.param(4, 1, id="mqa"),
]
LENGTHS = [
    pytest.param(5, 5, id="square"),
    pytest.param(1, 7, id="decode"),
    pytest.param(3, 9, id="chunk"),
    pytest.param(1, 1, id="one-key"),
    pytest.param(6, 2, id="more-queries-than-keys"),
]
# fp64: sums of at most D = 16 products and 9 weights, values below 5, so well under 1e-13
FP64 = {"atol": 1e-13, "rtol": 0}


def make(B=2, Lq=3, Lk=9, Hq=4, Hkv=2, D=16, Dv=None, dtype=torch.float64, seed=0):
    rng = torch.Generator().manual_seed(seed)
    shapes = [(B, Lq, Hq, D), (B, Lk, Hkv, D), (B, Lk, Hkv, Dv or D)]
    return [torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype) for shape in shapes]


def sdpa(q, k, v, **options):
    o = F.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), enable_gqa=True, **options
    )
    return o.transpose(1, 2)


def visible_rows(Lq, Lk):
    return slice(max(Lq - Lk, 0), None)  # without keys, SDPA may answer anything


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("Lq, Lk", LENGTHS)
@pytest.mark.parametrize("Hq, Hkv", HEADS)
def test_attention_is_sdpa(Hq, Hkv, Lq, Lk, causal):
    q, k, v = make(Lq=Lq, Lk=Lk, Hq=Hq, Hkv=Hkv, Dv=10)
    lower = torch.tensor([[j - Lk <= i - Lq for j in range(Lk)] for i in range(Lq)])
    wanted = sdpa(q, k, v, attn_mask=lower if causal else None)
    got = attention(q, k, v, causal=causal)
    rows = visible_rows(Lq, Lk) if causal else slice(None)
    torch.testing.assert_close(got[:, rows], wanted[:, rows], **FP64)


@pytest.mark.parametrize("scale", [0.0, 0.3, -1.0])
def test_scale(scale):
    q, k, v = make()
    torch.testing.assert_close(attention(q, k, v, scale=scale), sdpa(q, k, v, scale=scale), **FP64)


@pytest.mark.parametrize("Hq, Hkv", HEADS)
def test_lse_is_the_log_of_the_denominator(Hq, Hkv):
    q, k, v = make(Hq=Hq, Hkv=Hkv)
    _, lse = attention(q, k, v, causal=True, return_lse=True)
    repeated = k.repeat_interleave(Hq // Hkv, 2)
    scores = torch.einsum("bqhd,bkhd->bqhk", q, repeated) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(~causal_mask(3, 9)[None, :, None], -math.inf)
    torch.testing.assert_close(lse, scores.exp().sum(-1).log(), **FP64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype):
    q, k, v = make(dtype=dtype)
    o, lse = attention(q, k, v, return_lse=True)
    assert o.dtype == dtype
    assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    truth, true_lse = oracle(q, k, v)
    assert truth.dtype == true_lse.dtype == torch.float64
    assert_close_to_oracle(o, sdpa(q, k, v), truth)
    scores = torch.einsum("bqhd,bkhd->bqhk", q, k.repeat_interleave(2, 2)) / 4
    assert_close_to_oracle(lse, torch.logsumexp(scores, -1), true_lse, name="lse")


@pytest.mark.parametrize("shift", [-200.0, 200.0])
def test_large_logits(shift):
    q, k, v = make(dtype=torch.float32)
    q[..., 0], k[..., 0] = 1.0, shift * math.sqrt(q.shape[-1])
    o, lse = attention(q, k, v, return_lse=True)
    truth, true_lse = oracle(q, k, v)
    assert o.isfinite().all()
    # a score near 200 sums D = 16 products of up to 800: its error is at most D · 800 · eps / √D
    error = 16 * 800 * torch.finfo(torch.float32).eps / 4
    torch.testing.assert_close(lse.double(), true_lse, atol=error, rtol=0)
    torch.testing.assert_close(o.double(), truth, atol=2 * error * v.abs().max().item(), rtol=0)


def test_rows_without_keys():
    q, k, v = make(Lq=5, Lk=2)
    o, lse = attention(q, k, v, causal=True, return_lse=True)
    assert (o[:, :3] == 0).all() and (lse[:, :3] == -math.inf).all()
    assert lse[:, 3:].isfinite().all() and (o[:, 3:] != 0).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("Lq, Lk", [(3, 0), (0, 4), (0, 0)])
def test_nothing_at_all(Lq, Lk, causal):
    q, k, v = make(Lq=Lq, Lk=Lk, Dv=5, dtype=torch.float16)
    o, lse = attention(q, k, v, causal=causal, return_lse=True)
    assert o.shape == (2, Lq, 4, 5) and o.dtype == torch.float16
    assert lse.shape == (2, Lq, 4) and lse.dtype == torch.float32
    assert (o == 0).all() and (lse == -math.inf).all()


def test_gradients_flow():
    q, k, v = (x.requires_grad_() for x in make(B=1, Lq=2, Lk=4, Hq=2, Hkv=1, D=3))
    assert torch.autograd.gradcheck(lambda *x: attention(*x, causal=True), (q, k, v))


def test_group_queries_is_a_view_and_keeps_neighbours_together():
    q = torch.arange(12.0).view(1, 1, 6, 2)
    grouped = group_queries(q, 2)
    assert grouped.shape == (1, 1, 2, 3, 2) and grouped.data_ptr() == q.data_ptr()
    for h in range(6):
        assert torch.equal(grouped[:, :, h // 3, h % 3], q[:, :, h])


@pytest.mark.parametrize("Lq, Lk", [(4, 4), (1, 5), (2, 5), (5, 2), (3, 0), (0, 3)])
def test_causal_mask(Lq, Lk):
    mask = causal_mask(Lq, Lk)
    assert mask.dtype == torch.bool and mask.shape == (Lq, Lk)
    for i in range(Lq):
        for j in range(Lk):
            assert mask[i, j].item() == (Lk - 1 - j >= Lq - 1 - i)


def test_safe_softmax():
    scores = torch.tensor([[800.0, 801.0], [-800.0, -math.inf], [-math.inf, -math.inf]])
    p, lse = safe_softmax(scores.double())
    e = math.e
    wanted = torch.tensor([[1 / (1 + e), e / (1 + e)], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(p, wanted, **FP64)
    assert lse[1:].tolist() == [-800.0, -math.inf]
    assert lse[0].item() == pytest.approx(800 + math.log(1 + e))


def test_cache_never_reads_behind_the_length():
    lengths = [7, 0, 9]
    q, k, v = make(B=3, Lq=2)
    for row, n in enumerate(lengths):
        k[row, n:], v[row, n:] = math.nan, math.nan
    o, lse = attention_with_cache(q, k, v, torch.tensor(lengths), return_lse=True)
    for b, n in enumerate(lengths):
        row = [x[b : b + 1] for x in (q, k[:, :n], v[:, :n])]
        wanted = attention(*row, causal=True, return_lse=True)
        assert torch.equal(o[b], wanted[0][0]) and torch.equal(lse[b], wanted[1][0])
    assert (o[1] == 0).all() and (lse[1] == -math.inf).all() and o.isfinite().all()
    truth, true_lse = oracle_with_cache(q.float(), k.float(), v.float(), torch.tensor(lengths))
    assert truth.dtype == true_lse.dtype == torch.float64
    # the inputs were rounded to fp32, with 16 products per score
    torch.testing.assert_close(truth, o, atol=16 * 5 * torch.finfo(torch.float32).eps, rtol=0)


def test_decoding_with_a_cache_is_the_whole_at_once():
    q, k, v = make(Lq=6, Lk=6)
    whole = attention(q, k, v, causal=True)
    for t in range(6):
        seqlens = torch.full((2,), t + 1, dtype=torch.int32)
        step = attention_with_cache(q[:, t : t + 1], k, v, seqlens)
        torch.testing.assert_close(step[:, 0], whole[:, t], **FP64)


Q, K, V = make()
MISUSE = [
    pytest.param((Q[0], K, V), ValueError, r"q must be \(B, L, H, D\).*\(3, 4, 16\)", id="rank"),
    pytest.param((Q, K, V[:, 1:]), ValueError, r"k and v must agree", id="lengths-of-k-and-v"),
    pytest.param((Q[:1], K, V), ValueError, r"q and k must agree in B and D", id="batch"),
    pytest.param((Q[..., 1:], K, V), ValueError, r"q and k must agree in B and D", id="head-dim"),
    pytest.param((Q[:, :, :3], K, V), ValueError, r"Hq = 3 and Hkv = 2", id="not-a-multiple"),
    pytest.param((Q, K[:, :, :0], V[:, :, :0]), ValueError, r"Hkv = 0", id="no-kv-heads"),
    pytest.param((Q.long(), K, V), TypeError, r"q must be floating point.*int64", id="integers"),
    pytest.param((Q.half(), K, V), TypeError, r"must have one dtype.*float16", id="mixed-dtypes"),
]


@pytest.mark.parametrize("args, error, message", MISUSE)
@pytest.mark.parametrize("function", [attention, attention_with_cache])
def test_misuse(function, args, error, message):
    with pytest.raises(error, match=message):
        function(*args)


@pytest.mark.parametrize(
    "seqlens, error, message",
    [
        pytest.param(torch.tensor([1.0, 2.0]), TypeError, "int32 or int64.*float32", id="floats"),
        pytest.param(torch.tensor([1, 2, 3]), ValueError, r"\(2,\); got \(3,\)", id="shape"),
        pytest.param(torch.tensor([1, 10]), ValueError, r"0…9.*\[1, 10\]", id="beyond-the-cache"),
        pytest.param(torch.tensor([-1, 3]), ValueError, r"0…9.*\[-1, 3\]", id="negative"),
    ],
)
def test_wrong_lengths(seqlens, error, message):
    with pytest.raises(error, match=message):
        attention_with_cache(Q, K, V, seqlens)


def test_group_queries_wants_a_multiple():
    with pytest.raises(ValueError, match="Hq = 4 and Hkv = 3"):
        group_queries(Q, 3)


def test_doctests():
    result = doctest.testmod(module, extraglobs={"torch": torch})
    assert result.attempted > 0 and result.failed == 0

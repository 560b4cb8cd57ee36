"""kernels.cascade: attention over the concatenation, like its twin; the prefix is read once."""

import math

import pytest
import torch

from course.check.guards import empty_is_nan
from kernels import cascade as module
from kernels.cascade import cascade_decode
from kernels.flash_decoding import flash_decode
from kernels.runtime import device
from reference import cascade as reference
from reference.attention import attention_with_cache, oracle_with_cache
from reference.closeness import assert_close_to_oracle

DEVICE = device()
B, HQ, HKV, D, DV = 2, 4, 2, 16, 8
SLOPES = torch.tensor([0.5, 0.1, 0.0, 1.0])
FEATURES = {
    "none": {},
    "not-causal": {"causal": False, "scale": 0.5},
    "softcap": {"softcap": 0.7},
    "sinks": {"sinks": torch.tensor([0.5, -1.0, 3.0, -math.inf])},
    "window-right": {"window": (None, 0), "causal": False},
    "window-right-causal": {"window": (None, 1)},  # causal is the stricter of the two
    "window-softcap-sinks": {"window": (None, 1), "softcap": 2.0, "sinks": SLOPES, "causal": False},
}
# Each row of the batch would see, or score, the prefix in its own way.
REFUSED = {
    "alibi": {"alibi_slopes": SLOPES},
    "alibi-rows-softcap": {"alibi_slopes": torch.arange(B * HQ).view(B, HQ) / 10, "softcap": 2.0},
    "window": {"window": 30},
    "window-inside-the-suffix": {"window": 1},
    "window-both": {"window": (12, 1), "causal": False, "scale": 0.5},
    "window-alibi-sinks": {"window": 30, "alibi_slopes": SLOPES, "sinks": SLOPES},
}
IN_THE_PREFIX = (17, 2, [0, 20])  # Lp, Lq, own keys: row 0's new tokens lie in the prefix
LENGTHS = {
    "decode": (70, 1, [80, 7]),
    "several-new-tokens": (6, 2, [2, 20]),
    "no-prefix": (0, 2, [5, 20]),
    "one-new-token-in-the-prefix": (17, 3, [1, 20]),
    "new-tokens-before-the-prefix": (2, 4, [0, 1]),
    "only-the-prefix": (4, 1, [0, 0]),
}


def make(Lp, Lq, lengths, dtype=torch.float32):
    """q, the prefix between two pieces of NaN, and caches with NaN past each row's length."""
    rng = torch.Generator().manual_seed(0)
    q = torch.randn(B, Lq, HQ, D, generator=rng)
    pk, pv = (torch.full((Lp + 9, HKV, d), math.nan) for d in (D, DV))
    k, v = (torch.randn(B, max(8, *lengths), HKV, d, generator=rng) for d in (D, DV))
    for x in (pk, pv):
        x[4 : 4 + Lp] = torch.randn(Lp, *x.shape[1:], generator=rng)
    for b, n in enumerate(lengths):
        k[b, n:] = v[b, n:] = math.nan
    q, pk, pv, k, v = (x.to(DEVICE, dtype) for x in (q, pk, pv, k, v))
    return q, pk[4 : 4 + Lp], pv[4 : 4 + Lp], k, v


def here(keywords):
    return {n: x.to(DEVICE) if torch.is_tensor(x) else x for n, x in keywords.items()}


def run(q, pk, pv, k, v, lengths, **keywords):
    with empty_is_nan():
        o, lse = cascade_decode(q, pk, pv, k, v, lengths, return_lse=True, **keywords)
    assert o.shape == (*q.shape[:3], pv.shape[2]) and o.dtype == q.dtype
    assert lse.shape == q.shape[:3] and lse.dtype == torch.float32
    return o, lse


def concatenated(function, tensors, lengths, **keywords):
    """The result of a function of whole caches on the prefix followed by each row's own keys."""
    q, pk, pv, k, v = tensors
    whole = [torch.cat([p.expand(len(q), *p.shape), x], 1) for p, x in ((pk, k), (pv, v))]
    return function(q, *whole, lengths + len(pk), **keywords)


def judge(tensors, lengths, *, rows=None, ours=None, baseline=None, **keywords):
    """Hold o and lse against the oracle on the concatenated keys, beside the twin.

    rows: the same tensors with caches (B, Lk, …), if the call gets them in another layout, which
    `ours` describes. baseline: of (tensors, lengths, **keywords), in place of the twin.
    """
    lengths = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)
    rows, keywords = rows or tensors, here(keywords)
    got = run(*tensors, lengths, **keywords, **(ours or {}))
    true = concatenated(oracle_with_cache, rows, lengths, **keywords)
    if baseline is None:
        base = reference.cascade_decode(*rows, lengths, return_lse=True, **keywords)
    else:
        base = concatenated(baseline, rows, lengths, return_lse=True, **keywords)
    for name, *three in zip(("o", "lse"), got, base, true, strict=True):
        assert_close_to_oracle(*three, name=name)
    return got


@pytest.mark.parametrize("keywords", FEATURES.values(), ids=FEATURES)
def test_attention_over_the_concatenation(keywords):
    judge(make(*IN_THE_PREFIX), IN_THE_PREFIX[2], **keywords)


@pytest.mark.parametrize("keywords", REFUSED.values(), ids=REFUSED)
def test_what_differs_from_row_to_row_is_refused(keywords):
    tensors = make(*IN_THE_PREFIX)
    lengths = torch.tensor(IN_THE_PREFIX[2], dtype=torch.int32, device=DEVICE)
    says = "alibi_slopes" if "alibi_slopes" in keywords else "a left window"
    with pytest.raises(ValueError, match=f"must not get {says}: .* call flash_decode on pages"):
        cascade_decode(*tensors, lengths, **here(keywords))


@pytest.mark.parametrize("Lp, Lq, lengths", LENGTHS.values(), ids=LENGTHS)
def test_every_length(Lp, Lq, lengths):
    judge(make(Lp, Lq, lengths), lengths, ours={"num_splits": 2})


@pytest.mark.parametrize(
    "name, feature",
    [
        ("decode", "softcap"),
        ("decode", "window-softcap-sinks"),
        ("no-prefix", "softcap"),
        ("only-the-prefix", "window-softcap-sinks"),
    ],
)
def test_lengths_with_features(name, feature):
    Lp, Lq, lengths = LENGTHS[name]
    judge(make(Lp, Lq, lengths), lengths, **FEATURES[feature])


@pytest.mark.parametrize(
    "dtype, feature", [(torch.float16, "none"), (torch.bfloat16, "window-softcap-sinks")], ids=str
)
def test_16_bits(dtype, feature):
    """Beside plain PyTorch, which rounds p the way the kernel does; the twin computes in fp32."""
    tensors = make(40, 1, [30, 7], dtype)
    judge(tensors, [30, 7], baseline=attention_with_cache, **FEATURES[feature])


def test_more_queries_than_a_tile_holds():
    """9 rows of 2 queries and 4 heads on one KV head are 72 rows: two tiles; keys are split."""
    rng = torch.Generator().manual_seed(0)
    shapes = [(9, 2, 4, D), (70, 1, D), (70, 1, D), (9, 20, 1, D), (9, 20, 1, D)]
    tensors = [torch.randn(*shape, generator=rng).to(DEVICE) for shape in shapes]
    judge(tensors, [*range(3, 20, 2)], softcap=2.0)


@pytest.mark.parametrize("shift", [200.0, -200.0])
def test_scores_far_apart(shift):
    """Prefix at +200 and suffix at -200, or the other way round: exp() of them overflows.

    Beside the kernel on the concatenation: the cut itself must not cost digits.
    """
    q, pk, pv, k, v = make(20, 1, [30, 7])
    q[..., 0], pk[..., 0], k[..., 0] = 16.0, shift / 4, -shift / 4  # 16 · shift/4 / √16
    _, lse = judge((q, pk, pv, k, v), [30, 7], baseline=flash_decode)
    assert (lse - 200).abs().max() < 20


def test_mask_of_the_new_tokens():
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]]).bool()
    judge(make(10, 3, [30, 3]), [30, 3], mask=mask)


def test_suffixes_in_pages():
    q, pk, pv, k, v = make(10, 1, [48, 3])
    pages = [x.reshape(B * 6, 8, HKV, -1) for x in (k, v)]
    table = torch.arange(B * 6, dtype=torch.int32, device=DEVICE).view(B, 6)
    table[1, 1:] = -1
    judge((q, pk, pv, *pages), [48, 3], rows=(q, pk, pv, k, v), ours={"block_table": table})


def test_suffixes_in_other_rows():
    q, pk, pv, k, v = make(10, 1, [20, 3])
    index = torch.tensor([2, 0], dtype=torch.int32, device=DEVICE)
    caches = [torch.full((3, *x.shape[1:]), math.nan, device=DEVICE) for x in (k, v)]
    for there, x in zip(caches, (k, v), strict=True):
        there[index.long()] = x
    judge((q, pk, pv, *caches), [20, 3], rows=(q, pk, pv, k, v), ours={"cache_batch_idx": index})


def test_a_quantised_suffix():
    """The prefix stays in the dtype of q."""
    q, pk, pv, k, v = make(10, 1, [20, 20])
    eight = [(x * 20).round().clamp(-127, 127).to(torch.int8) for x in (k, v)]
    scale = torch.tensor(0.05, device=DEVICE)
    rows = (q, pk, pv, *(x.float() * scale for x in eight))
    judge((q, pk, pv, *eight), [20, 20], rows=rows, ours={"k_scale": scale, "v_scale": scale})


def test_values_that_are_a_part_of_the_keys():
    """MLA: one latent head, one cache for both; in the prefix too."""
    rng = torch.Generator().manual_seed(0)
    q, pk, k = (torch.randn(*s, generator=rng) for s in ((B, 1, 4, D), (20, 1, D), (B, 30, 1, D)))
    q, pk, k = (x.to(DEVICE) for x in (q, pk, k))
    judge((q, pk, pk[..., :DV], k, k[..., :DV]), [30, 0])


# ---- What is read ------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    """The calls to flash_decode, recorded rather than made: q, k and the keywords."""
    seen = []

    def spy(q, k, v, *rest, **keywords):
        seen.append((q, k, keywords))
        return q.new_zeros(*q.shape[:3], v.shape[3]), q.new_zeros(q.shape[:3])

    monkeypatch.setattr(module, "flash_decode", spy)
    return seen


@pytest.mark.parametrize(
    "keywords, shape",
    [({}, (1, B, HQ, D)), ({"softcap": 2.0}, (1, B, HQ, D))],
    ids=["plain", "softcap"],
)
def test_one_row_of_the_cache_for_everyone(calls, keywords, shape):
    q, pk, pv, k, v = make(10, 1, [8, 7])
    cascade_decode(q, pk, pv, k, v, torch.tensor([8, 7], device=DEVICE), **here(keywords))
    own, shared = calls
    assert own[1] is k and own[0] is q
    assert shared[0].shape == shape and shared[1].shape == (1, 10, HKV, D)
    assert shared[1].data_ptr() == pk.data_ptr()
    assert not shared[2]["causal"]


@pytest.mark.parametrize(
    "keywords, lengths, wanted",
    [
        ({}, [8, 3], [(1, 8), (B * 3, 2)]),  # the diagonal may cut the last Lq - 1 keys
        ({}, None, [(1, 10)]),  # the shape says that it does not
        ({"causal": False}, [8, 3], [(1, 10)]),
        ({"window": (None, 0), "causal": False}, [8, 3], [(1, 8), (B * 3, 2)]),
    ],
)
def test_what_differs_is_little(calls, keywords, lengths, wanted):
    tensors = make(10, 3, lengths or [8, 8])
    lengths = None if lengths is None else torch.tensor(lengths, device=DEVICE)
    cascade_decode(*tensors, lengths, **keywords)
    assert [k.shape[:2] for _, k, _ in calls[1:]] == wanted
    storage = tensors[1].untyped_storage().data_ptr()
    assert all(k.untyped_storage().data_ptr() == storage for _, k, _ in calls[1:])


def test_lse_is_optional_and_an_empty_batch_is_one():
    q, pk, pv, k, v = make(10, 1, [8, 8])
    o, _ = run(q, pk, pv, k, v, None)
    assert torch.equal(cascade_decode(q, pk, pv, k, v), o)
    run(q[:0], pk, pv, k[:0], v[:0], None)

"""kernels.kvcache_api: flash-attn's call, compared with fp64 attention over the same tokens."""

import inspect
import math

import pytest
import torch
from appends import rotate_fp64

from kernels.kvcache_api import flash_attn_with_kvcache
from kernels.runtime import INTERPRETED, device
from reference.attention import attention_with_cache, oracle_with_cache
from reference.closeness import assert_close_to_oracle
from reference.kv_cache import append_kv

DEVICE = device()
B, LN, HQ, HKV, D, ROOM = 2, 3, 4, 2, 16, 24
STARTS, PADDING = (9, 4), (2, 0)
SLOPES = torch.tensor([0.5, 0.25, 0.1, 0.0])


def test_the_signature_is_that_of_flash_attn():
    parameters = inspect.signature(flash_attn_with_kvcache).parameters.values()
    empty = inspect.Parameter.empty
    assert [(p.name, p.default) for p in parameters] == [
        *((name, empty) for name in ("q", "k_cache", "v_cache")),
        *((name, None) for name in ("k", "v", "rotary_cos", "rotary_sin", "cache_seqlens")),
        *((name, None) for name in ("cache_batch_idx", "cache_leftpad", "block_table")),
        ("softmax_scale", None),
        ("causal", False),
        ("window_size", (-1, -1)),
        ("softcap", 0.0),
        ("rotary_interleaved", True),
        ("alibi_slopes", None),
        ("num_splits", 0),
        ("return_softmax_lse", False),
    ]
    assert {p.kind for p in parameters} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


def tokens(dtype=torch.float32, R=16, padding=(0, 0)):
    """q, k, v, rows of history (NaN in the padding and from STARTS on), cos, sin."""
    rng = torch.Generator().manual_seed(0)
    q = torch.randn(B, LN, HQ, D, generator=rng).to(dtype)
    k, v = torch.randn(2, B, LN, HKV, D, generator=rng).to(dtype)
    history = torch.randn(2, B, ROOM, HKV, D, generator=rng).to(dtype)
    for b in range(B):
        history[:, b, : padding[b]] = history[:, b, STARTS[b] :] = math.nan
    angle = torch.rand(ROOM, R // 2, generator=rng) * 6.28
    return q, k, v, history, angle.cos().to(dtype), angle.sin().to(dtype)


def stored(history, layout):
    """The rows as caches in that layout, and the arguments that describe it."""
    if layout == "rows":
        return history.clone(), {}
    if layout == "other rows":
        caches = torch.full((2, 5, *history.shape[2:]), math.nan, dtype=history.dtype)
        caches[:, [4, 1]] = history
        return caches, {"cache_batch_idx": torch.tensor([4, 1], dtype=torch.int32)}
    page = int(layout.split("=")[1])
    order = torch.randperm(B * ROOM // page, generator=torch.Generator().manual_seed(1))
    caches = torch.empty(2, len(order), page, HKV, D, dtype=history.dtype)
    caches[:, order] = history.reshape(2, len(order), page, HKV, D)
    table = order.reshape(B, -1).int()
    for b, start in enumerate(STARTS):
        table[b, -(-(start + LN) // page) :] = -1
    return caches, {"block_table": table}


def truth(q, k, v, history, cos, sin, *, interleaved, each, causal, **features):
    """Rows in fp64, each token rotated on its own; then the oracle over them."""
    q, rows = q.double(), history.double()
    for b, start in enumerate(STARTS):
        for i in range(LN):
            rows[1, b, start + i] = v[b, i].double()
            for h in range(HKV):
                at = start + i
                rows[0, b, at, h] = rotate_fp64(k[b, i, h], cos[at], sin[at], interleaved)
            for h in range(HQ):
                at = start + i if each else start
                q[b, i, h] = rotate_fp64(q[b, i, h], cos[at], sin[at], interleaved)
    lengths = torch.tensor(STARTS) + LN
    return oracle_with_cache(q, *rows, lengths, causal=causal, **features)


def baseline(q, k, v, history, cos, sin, *, interleaved, each, causal, **features):
    """The same in the dtype of q."""
    rows, starts = history.clone(), torch.tensor(STARTS)
    q = append_kv(
        *rows,
        k,
        v,
        starts,
        q=q,
        rotary_cos=cos,
        rotary_sin=sin,
        interleaved=interleaved,
        rotate_at="each" if each else "first",
    )
    return attention_with_cache(q, *rows, starts + LN, causal=causal, return_lse=True, **features)


def judge(layout, theirs, ours, *, dtype=torch.float32, each=True, padding=(0, 0), R=16):
    """Call it with `theirs` added, and compare o and lse with the truth under `ours`."""
    q, k, v, history, cos, sin = tokens(dtype, R, padding)
    caches, where = stored(history, layout)
    caches = caches.to(DEVICE)
    call = {"q": q, "k": k, "v": v, "rotary_cos": cos, "rotary_sin": sin} | where | theirs
    call |= {"cache_seqlens": torch.tensor(STARTS, dtype=torch.int32)}
    call = {name: x.to(DEVICE) if torch.is_tensor(x) else x for name, x in call.items()}
    o, lse = flash_attn_with_kvcache(
        k_cache=caches[0], v_cache=caches[1], return_softmax_lse=True, **call
    )
    assert o.shape == q.shape and o.dtype == dtype
    assert lse.shape == (B, HQ, LN) and lse.dtype == torch.float32 and lse.is_contiguous()
    interleaved = theirs.get("rotary_interleaved", True)
    ours = {"causal": theirs.get("causal", False), "interleaved": interleaved, "each": each} | ours
    o_true, lse_true = truth(q, k, v, history, cos, sin, **ours)
    o_base, lse_base = baseline(q, k, v, history, cos, sin, **ours)
    assert_close_to_oracle(o.cpu(), o_base, o_true)
    assert_close_to_oracle(lse.cpu().transpose(1, 2), lse_base, lse_true, name="lse")


LAYOUTS = ("rows", "other rows", "page=1", "page=4", "page=8")


@pytest.mark.parametrize("interleaved", [True, False], ids=["pairs", "halves"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_append_turn_and_attend(layout, interleaved):
    judge(layout, {"causal": True, "rotary_interleaved": interleaved}, {})


def test_pairs_are_the_default_and_queries_that_are_not_causal_turn_alike():
    judge("rows", {}, {}, each=False)


CHOICES = {
    "window": ({"window_size": (3, 0)}, {"window": (3, 0)}),
    "right": ({"window_size": (-1, 1)}, {"window": (None, 1)}),
    "both": ({"window_size": (2, -1), "causal": True}, {"window": (2, None)}),
    "softcap": ({"softcap": 2.0, "causal": True}, {"softcap": 2.0}),
    "alibi": ({"alibi_slopes": SLOPES, "causal": True}, {"alibi_slopes": SLOPES}),
    "scale": ({"softmax_scale": 0.7, "causal": True}, {"scale": 0.7}),
    "splits": ({"num_splits": 3, "causal": True}, {}),
}


@pytest.mark.parametrize(("theirs", "ours"), CHOICES.values(), ids=CHOICES)
def test_every_choice(theirs, ours):
    judge("page=4", theirs, ours, R=8)


@pytest.mark.parametrize("layout", ["rows", "page=4"])
def test_padding_counts_in_lengths_and_angles(layout):
    padding = torch.tensor(PADDING, dtype=torch.int32)
    theirs, ours = {"cache_leftpad": padding, "causal": True}, {"cache_leftpad": padding}
    judge(layout, theirs, ours, padding=PADDING)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bits(dtype):
    judge("page=8", {"causal": True}, {}, dtype=dtype)


def test_without_new_tokens():
    """An int is the length of all rows; None is the whole cache; 0 is no key: o = 0, lse = -inf."""
    q, k, v = torch.randn(3, B, 7, HKV, D, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    q = q[:, :1]
    for given, length in ((5, 5), (None, 7), (torch.tensor([5, 5], device=DEVICE), 5)):
        o, lse = flash_attn_with_kvcache(q, k, v, cache_seqlens=given, return_softmax_lse=True)
        o_true, lse_true = oracle_with_cache(q, k[:, :length], v[:, :length])
        assert torch.allclose(o.double(), o_true, atol=1e-6)
        assert torch.allclose(lse.double(), lse_true.transpose(1, 2), atol=1e-6)
    o, lse = flash_attn_with_kvcache(q, k, v, cache_seqlens=0, return_softmax_lse=True)
    assert (o == 0).all() and (lse == -math.inf).all()
    table = torch.tensor([[0], [1]], dtype=torch.int32, device=DEVICE)
    o = flash_attn_with_kvcache(q, k[:, :4], v[:, :4], block_table=table)  # None: all its pages
    assert torch.allclose(o, flash_attn_with_kvcache(q, k, v, cache_seqlens=4), atol=1e-6)


def test_an_int_is_the_length_of_every_row_of_q():
    """Not of the cache, which has a different number of rows."""
    q, k, v, history, *_ = (x.to(DEVICE) for x in tokens())
    caches = torch.cat((history, history), 1).nan_to_num(0.0)
    rows = torch.tensor([3, 0], dtype=torch.int32, device=DEVICE)
    wanted = caches[:, [3, 0]].clone()
    o = flash_attn_with_kvcache(q, *caches, k, v, cache_seqlens=4, cache_batch_idx=rows)
    assert torch.equal(o, flash_attn_with_kvcache(q, *wanted, k, v, cache_seqlens=4))


def test_tensors_with_a_strided_last_dimension():
    q, k, v, history, cos, sin = (x.to(DEVICE) for x in tokens())
    calls = []
    for strided in (False, True):
        new = [x.mT.contiguous().mT if strided else x for x in (q, k, v)]
        caches = history.nan_to_num(0.0)
        o = flash_attn_with_kvcache(new[0], *caches, *new[1:], cos, sin, 4, causal=True)
        calls.append((o, caches))
    assert all(torch.equal(*pair) for pair in zip(*calls, strict=True))


def test_misuse_is_told():
    q, k, v, history, cos, sin = (x.to(DEVICE) for x in tokens())
    caches = history.nan_to_num(0.0)
    with pytest.raises(ValueError, match="k and v must be given together"):
        flash_attn_with_kvcache(q, *caches, k, cache_seqlens=4)
    with pytest.raises(ValueError, match="k and v need cache_seqlens"):
        flash_attn_with_kvcache(q, *caches, k, v)
    with pytest.raises(ValueError, match="they need k and v"):
        flash_attn_with_kvcache(q, *caches, rotary_cos=cos, rotary_sin=sin)
    if INTERPRETED:
        with pytest.raises(ValueError, match="room for 24 tokens"):
            flash_attn_with_kvcache(q, *caches, k, v, cache_seqlens=22)


def test_compiled_by_torch():
    def step(q, k_cache, v_cache, k, v, cos, sin, lengths):
        q = q * 2.0
        return flash_attn_with_kvcache(q, k_cache, v_cache, k, v, cos, sin, lengths, causal=True)

    q, k, v, history, cos, sin = (x.to(DEVICE) for x in tokens())
    lengths = torch.tensor(STARTS, dtype=torch.int32, device=DEVICE)
    eager, traced = history.clone(), history.clone()
    wanted = step(q, *eager, k, v, cos, sin, lengths)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(q, *traced, k, v, cos, sin, lengths), wanted)
    assert torch.equal(traced.nan_to_num(9.0), eager.nan_to_num(9.0))

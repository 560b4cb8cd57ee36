"""kernels.flash_decoding: bad arguments. An error names one, or the answer is right all the same.

Nothing else may happen: no other error, no crash, no hang, no silent answer to another question.
"""

import functools
import math
from types import SimpleNamespace

import numpy
import pytest
import torch
from decode_calls import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import call_cache
from kernels.flash_decoding import flash_decode, flash_decode_plan, workspace_bytes
from kernels.runtime import INTERPRETED
from reference.attention import oracle_with_cache

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="values are not checked on a GPU")
RNG = torch.Generator().manual_seed(0)
Q = torch.randn(2, 2, 2, 8, generator=RNG)
K, V = torch.randn(2, 2, 24, 1, 8, generator=RNG)
LENGTHS = torch.tensor([24, 5], dtype=torch.int32)
BYTES = torch.randint(-99, 99, (4, 8, 1, 8), generator=RNG).to(torch.int8)
SCALES = torch.rand(4, 8, 1, generator=RNG) / 50
FEATURES = {
    "window": 9,
    "softcap": 3.0,
    "sinks": torch.randn(2, generator=RNG),
    "alibi_slopes": torch.rand(2, 2, generator=RNG),
    "mask": torch.randn(2, 2, 2, generator=RNG),
    "cache_leftpad": torch.tensor([1, 0], dtype=torch.int32),
}
ROWS = {"q": Q, "k_cache": K, "v_cache": V, "cache_seqlens": LENGTHS}
PAGES = {"q": Q, "k_cache": BYTES, "v_cache": BYTES + 1, "cache_seqlens": LENGTHS}
PAGES |= {"block_table": torch.tensor([[2, 0, 3], [1, -1, 2**31 - 1]], dtype=torch.int32)}
PAGES |= {"k_scale": SCALES, "v_scale": SCALES + 0.1}
PLAN = flash_decode_plan(**ROWS) if INTERPRETED else None
CALLS = {
    "plain": ROWS | {"causal": True, "scale": 0.3, "num_splits": 2},
    "features": ROWS | FEATURES | {"cache_batch_idx": torch.tensor([1, 1]), "split_size": 64},
    "pages": PAGES | {"num_sms": 4, "workspace": torch.zeros(2000)},
    "plan": ROWS | {"plan": PLAN, "sinks": FEATURES["sinks"]},
}
ALL = {name: value for call in CALLS.values() for name, value in call.items()}
UNKNOWN = ("num_splits", "split_size", "plan", "num_sms", "workspace")  # to the oracle

BAD_TENSORS = {
    "int": lambda x: 3,
    "str": lambda x: "x",
    "None": lambda x: None,
    "list": lambda x: x.tolist(),
    "numpy": lambda x: numpy.ones(x.shape, dtype="float32"),
    "namespace": lambda x: SimpleNamespace(shape=x.shape, dtype=x.dtype, device=x.device),
    "float64": lambda x: x.double(),
    "float16": lambda x: x.half(),
    "int8": lambda x: x.to(torch.int8),
    "int16": lambda x: x.to(torch.int16),
    "int32": lambda x: x.int(),
    "int64": lambda x: x.long(),
    "bool": lambda x: x.bool(),
    "complex": lambda x: x.to(torch.complex64),
    "fp8": lambda x: x.float().to(torch.float8_e5m2),
    "one more dimension": lambda x: x[None],
    "one less": lambda x: x[0],
    "flat": lambda x: x.flatten(),
    "a number": lambda x: x.flatten()[0],
    "no rows": lambda x: x[:0],
    "no last": lambda x: x[..., :0],
    "one row": lambda x: x[:1],
    "twice the rows": lambda x: torch.cat([x, x]),
    "wider": lambda x: torch.cat([x, x], -1),
    "two heads": lambda x: torch.cat([x, x], 2) if x.ndim > 2 else x[:, None],
    "short": lambda x: x[:, :1] if x.ndim > 1 else x[:1],
    "long": lambda x: torch.cat([x, x], 1) if x.ndim > 1 else torch.cat([x, x]),
    "meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
    "expanded": lambda x: x[..., :1].expand(x.shape),
    "grad": lambda x: x.clone().requires_grad_() if x.is_floating_point() else -x,
    "negative": lambda x: -1 - x.abs() if x.dtype != torch.bool else ~x,
    "huge": lambda x: x.double().add(2**31 - 30).to(x.dtype) if x.dtype == torch.int32 else x + 99,
    "nested": lambda x: torch.nested.nested_tensor([x[0], x[0]]),
}
BAD_VALUES = {
    repr(x)[:20]: (lambda _, x=x: x)
    for x in (
        *(None, True, False, 0, -1, 1, 2, 64, 2**31 - 1, 2**31, 2**63, 10**400, -(10**400)),
        *(0.0, 1.5, -2.0, 1e-50, 1e50, math.inf, math.nan, 1j, "x", b"x", [1], (1,), (1, 2, 3)),
        *((None, None), (3, None), (-1, 2), (1.5, 2), (True, 1), (2**40, 1), {}, numpy.int64(3)),
        *(numpy.float64(0.5), numpy.float32(0.5), torch.tensor(2), torch.float32, PLAN, object),
    )
}


def bad(name):
    """The ways to spoil the argument of this name."""
    return BAD_TENSORS if isinstance(ALL[name], torch.Tensor) else BAD_VALUES


def spoil(call, name, how):
    """The call with one argument spoilt; None if it cannot be spoilt in this way."""
    try:
        return call | {name: bad(name)[how](call.get(name, ALL[name]))}
    except (RuntimeError, IndexError, AttributeError, TypeError):
        return None  # no such tensor exists, or it is already spoilt too far


def outcome(call):
    """What a call returns, or what it raises, of which type."""
    try:
        return flash_decode(**call, return_lse=True)
    except (ValueError, TypeError) as error:
        return type(error), str(error)


@functools.cache
def known():
    """What the cache holds after the good calls, and after those that each of them resembles."""
    call_cache.clear()
    for call in CALLS.values():
        outcome(call)
        for name in ("q", "k_cache", "cache_seqlens"):  # also calls with other rows, heads, dtypes
            for how in ("one row", "twice the rows", "long", "int64", "float16", "strided"):
                if spoilt := spoil(call, name, how):
                    outcome(spoilt)
    return dict(call_cache.CALLS._entries)


def assert_same_with_a_warm_cache(call):
    """A call ends as if no call had been made before: with the same bits, or the same words."""
    call_cache.clear()
    cold = outcome(call)
    for key, entry in known().items():
        call_cache.CALLS.put(key, entry)
    for _ in range(2):
        warm = outcome(call)
        if isinstance(cold[0], type):
            assert warm == cold
        else:
            torch.testing.assert_close(warm, cold, rtol=0, atol=0, equal_nan=True)


def assert_told_or_right(call, names):
    """Decode: either a ValueError or TypeError that names an argument, or the oracle's answer."""
    call = {name: x.to(DEVICE) if isinstance(x, torch.Tensor) and x.device.type == "cpu" else x
            for name, x in call.items()}  # fmt: skip
    assert_same_with_a_warm_cache(call)
    try:
        o, lse = flash_decode(**call, return_lse=True)
    except (ValueError, TypeError) as error:
        # If two arguments do not fit together, the one blamed need not be the one spoilt.
        assert any(name in str(error) for name in ALL), f"{names}: {error!r} names no argument"
        if not {"q", "k_cache", "v_cache", "block_table"} & {*names}:
            assert any(name in str(error) for name in names), f"{names}: {error!r}"
        return
    if lse.numel() == 0:
        return
    known = {name: x for name, x in call.items() if name not in UNKNOWN}
    truth = oracle_with_cache(**known)
    torch.testing.assert_close((o.double(), lse.double()), truth, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", CALLS)
def test_the_calls_are_good(kind):
    flash_decode(**CALLS[kind])  # does not raise
    assert_told_or_right(CALLS[kind], [kind])


@pytest.mark.filterwarnings("ignore")  # sparse, nested and complex tensors warn
@pytest.mark.parametrize("name", ALL)
def test_one_bad_argument(name):
    """Every way to spoil it, in the calls that have it and in one that should not have it."""
    for kind, call in CALLS.items():
        for how in bad(name) if name in call or kind == "plain" else ():
            spoilt = spoil(call, name, how)
            if spoilt is not None:
                assert_told_or_right(spoilt, [name])
        if name not in call:
            assert_told_or_right(call | {name: ALL[name]}, [name])


@st.composite
def twice_spoilt(draw):
    call, names = CALLS[draw(st.sampled_from(sorted(CALLS)))], []
    for _ in range(2):
        names.append(draw(st.sampled_from(sorted(ALL))))
        spoilt = spoil(call, names[-1], draw(st.sampled_from(sorted(bad(names[-1])))))
        call = spoilt if spoilt is not None else call
    return call, names


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=100, deadline=None)
@given(case=twice_spoilt())
def test_two_bad_arguments(case):
    assert_told_or_right(*case)


@pytest.mark.parametrize("op", [flash_decode_plan, workspace_bytes], ids=lambda op: op.__name__)
@pytest.mark.parametrize("name", [*ROWS, "block_table", "window"])
def test_its_helpers_tell_the_same(name, op):
    """They check what they take from the call the way the call does."""
    for call in (ROWS | {"window": 9}, PAGES):
        for how in bad(name) if name in call else ():
            spoilt = spoil(call, name, how)
            try:
                op(**(spoilt or call))
            except (ValueError, TypeError) as error:
                assert any(key in str(error) for key in ALL), (how, error)


def test_a_keyword_that_there_is_not():
    for wrong in ("softmax_scale", "page_table", "out"):
        with pytest.raises(TypeError, match=wrong):
            flash_decode(**CALLS["plain"], **{wrong: None})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"split_size": 64}, "num_splits and split_size each cut the keys their own way: give one"),
        ({"plan": PLAN}, "num_splits and plan each cut the keys"),
        ({"k_scale": torch.ones(())}, "k_scale must be None unless the cache is int8 or fp8"),
        (PAGES | {"cache_seqlens": None}, "block_table needs cache_seqlens"),
        ({"k_cache": BYTES[:2, :, :, :], "v_cache": BYTES[:2]}, "an int8 cache needs k_scale and"),
        ({"scale": 1e39}, r"scale must be finite in fp32; got 1e\+39"),
        ({"softcap": 1e-31}, r"softcap must be above 0, from 1e-30 to 1e\+30"),
        ({"split_size": 65, "num_splits": None}, "split_size must be a multiple of 64"),
        (
            {"k_cache": K[:, :, :, ::2]},
            r"q and k_cache must have one|must be contiguous in its last",
        ),
        ({"cache_leftpad": torch.tensor([25, 0])}, "cache_leftpad must be from 0 to 24"),
    ],
)
def test_what_is_said(change, says):
    with pytest.raises(ValueError, match=says):
        flash_decode(**CALLS["plain"] | change)


def test_a_live_entry_that_is_no_page():
    """-1 past a row's length does not matter; before it, it is an error."""
    for entry, table in ((4, [[2, 4, 3], [1, 0, 0]]), (-1, [[2, 0, 3], [-1, 0, 0]])):
        call = PAGES | {"block_table": torch.tensor(table, dtype=torch.int32)}
        with pytest.raises(ValueError, match=f"block_table must name pages from 0 to 3.*{entry}"):
            flash_decode(**call)


def test_a_row_too_long_to_count():
    """2^30 keys per row are refused: 32 bits would not hold a position plus a window."""
    wide = torch.zeros(1, 1, 1, 8).expand(2, 2**30, 1, 8)
    with pytest.raises(ValueError, match=r"room for fewer than 2\^30 keys; got k_cache"):
        flash_decode(Q, wide, wide, LENGTHS)
    table = torch.empty(1, 2**27, dtype=torch.int32).expand(2, -1)  # never read
    with pytest.raises(
        ValueError, match=r"room for fewer than 2\^30 keys; got k_cache .*block_table"
    ):
        flash_decode(**PAGES | {"block_table": table})


def test_more_tiles_than_a_grid_has():
    q = torch.zeros(1, 70000, 64, 8)
    cache = torch.zeros(1, 8, 64, 8)
    with pytest.raises(ValueError, match=r"q has too many rows for one launch.*65535"):
        flash_decode(q, cache, cache)

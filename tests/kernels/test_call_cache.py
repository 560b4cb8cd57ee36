"""kernels.call_cache: a call that was made before gives what it gave, or its error."""

import gc
import random
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from feature_cases import FEATURES, LAYOUTS, draw_case
from hypothesis import given, settings
from hypothesis import strategies as st
from similar_calls import APPEND, DECODE, DEVICE, append, paged, plain
from torch._subclasses.fake_tensor import FakeTensorMode

from course.check.guards import empty_is_nan
from kernels import call_cache
from kernels.append import append_kv
from kernels.call_cache import CallCache, sign
from kernels.flash_decoding import flash_decode
from kernels.runtime import INTERPRETED, has_e4m3

on_the_cpu = pytest.mark.skipif(not INTERPRETED, reason="tensors on the CPU")
POSSIBLE = dict(DECODE)
if not has_e4m3(torch.device(DEVICE)):
    del POSSIBLE["e4m3 pages"]
UNSIGNED = ("scale 0", "scale -0")  # equal, and of the same type, but not the same number


def decoded(call):
    with empty_is_nan():
        return flash_decode(**call, return_lse=True)


def appended(call):
    q = append_kv(**call)
    names = ("k_cache", "v_cache", "k_scale", "v_scale")
    return [x for x in (q, *(call.get(name) for name in names)) if x is not None]


def same_bits(got, wanted):
    return len(got) == len(wanted) and all(
        torch.equal(x.view(torch.uint8), y.view(torch.uint8))
        for x, y in zip((x.reshape(-1) for x in got), (y.reshape(-1) for y in wanted), strict=True)
    )


def cold(run, call):
    call_cache.clear()
    return run(call)


@pytest.mark.parametrize(("run", "calls"), [(decoded, POSSIBLE), (appended, APPEND)])
def test_calls_that_differ_in_one_thing_never_share_an_entry(run, calls):
    """Each twice, in any order, in a cache that knows all others: the bits of a cache that is cold.

    A result that is not finite stays so: memory that nothing was written to is NaN.
    """
    wanted = {name: cold(run, call()) for name, call in calls.items()}
    call_cache.clear()
    for seed in range(3):
        names = sorted(calls)
        random.Random(seed).shuffle(names)
        for name in names:
            assert same_bits(run(calls[name]()), wanted[name]), name
        assert call_cache.size() == len([name for name in calls if name not in UNSIGNED])


@st.composite
def some_cases(draw):
    features = [x for x in FEATURES if x not in LAYOUTS]
    cases = []
    for _ in range(draw(st.integers(2, 4))):
        chosen = draw(st.sets(st.sampled_from(features), max_size=3))
        layout = draw(st.sampled_from(LAYOUTS))
        cases.append((draw(st.integers(0, 3)), (*sorted(chosen), layout)))
    return cases


@on_the_cpu
@settings(max_examples=15, deadline=None)
@given(cases=some_cases())
def test_any_calls_one_after_another(cases):
    calls = []
    for seed, features in cases:
        case = draw_case(seed, features, torch.float32)
        names = ("q", "k_cache", "v_cache", "cache_seqlens")
        calls.append(dict(zip(names, case.arguments, strict=True)) | case.keywords)
    wanted = [cold(decoded, call) for call in calls]
    call_cache.clear()
    for _ in range(2):
        for call, result in zip(calls, wanted, strict=True):
            assert same_bits(decoded(call), result)


@on_the_cpu
def test_numbers_may_change_between_calls_and_are_looked_at_every_time():
    call = plain()
    decoded(call)
    call["cache_seqlens"].copy_(torch.tensor([7, 0]))
    again = decoded(call)
    assert same_bits(again, cold(decoded, call)) and (again[1][1] == -torch.inf).all()
    call["cache_seqlens"][1] = 97
    with pytest.raises(ValueError, match=r"cache_seqlens must be .*; got .* 7 to 97"):
        decoded(call)
    pages = paged()
    decoded(pages)
    pages["block_table"][0, 0] = 6
    with pytest.raises(ValueError, match="block_table must name pages from 0 to 5"):
        decoded(pages)
    new = append()
    append_kv(**new)
    new["cache_seqlens"][0] = 96
    with pytest.raises(ValueError, match="a row has room for 96 tokens"):
        append_kv(**new)


def test_an_error_leaves_nothing_behind():
    call = plain()
    for wrong in ({"scale": torch.nan}, {"num_splits": 0}, {"window": -1}, {"causal": 1}):
        for _ in range(2):
            with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
                flash_decode(**call | wrong)
    assert call_cache.size() == 0


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ({"causal": True}, {"causal": 1}),
        ({"num_splits": 1}, {"num_splits": True}),
        ({"num_splits": 1}, {"num_splits": 1.0}),
        ({"scale": 1}, {"scale": True}),
        ({"window": (1, 0)}, {"window": (1, False)}),
        ({"window": 3}, {"window": 3.0}),
        ({"split_size": 64}, {"split_size": torch.tensor(64)}),
    ],
)
def test_options_that_are_equal_and_not_of_one_type(right, wrong):
    flash_decode(**plain() | right)
    with pytest.raises(TypeError, match=next(iter(wrong))):
        flash_decode(**plain() | wrong)


def test_gradients_are_refused_whatever_went_before():
    call = plain()
    decoded(call)
    call["q"].requires_grad_()
    with torch.no_grad():
        wanted = decoded(call)
        assert same_bits(decoded(call), wanted)
    with pytest.raises(ValueError, match="q requires grad"):
        decoded(call)
    with torch.inference_mode():
        assert same_bits(decoded(plain()), wanted)
    append_kv(**append())
    same = append(k=append()["k"].requires_grad_())
    with torch.no_grad():
        append_kv(**same)
    with pytest.raises(ValueError, match="k requires grad"):
        append_kv(**same)


def test_tensors_are_not_kept():
    call = plain() | {"num_splits": 2, "workspace": torch.zeros(4000, device=DEVICE)}
    results = decoded(call)
    watched = [weakref.ref(x) for x in (*call.values(), *results) if isinstance(x, torch.Tensor)]
    del call, results
    gc.collect()
    assert call_cache.size() == 1 and not any(ref() is not None for ref in watched)


@pytest.mark.filterwarnings("ignore")  # sparse and nested tensors warn
def test_what_is_not_ordinary_is_neither_remembered_nor_looked_up():
    class Own(torch.Tensor):
        pass

    call = plain()
    flash_decode(**call)
    assert sign(("flash_decode",), [call["q"]])[0] is not None
    freed = torch.zeros(8)
    freed.untyped_storage().resize_(0)
    strange = {
        "subclass": call["q"].as_subclass(Own),
        "sparse": call["q"].to_sparse(),
        "nested": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
        "freed": freed,
        "list": [1],
        "tuple of lists": ([1], 2),
        "zero": 0.0,
        "0-d array": torch.zeros(()).numpy(),
    }
    assert [name for name in strange if sign(("flash_decode",), [strange[name]])[0]] == []
    with FakeTensorMode():
        assert sign(("flash_decode",), [torch.zeros(3)]) == (None, [])
        flash_decode(*(torch.zeros(x.shape) for x in list(call.values())[:3]))
    torch.func.vmap(lambda x: [sign(("flash_decode",), [x]), x][1])(torch.zeros(2, 2))
    compiled = torch.compile(lambda **x: flash_decode(**x), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(**call), flash_decode(**call))
    assert call_cache.size() == 1


def test_tensors_that_begin_at_one_address():
    """Which is where: the pattern is part of the key, the address is not."""
    x, y = torch.zeros(2, 8, 16)
    keys = [sign(("op",), three)[0] for three in ((x, y, x), (x, x, y), (y, x, x), (x, y, y))]
    assert len(set(keys)) == 3 and keys[2] == keys[3]
    assert sign(("op",), [x])[0] == sign(("op",), [y])[0]


def test_whether_an_address_is_a_multiple_of_16():
    x = torch.zeros(64)
    keys = [sign(("op",), [x[at : at + 8]]) for at in (0, 1, 2, 4, 8)]
    assert [key == keys[0][0] for key, _ in keys] == [True, False, False, True, True]
    assert [address - x.data_ptr() for _, (address,) in keys] == [0, 4, 8, 16, 32]


def test_the_oldest_entries_go_first():
    cache = CallCache(3)
    for i in range(5):
        cache.put((i,), str(i))
    assert len(cache) == 3 and [cache.get((i,)) for i in range(5)] == [None, None, "2", "3", "4"]
    cache.put(None, "nothing")
    assert len(cache) == 3 and cache.get(None) is None
    cache.clear()
    assert len(cache) == 0


def test_a_small_cache_gives_the_same_answers(monkeypatch):
    wanted = {name: cold(decoded, DECODE[name]()) for name in ("plain", "window 5", "mask")}
    call_cache.clear()
    monkeypatch.setattr(call_cache.CALLS, "_most", 1)
    for _ in range(2):
        for name, result in wanted.items():
            assert same_bits(decoded(DECODE[name]()), result)
            assert call_cache.size() == 1


def test_threads_share_the_cache(monkeypatch):
    """Few entries and many kinds of calls: they are remembered and forgotten all the time."""
    names = ["plain", "window 5", "mask, bool", "int8 pages", "latent", "plan", "Lq = 1"]
    calls = {name: DECODE[name]() for name in names}
    wanted = {name: cold(decoded, call) for name, call in calls.items()}
    monkeypatch.setattr(call_cache.CALLS, "_most", 3)
    work = names * 6
    random.Random(0).shuffle(work)

    def one(name):
        if name == "plan":
            call_cache.clear()
        return flash_decode(**calls[name], return_lse=True)

    with ThreadPoolExecutor(6) as threads:
        for name, got in zip(work, threads.map(one, work), strict=True):
            assert same_bits(got, wanted[name]), name
    assert call_cache.size() <= 3

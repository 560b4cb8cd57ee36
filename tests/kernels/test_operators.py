"""kernels.operators and kernels.call.may_launch: on anything but ordinary tensors, no launch.

Every public op that has an operator is traced in every way that torch has, with the launch replaced
by a failure: what comes back are shapes, and the graph gives the eager numbers afterwards.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, export
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from kernels.append import append_given_scales_op, append_kv, append_op
from kernels.call import KernelCall, may_launch
from kernels.cascade import cascade_decode
from kernels.flash_attention import flash_attention
from kernels.flash_decoding import flash_decode, flash_decode_plan, workspace_bytes
from kernels.kvcache_api import flash_attn_with_kvcache
from kernels.merge import merge_op, merge_states
from kernels.runtime import INTERPRETED, device

DEVICE = device()
B = 3
RNG = torch.Generator().manual_seed(0)


def random(*shape):
    return torch.randn(*shape, generator=RNG).to(DEVICE)


Q, NEW_K, NEW_V = random(B, 1, 4, 16), random(B, 1, 2, 16), random(B, 1, 2, 16)
K, V, PREFIX_K, PREFIX_V = *random(2, B, 40, 2, 16), *random(2, 9, 2, 16)
LENGTHS = torch.tensor([4, 39, 20], device=DEVICE)
TABLES = (random(50, 8), random(50, 8))
BYTES = torch.zeros(2, B, 40, 2, 16, dtype=torch.int8, device=DEVICE)
SCALES = torch.ones(2, B, 40, 2, device=DEVICE)


def appended(q, k_cache, v_cache, k, v, lengths, cos, sin):
    q = append_kv(k_cache, v_cache, k, v, lengths, rotary_cos=cos, rotary_sin=sin, q=q)
    return q, k_cache + 0, v_cache + 0


def quantised(k_cache, v_cache, k, v, lengths, k_scale, v_scale):
    assert append_kv(k_cache, v_cache, k, v, lengths, k_scale=k_scale, v_scale=v_scale) is None
    return k_cache + 0, v_cache + 0, k_scale + 0


def planned(q, k, v, lengths):
    plan = flash_decode_plan(q, k, v, lengths)
    return flash_decode(q, k, v, lengths, plan=plan, return_lse=True)


def windowed(q, k, v, lengths):
    return flash_decode(q, k, v, lengths, num_splits=2, window=(9, None), softcap=3.0)


def served(q, k_cache, v_cache, k, v, lengths):
    return flash_attn_with_kvcache(q, k_cache, v_cache, k, v, cache_seqlens=lengths, causal=True)


OPS = {
    "merge": (lambda *x: merge_states(*x), (random(4, B, 8), random(4, B))),
    "merge, a sequence": (lambda *x: merge_states(x[:2], x[2:]), (*random(2, B, 8), *random(2, B))),
    "decode": (lambda *x: flash_decode(*x, return_lse=True), (Q, K, V)),
    "decode, lengths": (windowed, (Q, K, V, LENGTHS)),
    "decode, plan": (planned, (Q, K, V, LENGTHS)),
    "append, q": (appended, (Q, K, V, NEW_K, NEW_V, LENGTHS, *TABLES)),
    "append, scales written": (quantised, (*BYTES, NEW_K, NEW_V, LENGTHS, *SCALES)),
    "append, scales given": (quantised, (*BYTES, NEW_K, NEW_V, LENGTHS, *SCALES[:, 0, 0])),
    "kvcache": (served, (Q, K, V, NEW_K, NEW_V, LENGTHS)),
    "cascade": (lambda *x: cascade_decode(*x, return_lse=True), (Q, PREFIX_K, PREFIX_V, K, V)),
    "attention": (lambda *x: flash_attention(*x), (Q, K, V)),
}
every_op = pytest.mark.parametrize(("op", "given"), OPS.values(), ids=OPS)


@pytest.fixture
def no_launch(monkeypatch):
    def launch(*_):
        raise AssertionError("a kernel was launched on tensors without memory")

    monkeypatch.setattr(KernelCall, "launch", launch)


def copies(given):
    return [x.clone() for x in given]


def same_bits(got, wanted):
    got, wanted = tree_leaves(got), tree_leaves(wanted)
    return len(got) == len(wanted) and all(map(torch.equal, got, wanted))


def looks(result):
    """What can be told of tensors without memory."""
    return [(tuple(x.shape), x.stride(), x.dtype) for x in tree_leaves(result)]


@every_op
@pytest.mark.parametrize("way", ["mode", "meta"])
def test_tensors_without_memory_give_shapes(op, given, way, monkeypatch):
    wanted = looks(op(*copies(given)))
    monkeypatch.setattr(KernelCall, "launch", lambda *_: pytest.fail("launched"))  # from now on
    if way == "meta":
        got = op(*(x.to("meta") for x in given))
    else:
        with FakeTensorMode() as mode:
            got = op(*map(mode.from_tensor, given))
    assert looks(got) == wanted


@every_op
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_a_graph_gives_the_eager_bits(op, given, mode):
    if (op, mode) == (planned, "symbolic"):
        with pytest.raises(ValueError, match="must get tensors of known sizes"):
            make_fx(op, tracing_mode=mode)(*copies(given))
        return
    graph = make_fx(op, tracing_mode=mode)(*copies(given))
    names = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
    assert any("flash_decoding_course" in name for name in names)
    assert same_bits(graph(*copies(given)), op(*copies(given)))


@every_op
def test_a_mode_that_watches_gets_an_operator(op, given):
    with FlopCounterMode(display=False):
        got = op(*copies(given))
    assert same_bits(got, op(*copies(given)))


class Watched(torch.Tensor):
    """A subclass that changes nothing."""


@every_op
def test_a_subclass_gets_an_operator(op, given):
    got = tree_leaves(op(*(x.clone().as_subclass(Watched) for x in given)))
    assert same_bits([x.as_subclass(torch.Tensor) for x in got], op(*copies(given)))


@pytest.mark.parametrize("name", [name for name in OPS if name != "attention"])
def test_vmap_is_refused(name, no_launch):
    op, given = OPS[name]
    with pytest.raises(NotImplementedError, match="must not be called under vmap"):
        torch.func.vmap(op)(*(torch.stack([x, x]) for x in given))


def test_vmap_of_attention_is_attention():
    """Its operator has a backward, and no vmap of ours: torch itself calls it once per batch."""
    rows = [torch.stack([x, 2 * x]) for x in (Q, K, V)]
    got = torch.func.vmap(flash_attention)(*rows)
    assert same_bits(got, torch.stack([flash_attention(*x) for x in zip(*rows, strict=True)]))


def test_ordinary_tensors_are_launched_on():
    x = torch.ones(2, device=DEVICE)
    assert may_launch(x, x, None, 3) and may_launch(torch.nn.Parameter(x), x)
    assert not may_launch(x.to("meta"), x)
    assert not may_launch(x, x.as_subclass(Watched))
    with FakeTensorMode() as mode:
        assert not may_launch(x, x)
    assert not may_launch(mode.from_tensor(x), x) and not may_launch(x, mode.from_tensor(x))
    assert may_launch("no tensor", x)  # the op's own check says so


@pytest.mark.parametrize("name", ["merge", "decode, lengths", "append, q", "cascade"])
@pytest.mark.parametrize("strict", [False, True])
def test_exported_with_any_batch(name, strict):
    """No check has become a condition: Dim("batch") has no upper bound."""

    class Module(torch.nn.Module):
        def forward(self, *given):
            return OPS[name][0](*given)

    batch, given = Dim("batch"), OPS[name][1]
    dims = tuple({i: batch for i, size in enumerate(x.shape) if size == B} for x in given)
    exported = export(Module(), tuple(copies(given)), dynamic_shapes=(dims,), strict=strict)
    for count in (B, 5):
        index = torch.arange(count) % B
        more = given
        for i in range(2):
            more = [x.index_select(i, index.to(DEVICE)) if x.shape[i : i + 1] == (B,) else x
                    for x in more]  # fmt: skip
        assert same_bits(exported.module()(*copies(more)), OPS[name][0](*copies(more)))


@pytest.mark.parametrize("name", ["merge", "decode, lengths", "append, q", "cascade"])
def test_one_graph_serves_all_batches_and_lengths(name):
    torch.compiler.reset()
    op, given = OPS[name]
    compiled = torch.compile(op, fullgraph=True, dynamic=True, backend="aot_eager")
    assert same_bits(compiled(*copies(given)), op(*copies(given)))
    more = [torch.cat([x, x]) if x.shape[0] == B else x for x in given]
    with torch.compiler.set_stance("fail_on_recompile"):
        assert same_bits(compiled(*copies(more)), op(*copies(more)))


WRONG = {
    "merge": (lambda: merge_states(random(2, 3, 8), random(2, 4)), ValueError, "o and lse must be"),
    "merge dtype": (lambda: merge_states(random(2, 3).double(), random(2)), ValueError, "float64"),
    "decode heads": (lambda: flash_decode(Q[:, :, :3], K, V), ValueError, "multiple of Hkv"),
    "decode causal": (lambda: flash_decode(Q, K, V, causal=1), TypeError, "causal must be True"),
    "decode scale": (lambda: flash_decode(Q, K, V, scale="1"), TypeError, "scale must be a number"),
    "decode splits": (lambda: flash_decode(Q, K, V, num_splits=0), ValueError, "at least 1; got 0"),
    "decode window": (lambda: flash_decode(Q, K, V, window="x"), TypeError, "window must be an"),
    "decode size": (lambda: flash_decode(Q, K, V, split_size=3), ValueError, "a multiple of"),
    "decode lengths": (lambda: flash_decode(Q, K, V, [3]), TypeError, "must be a tensor"),
    "append": (lambda: append_kv(K, V, NEW_K[:2], NEW_V[:2]), ValueError, "the batch of k, 2"),
    "append word": (lambda: append_kv(K, V, NEW_K, NEW_V, rotate_at="x"), ValueError, "got 'x'"),
    "append scale": (lambda: append_kv(*BYTES, NEW_K, NEW_V), ValueError, "needs k_scale"),
    "prefix": (lambda: cascade_decode(Q, PREFIX_K, PREFIX_V[:3], K, V), ValueError, "agree in Lp"),
}  # fmt: skip


@pytest.mark.parametrize("way", ["eager", "fake"])
@pytest.mark.parametrize(("call", "error", "says"), WRONG.values(), ids=WRONG)
def test_the_same_sentences_without_memory(call, error, says, way, request):
    if way == "fake":
        request.getfixturevalue("no_launch")
    mode = FakeTensorMode(allow_non_fake_inputs=True) if way == "fake" else torch.no_grad()
    with mode, pytest.raises(error, match=says):
        call()


def test_a_workspace_that_is_too_small_is_told_without_memory(no_launch):
    k, v = random(2, B, 300, 2, 16).unbind(0)
    numbers = workspace_bytes(Q, k, v, num_splits=2) // 4
    assert numbers == 2 * B * 4 * (16 + 1)
    with FakeTensorMode() as mode:
        given = [mode.from_tensor(x) for x in (Q, k, v)]
        assert workspace_bytes(*given, num_splits=2) // 4 == numbers
        assert workspace_bytes(given[0], given[1], given[1]) > 0  # no address is asked for
        flash_decode(*given, num_splits=2, workspace=torch.empty(numbers, device=DEVICE))
        with pytest.raises(ValueError, match=f"must hold {numbers} fp32 numbers"):
            flash_decode(*given, num_splits=2, workspace=torch.empty(numbers - 1, device=DEVICE))


def test_an_input_that_requires_grad_is_refused_everywhere(no_launch):
    q = Q.clone().requires_grad_()
    for call in (lambda: flash_decode(q, K, V), lambda: append_kv(K, V, q[:, :, :2], NEW_V)):
        with FlopCounterMode(display=False), pytest.raises(ValueError, match="requires grad"):
            call()
    with pytest.raises(ValueError, match="requires grad"):
        torch.func.grad(lambda q: flash_decode(q, K, V).sum())(Q)


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_torch_agrees_with_the_merge(dtype):
    torch.library.opcheck(merge_op, (random(4, B, 8), random(4, B), dtype or torch.float32))


@pytest.mark.parametrize("name", ["append, q", "append, scales written", "append, scales given"])
def test_torch_agrees_with_the_append(name):
    """Scales that are only read are not declared as written: one may be given for all heads."""
    if name == "append, q":
        q, k_cache, v_cache, k, v, lengths, cos, sin = copies(OPS[name][1])
        scales = None, None
    else:
        k_cache, v_cache, k, v, lengths, *scales = copies(OPS[name][1])
        q, cos, sin = None, None, None
    op = append_op if name == "append, scales written" else append_given_scales_op
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    given = (k_cache, v_cache, k, v, lengths, None, None, cos, sin, q, *scales, False, True)
    torch.library.opcheck(op, given, test_utils=tests)


def test_one_scale_expanded_over_heads_is_not_written_under_compile():
    torch.compiler.reset()
    one = torch.full((), 0.5, device=DEVICE).expand(2)
    eager, traced = copies(BYTES), copies(BYTES)
    step = lambda k, v, scale: append_kv(k, v, NEW_K, NEW_V, LENGTHS, k_scale=scale, v_scale=scale)  # noqa: E731
    step(*eager, one)
    torch.compile(step, fullgraph=True, backend="aot_eager")(*traced, one)
    assert same_bits(traced, eager) and one._version == 0


@pytest.mark.skipif(not INTERPRETED, reason="values are not checked on a GPU")
def test_values_are_checked_when_the_operator_runs():
    with FlopCounterMode(display=False):
        with pytest.raises(ValueError, match="cache_seqlens must be from 0 to 40"):
            flash_decode(Q, K, V, LENGTHS + 2)
        with pytest.raises(ValueError, match="Nothing was written"):
            append_kv(K, V, NEW_K, NEW_V, LENGTHS + 2)
    with pytest.raises(ValueError, match="cache_seqlens must be from 0 to 40"):
        flash_decode(Q, K, V, (LENGTHS + 2).as_subclass(Watched))

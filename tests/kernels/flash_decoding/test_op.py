"""kernels.flash_decoding.op: under torch.compile and in CUDA graphs, as torch checks it."""

import pytest
import torch
from decode_calls import DEVICE, Call, judge, plain_call
from shapes import DecodeShape, decode_inputs

from kernels.flash_decoding import flash_decode, flash_decode_plan, workspace_bytes
from kernels.flash_decoding.features import Features, Splits
from kernels.flash_decoding.op import flash_decode_op, flat_arguments
from kernels.runtime import INTERPRETED

LENGTHS = (130, 0, 67)
COMPILERS = ["aot_eager"] + ([] if INTERPRETED else ["inductor"])
on_a_gpu = pytest.mark.skipif(INTERPRETED, reason="CUDA graphs need a GPU")


def every_feature():
    """A call with all features that can be combined."""
    rows = torch.tensor([2, 0, 2], dtype=torch.int32)
    call = plain_call(
        LENGTHS,
        Lq=2,
        window=(90, None),
        softcap=20.0,
        sinks=torch.ones(3),
        alibi_slopes=torch.tensor([0.1, 0.2, 0.3]),
        mask=torch.ones(2, 2, dtype=torch.bool).tril(),
        cache_leftpad=torch.tensor([3, 0, 5], dtype=torch.int32),
    )
    q, k, v, lengths = call.arguments
    features = call.features | {"cache_batch_idx": rows.to(DEVICE)}
    return (q, k.nan_to_num(0.5), v.nan_to_num(0.5), lengths), features


def quantised():
    """int8 pages with a scale per token."""
    rng = torch.Generator().manual_seed(0)
    k, v = torch.randint(-9, 9, (2, 4, 64, 1, 16), generator=rng).to(DEVICE, torch.int8)
    scales = torch.rand(2, 4, 64, 1, generator=rng).to(DEVICE)
    table = torch.tensor([[3, 1, 0], [-1, -1, -1], [2, 3, -1]], dtype=torch.int32, device=DEVICE)
    features = {"block_table": table, "k_scale": scales[0], "v_scale": scales[1]}
    call = plain_call(LENGTHS, Lq=2)
    return (call.arguments[0], k, v, call.arguments[3]), features


def plain():
    return plain_call(LENGTHS, dtype=torch.bfloat16).arguments, {}


CALLS = [plain, every_feature, quantised]
SOME = [
    (plain, "number"),
    (every_feature, "plan"),
    (every_feature, "size"),
    (quantised, "workspace"),
]


@pytest.fixture(autouse=True)
def nothing_compiled_yet():
    """torch gives up on a function after a few recompilations: each test gets its own count."""
    torch.compiler.reset()


def with_splits(kind, arguments, features):
    """The splits of this kind, and a workspace if one is wanted."""
    if kind == "plan":
        return {"plan": flash_decode_plan(*arguments, **features)}
    splits = {"split_size": 128} if kind == "size" else {"num_splits": 2}
    if kind == "workspace":
        numbers = workspace_bytes(*arguments[:3], **features, **splits) // 4
        splits["workspace"] = torch.empty(numbers, device=DEVICE)
    return splits


@pytest.mark.parametrize(("call", "kind"), SOME)
def test_torch_agrees_with_the_operator(call, kind):
    """The schema says what is written, the fake returns the right shapes, and tracing works."""
    arguments, features = call()
    splits = with_splits(kind, arguments, features)
    workspace = splits.pop("workspace", None)
    features = Features(cache_seqlens=arguments[3], **features)
    rest = {"causal": True, "scale": None, "workspace": workspace}
    torch.library.opcheck(
        flash_decode_op, tuple(flat_arguments(arguments[:3], features, Splits(**splits), **rest))
    )


@pytest.mark.parametrize("backend", COMPILERS)
@pytest.mark.parametrize(("call", "kind"), SOME)
def test_compiled_bits_are_the_same(call, kind, backend):
    arguments, features = call()
    splits = with_splits(kind, arguments, features)

    def step(q, k, v, lengths):
        return flash_decode(q, k, v, lengths, **features, **splits, return_lse=True)

    got = torch.compile(step, fullgraph=True, backend=backend)(*arguments)
    for x, y in zip(got, step(*arguments), strict=True):
        assert torch.equal(x, y) and x.stride() == y.stride()


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize("backend", COMPILERS)
def test_a_plan_made_inside_a_compiled_step(backend):
    arguments, features = every_feature()

    def step(q, k, v, lengths):
        plan = flash_decode_plan(q, k, v, lengths, **features)
        return 2 * flash_decode(q, k, v, lengths, **features, plan=plan)

    compiled = torch.compile(step, fullgraph=True, backend=backend)
    for lengths in (arguments[3], arguments[3].flip(0)):
        given = (*arguments[:3], lengths)
        assert torch.equal(compiled(*given), step(*given))


def test_new_shapes_are_compiled_anew():
    compiled = torch.compile(
        lambda q, k, v: flash_decode(q, k, v, num_splits=2), fullgraph=True, backend="aot_eager"
    )
    for Lk in (70, 130):
        q, k, v, _ = decode_inputs(DecodeShape("", "", B=Lk % 3 + 1, Lk=Lk), torch.float32, DEVICE)
        assert torch.equal(compiled(q, k, v), flash_decode(q, k, v, num_splits=2))


def test_a_wrong_call_is_told_in_a_compiled_step_too():
    arguments, _ = plain()
    compiled = torch.compile(
        lambda *x: flash_decode(*x, num_splits=0), fullgraph=True, backend="aot_eager"
    )
    with pytest.raises(Exception, match="num_splits must be at least 1; got 0"):
        compiled(*arguments)


@on_a_gpu
@pytest.mark.parametrize("kind", ["number", "size", "plan", "workspace"])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_a_cuda_graph_is_replayed_with_other_lengths(call, kind):
    """Captured once; lengths, queries and caches change in place, and the graph follows."""
    arguments, features = call()
    splits = with_splits(kind, arguments, features)
    q, k, v, lengths = (x.clone() for x in arguments)
    plan = splits.get("plan")

    def step():
        if plan is not None:
            flash_decode_plan(q, k, v, lengths, **features, out=plan)
        return flash_decode(q, k, v, lengths, **features, **splits, return_lse=True)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()  # compiles the kernels, outside the graph
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step()
    for change in ((130, 0, 67), (1, 0, 100), (0, 0, 0), (64, 0, 128)):
        lengths.copy_(torch.tensor(change))
        q.copy_(torch.randn(q.shape))
        for x in got:
            x.fill_(torch.nan)
        graph.replay()
        torch.cuda.synchronize()
        for x, y in zip(got, step(), strict=True):
            assert torch.equal(x, y)


def test_every_feature_is_right():
    """The result whose bits the tests above compare with is itself checked against the oracle."""
    for call in (every_feature, quantised):
        arguments, features = call()
        judge(Call(arguments, features, {}), num_splits=2)

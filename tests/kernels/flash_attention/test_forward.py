"""kernels.flash_attention: exact attention for any lengths, heads, strides and dtype."""

import math
from dataclasses import dataclass

import pytest
import torch
from shapes import DTYPES, HEAD_DIMS

from course.check.guards import empty_is_nan, guarded, poisoned
from kernels.flash_attention import flash_attention
from kernels.flash_attention import forward as module
from kernels.heuristics import Launch, choose_prefill_launch
from kernels.runtime import INTERPRETED, device
from reference.attention import attention, oracle
from reference.closeness import assert_close_to_oracle

DEVICE = device()


@dataclass(frozen=True)
class Shape:
    """One call of flash_attention, and why it is tested."""

    name: str
    reason: str
    B: int = 1
    Lq: int = 67
    Lk: int = 149
    Hq: int = 2
    Hkv: int = 1
    D: int = 32

    def __str__(self) -> str:
        return self.name


SHAPES = (
    Shape("one", "the softmax of one score is 1", Lq=1, Lk=1),
    Shape("Lk=1", "many queries, one key", Lk=1),
    Shape("Lk=0", "nothing to attend to, so nothing may be loaded", Lk=0),
    Shape("Lq=1", "decoding one token", Lq=1),
    Shape("Lq=16", "the last of the small tiles", Lq=16, Lk=70),
    Shape("Lq=17", "the first of the large ones", Lq=17, Lk=70),
    Shape("whole-tiles", "no tail anywhere", Lq=128, Lk=128, Hq=1),
    Shape("one-over", "one query and one key in the tail tiles", Lq=129, Lk=129, Hq=1),
    Shape("odd-tails", "primes"),
    Shape("Lq>Lk", "causal: whole tiles of queries see nothing", Lq=211, Lk=67, Hq=1),
    Shape("Lq>>Lk", "causal: only the last three queries see a key", Lq=130, Lk=3, Hq=1),
    Shape("MHA", "one KV head per query head", B=2, Lq=20, Lk=33, Hq=3, Hkv=3),
    Shape("G=3", "a group that is not a power of two", B=2, Lq=20, Lk=33, Hq=6, Hkv=2),
    Shape("MQA", "one KV head for all", Lq=20, Lk=33, Hq=5),
)


def inputs(shape, dtype, seed=0):
    """q, k, v, with a gap after each row of D numbers; all gaps and surroundings are NaN."""
    rng = torch.Generator().manual_seed(seed)
    q = torch.randn(shape.B, shape.Lq, shape.Hq, shape.D, generator=rng)
    k, v = torch.randn(2, shape.B, shape.Lk, shape.Hkv, shape.D, generator=rng)
    return tuple(guarded(x.to(DEVICE, dtype), row_gap=8).tensor for x in (q, k, v))


def judge(q, k, v, **arguments):
    """Run on poisoned memory; compare o and lse with the fp64 oracle."""
    with empty_is_nan():
        o, lse = flash_attention(q, k, v, return_lse=True, **arguments)
    assert o.shape == q.shape and o.dtype == q.dtype and o.is_contiguous()
    assert lse.shape == q.shape[:3] and lse.dtype == torch.float32
    o_base, lse_base = attention(q, k, v, return_lse=True, **arguments)
    o_true, lse_true = oracle(q, k, v, **arguments)
    assert_close_to_oracle(o, o_base, o_true)
    assert_close_to_oracle(lse, lse_base, lse_true, name="lse")
    return o, lse


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "all"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape(shape, causal):
    o, lse = judge(*inputs(shape, torch.float32), causal=causal)
    empty = max(shape.Lq - shape.Lk, 0) if causal or not shape.Lk else 0
    assert (o[:, :empty] == 0).all() and (lse[:, :empty] == -math.inf).all()
    assert lse[:, empty:].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape_in_16_bits(shape, dtype):
    judge(*inputs(shape, dtype), causal=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("D", HEAD_DIMS)
def test_every_head_dim(D, dtype):
    judge(*inputs(Shape("D", "", Lq=20, Lk=70, D=D), dtype), causal=True)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "all"])
@pytest.mark.parametrize("tiles", [(16, 64), (64, 16), (32, 32), (128, 32)], ids=str)
def test_tiles_of_any_proportion(tiles, causal, monkeypatch):
    launch = Launch(*tiles, block_d=16, num_warps=4, num_stages=2)
    monkeypatch.setattr(module, "choose_prefill_launch", lambda **_: launch)
    shape = Shape("tiles", "", Lq=83, Lk=101, Hq=1, D=16)
    judge(*inputs(shape, torch.float32), causal=causal)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shift", [-200.0, 200.0])
def test_logits_far_from_zero(shift, dtype):
    q, k, v = inputs(Shape("shift", "", D=16), dtype)
    q, k = q * 0.5, k * 0.5
    q[..., 0], k[..., 0] = 20.0, shift / 20
    judge(q, k, v, causal=True, scale=1.0)


@pytest.mark.parametrize("scale", [0.0, 0.7, -0.3, 3])
def test_any_scale(scale):
    _, lse = judge(*inputs(Shape("scale", ""), torch.float32), scale=scale)
    if scale == 0.0:
        torch.testing.assert_close(lse, torch.full_like(lse, math.log(149)))


def test_the_default_scale_is_one_over_root_d():
    q, k, v = inputs(Shape("D=40", "", Lq=5, Lk=9, D=40), torch.float32)
    assert torch.equal(flash_attention(q, k, v), flash_attention(q, k, v, scale=40**-0.5))


VIEWS = {
    "heads before length": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "length first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "a slice of a packed tensor": lambda x: torch.stack([x, x * math.nan], 2)[:, :, 0],
    "every other row": lambda x: torch.stack([x, x * math.nan], 2).flatten(1, 2)[:, ::2],
    "the same batch row": lambda x: x[:1].expand(x.shape),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_strides_change_no_bit(view):
    q, k, v = map(view, inputs(Shape("views", "", B=2, Lq=20, Lk=70, Hq=4, Hkv=2), torch.float16))
    o, lse = flash_attention(q, k, v, causal=True, return_lse=True)
    same = [x.contiguous() for x in (q, k, v)]
    wanted_o, wanted_lse = flash_attention(*same, causal=True, return_lse=True)
    assert torch.equal(o, wanted_o) and torch.equal(lse, wanted_lse)
    judge(q, k, v, causal=True)


def test_q_k_and_v_have_strides_of_their_own():
    q, k, v = inputs(Shape("strides", "", B=2, Lq=20, Lk=70, Hq=4, Hkv=2), torch.float32)
    judge(q.contiguous(), VIEWS["heads before length"](k), VIEWS["length first"](v), causal=True)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "all"])
def test_nothing_is_written_outside_of_o_and_lse(causal):
    shape = Shape("guards", "", B=2, Lq=21, Lk=35, Hq=3, D=24)
    q, k, v = inputs(shape, torch.float32)
    o = poisoned(tuple(q.shape), torch.float32, device=DEVICE)
    lse = poisoned(tuple(q.shape[:3]), torch.float32, device=DEVICE)
    launch = choose_prefill_launch(
        num_queries=21, head_dim=24, tensor_cores=False, interpreted=INTERPRETED
    )
    module.forward_call(q, k, v, o.tensor, lse.tensor, None, causal, 0.2, launch).launch(q.device)
    assert o.intact() and lse.intact()
    assert torch.equal(o.tensor, flash_attention(q, k, v, causal=causal, scale=0.2))
    assert lse.tensor.isfinite().all()


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # from the later rows, which do see the NaN
def test_tiles_that_nobody_sees_are_never_read():
    sizes = {"num_queries": 1000, "head_dim": 32, "tensor_cores": False}
    block_m = choose_prefill_launch(**sizes, interpreted=INTERPRETED).block_m
    shape = Shape("skip", "", Lq=2 * block_m, Lk=2 * block_m, Hq=1)
    q, k, v = inputs(shape, torch.float32)
    wanted = flash_attention(q, k, v, causal=True)[:, :block_m]
    k[:, block_m:] = v[:, block_m:] = math.nan  # a mask on p would not save us: 0 · NaN is NaN
    assert torch.equal(flash_attention(q, k, v, causal=True)[:, :block_m], wanted)


def test_a_group_of_heads_reads_one_kv_head():
    q, k, v = inputs(Shape("GQA", "", Lq=20, Lk=33, Hq=6, Hkv=2), torch.float32)
    repeated = [x.repeat_interleave(3, dim=2) for x in (k, v)]
    assert torch.equal(flash_attention(q, k, v), flash_attention(q, *repeated))


def test_permuting_the_batch_permutes_the_bits():
    q, k, v = inputs(Shape("batch", "", B=3, Lq=20, Lk=33), torch.float16)
    o, lse = flash_attention(q, k, v, causal=True, return_lse=True)
    order = [2, 0, 1]
    again = flash_attention(*(x[order] for x in (q, k, v)), causal=True, return_lse=True)
    assert torch.equal(again[0], o[order]) and torch.equal(again[1], lse[order])


@pytest.mark.parametrize("empty", [{"B": 0}, {"Lq": 0}], ids=str)
def test_nothing_asked_nothing_launched(empty):
    shape = Shape("empty", "", **empty)
    o, lse = flash_attention(*inputs(shape, torch.float32), return_lse=True)
    assert o.shape == (shape.B, shape.Lq, 2, 32) and lse.shape == (shape.B, shape.Lq, 2)


def tensors(q=(1, 4, 4, 16), k=(1, 8, 2, 16), v=(1, 8, 2, 16), dtypes=(torch.float32,) * 3):
    shapes = zip((q, k, v), dtypes, strict=True)
    return [torch.zeros(shape, dtype=dtype, device=DEVICE) for shape, dtype in shapes]


WRONG = {
    "rank": (ValueError, r"q must be \(B, Lq, Hq, D\).*\(4, 4, 16\)", {"q": (4, 4, 16)}),
    "v's shape": (
        ValueError,
        r"agree in \(B, Lk, Hkv\); got k \(1, 8.*\(1, 9",
        {"v": (1, 9, 2, 16)},
    ),
    "batch": (ValueError, r"one batch size.*\(2, 4, 4, 16\)", {"q": (2, 4, 4, 16)}),
    "D": (ValueError, r"one head dim.*\(1, 4, 4, 8\)", {"q": (1, 4, 4, 8)}),
    "heads": (ValueError, "Hq = 3 and Hkv = 2", {"q": (1, 4, 3, 16)}),
    "wide": (ValueError, "from 1 to 256", dict.fromkeys("qkv", (1, 1, 1, 257))),
    "fp64": (TypeError, "float64", {"dtypes": (torch.float64,) * 3}),
    "mixed": (TypeError, "one dtype", {"dtypes": (torch.float32, torch.float16, torch.float32)}),
}


@pytest.mark.parametrize(("error", "says", "given"), WRONG.values(), ids=WRONG)
def test_misuse_is_told(error, says, given):
    with pytest.raises(error, match=says):
        flash_attention(*tensors(**given))


def test_other_misuse_is_told():
    q, k, v = tensors()
    with pytest.raises(ValueError, match="must be contiguous in its last dimension"):
        flash_attention(q, torch.zeros(1, 8, 16, 2, device=DEVICE).transpose(2, 3), v)
    with pytest.raises(ValueError, match="finite"):
        flash_attention(q, k, v, scale=math.inf)
    with pytest.raises(ValueError, match="device"):
        flash_attention(q, k.to("meta"), v)
    with pytest.raises(ValueError, match="65535"):
        flash_attention(*(x.expand(65536, -1, -1, -1) for x in (q, k, v)))


@pytest.mark.parametrize("tensor_cores", [True, False])
@pytest.mark.parametrize("head_dim", [1, 16, 17, 64, 65, 128, 129, 256])
def test_the_launch_table_covers_every_head_dim(head_dim, tensor_cores):
    for num_queries, interpreted in [(1, False), (17, False), (17, True)]:
        sizes = {"num_queries": num_queries, "head_dim": head_dim, "tensor_cores": tensor_cores}
        launch = choose_prefill_launch(**sizes, interpreted=interpreted)
        assert head_dim <= launch.block_d < max(17, 2 * head_dim)
        no_room = head_dim > 128 and not (tensor_cores or interpreted)  # larger tiles spill
        assert (launch.block_m == 16) == (num_queries == 1 or no_room)
        assert min(launch.block_m, launch.block_n) >= 16  # the minimum for tl.dot
        for number in (launch.block_m, launch.block_n, launch.block_d, launch.num_warps):
            assert number & (number - 1) == 0

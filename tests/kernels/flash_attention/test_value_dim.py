"""Values of another width than keys, Dv ≠ D: forward, backward, packed, as operators."""

import math
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate

import pytest
import torch
from gradients import judge_gradients, leaves, random
from shapes import DTYPES

import reference.flash_attention_varlen as twin
from course.check.guards import empty_is_nan, poisoned
from kernels.flash_attention import flash_attention
from kernels.flash_attention import forward as forward_module
from kernels.flash_attention.backward import backward_calls, cores_of
from kernels.flash_attention.op import backward_op, forward_op
from kernels.flash_attention.tiles import choose_backward_tiles
from kernels.flash_attention_varlen import flash_attention_varlen
from kernels.heuristics import choose_prefill_launch
from kernels.runtime import INTERPRETED, device
from reference.attention import attention, oracle
from reference.closeness import assert_close_to_oracle

DEVICE = device()
WIDTHS = {  # (D, Dv): the name is the reason
    "MLA, not absorbed": (192, 128),
    "half as wide": (128, 64),
    "wider than keys": (64, 128),
    "the widest keys, the narrowest values": (256, 1),
    "the narrowest keys, the widest values": (1, 256),
    "one block of columns holds both": (24, 32),
    "neither fills its block": (40, 24),
    "GLM: full values, padded keys": (192, 256),
}
widths = pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS)
causals = pytest.mark.parametrize("causal", [True, False], ids=["causal", "all"])
NARROW, WIDE = (24, 16), (16, 40)
both_ways = pytest.mark.parametrize("widths", [NARROW, WIDE], ids=["Dv < D", "Dv > D"])
no_turing = pytest.mark.skipif(
    not INTERPRETED and cores_of(torch.device(DEVICE)) == "turing",
    reason="the backward of an sm_75 ends at head dims of 128",
)


@dataclass(frozen=True)
class Shape:
    """Lengths and heads of a call, and why they are tested."""

    name: str
    reason: str
    B: int = 1
    Lq: int = 20
    Lk: int = 70
    Hq: int = 2
    Hkv: int = 1

    def __str__(self) -> str:
        return self.name

    def keyless(self, causal: bool) -> int:
        """How many queries, from the first on, see no key."""
        return max(self.Lq - self.Lk, 0) if causal else 0


SHAPES = (
    Shape("one", "one key: o is its value", Lq=1, Lk=1),
    Shape("Lq=1", "the small tiles", Lq=1),
    Shape("whole-tiles", "no tail anywhere", Lq=64, Lk=128, Hq=1),
    Shape("Lq<Lk", "tails on both sides, the diagonal in the last tile", Lq=67, Lk=131),
    Shape("Lq>Lk", "causal: the first queries see nothing", Lq=70, Lk=3),
    Shape("MHA", "one KV head per query head", B=2, Hq=3, Hkv=3),
    Shape("G=3", "a group that is not a power of two", B=2, Hq=6, Hkv=2),
)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def inputs(shape, widths, dtype=torch.float32):
    """q, k, v and do, with NaN after each row of D or Dv numbers and around them all."""
    D, Dv = widths
    sizes = [(shape.Lq, shape.Hq, D), (shape.Lk, shape.Hkv, D), (shape.Lk, shape.Hkv, Dv)]
    sizes.append((shape.Lq, shape.Hq, Dv))
    x = [random(shape.B, *s, dtype=dtype, device=DEVICE, seed=i) for i, s in enumerate(sizes)]
    return x[:3], x[3]


def judge(q, k, v, **arguments):
    """Run on poisoned memory; compare o and lse with the fp64 oracle."""
    with empty_is_nan():
        o, lse = flash_attention(q, k, v, return_lse=True, **arguments)
    assert o.shape == (*q.shape[:3], v.shape[3]) and o.dtype == q.dtype and o.is_contiguous()
    base, true = attention(q, k, v, return_lse=True, **arguments), oracle(q, k, v, **arguments)
    for name, *three in zip(("o", "lse"), (o, lse), base, true, strict=True):
        assert_close_to_oracle(*three, name=name)
    return o, lse


def judge_both(x, do, keyless=0, **arguments):
    both = (partial(f, return_lse=True, **arguments) for f in (flash_attention, attention))
    judge_gradients(*both, x, (do, None), keyless=keyless)


def test_by_hand():
    """Equal scores: o is the mean of the values that a query sees, three columns of them."""
    q = k = torch.zeros(1, 2, 1, 2, device=DEVICE)
    v = torch.tensor([[2.0, 4.0, 6.0], [4.0, 8.0, 0.0]], device=DEVICE)[None, :, None]
    o, lse = flash_attention(q, k, v, causal=True, return_lse=True)
    assert o.tolist() == [[[[2.0, 4.0, 6.0]], [[3.0, 6.0, 3.0]]]]
    torch.testing.assert_close(lse.flatten().cpu(), torch.tensor([0.0, math.log(2)]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@widths
def test_every_width(widths, dtype):
    judge(*inputs(Shape("", ""), widths, dtype)[0], causal=True)


@causals
@both_ways
@shapes
def test_every_shape(shape, widths, causal):
    o, lse = judge(*inputs(shape, widths)[0], causal=causal)
    empty = shape.keyless(causal)
    assert not o[:, :empty].any() and (lse[:, :empty] == -math.inf).all()
    assert lse[:, empty:].isfinite().all()


@both_ways
def test_no_keys_at_all(widths):
    o, lse = judge(*inputs(Shape("Lk=0", "", Lk=0), widths)[0])
    assert not o.any() and (lse == -math.inf).all()


@no_turing
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@widths
def test_gradients_of_every_width(widths, dtype):
    x, do = inputs(Shape("", "", Hq=1), widths, dtype)
    judge_both(x, do, causal=True)


@causals
@both_ways
@shapes
def test_gradients_of_every_shape(shape, widths, causal):
    x, do = inputs(shape, widths)
    judge_both(x, do, shape.keyless(causal), causal=causal)


@both_ways
def test_gradients_by_finite_differences(widths):
    """dq, dk, dv and the slope of the fp64 loss along a random direction, which they must give."""
    x, do = inputs(Shape("", "", Lq=5, Lk=9), widths)
    fast = leaves(x)
    grads = torch.autograd.grad(flash_attention(*fast, causal=True), fast, do)
    for i, grad in enumerate(grads):
        step, loss = random(*x[i].shape, device=DEVICE, seed=20 + i).double(), []
        for distance in (1e-4, -1e-4):
            moved = [y.double() for y in x]
            moved[i] = moved[i] + distance * step
            loss.append((oracle(*moved, causal=True)[0] * do).sum())
        slope = (loss[0] - loss[1]) / 2e-4
        torch.testing.assert_close((grad * step).sum(), slope, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lse_too", [True, False], ids=["o and lse", "lse alone"])
def test_lse_has_a_gradient_too(lse_too):
    x, do = inputs(Shape("", "", Lq=9), NARROW)
    dlse = random(1, 9, 2, device=DEVICE, seed=9)
    found = []
    for f, dtype in ((flash_attention, None), (attention, torch.float64)):
        y = leaves(x, dtype)
        o, lse = f(*y, return_lse=True)
        loss = (lse * dlse).sum() + ((o * do).sum() if lse_too else 0)
        found.append([g.float() for g in torch.autograd.grad(loss, y, materialize_grads=True)])
    torch.testing.assert_close(*found)


VIEWS = {
    "heads before length": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "columns of a wider tensor": lambda x: torch.cat([x * math.nan, x], 3)[..., x.shape[3] :],
    "every other row": lambda x: torch.stack([x, x * math.nan], 2).flatten(1, 2)[:, ::2],
    "the same batch row": lambda x: x[:1].expand(x.shape),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_strides_of_v_change_no_bit(view):
    (q, k, v), do = inputs(Shape("", "", B=2, Hq=4, Hkv=2), NARROW, torch.float16)
    v, do = view(v), view(do)
    found = []
    for values, weights in ((v, do), (v.contiguous(), do.contiguous())):
        x = leaves((q, k, values))
        o = flash_attention(*x, causal=True)
        found.append((o, *torch.autograd.grad(o, x, weights)))
    assert all(map(torch.equal, *found))
    judge(q, k, v, causal=True)


def test_keys_and_values_are_columns_of_one_tensor():
    """As MLA has them: (Lk, Hkv, D + Dv) comes from one projection."""
    (q, k, v), do = inputs(Shape("", "", B=2, Hq=2, Hkv=2), NARROW)
    k, v = torch.cat([k, v], 3).split(NARROW, 3)
    judge(q, k, v, causal=True)
    judge_both((q, k, v), do, causal=True)


@causals
@both_ways
def test_nothing_is_written_outside(widths, causal):
    (q, k, v), do = inputs(Shape("guards", "", B=2, Lq=21, Lk=35, Hq=3), widths)
    o = poisoned((*q.shape[:3], v.shape[3]), torch.float32, device=DEVICE)
    lse = poisoned(tuple(q.shape[:3]), torch.float32, device=DEVICE)
    asked = {"head_dim": widths[0], "value_dim": widths[1], "interpreted": INTERPRETED}
    launch = choose_prefill_launch(num_queries=21, tensor_cores=False, **asked)
    settings = o.tensor, lse.tensor, None, causal, 0.2, launch
    forward_module.forward_call(q, k, v, *settings).launch(q.device)
    grads = [poisoned(tuple(x.shape), x.dtype, device=DEVICE) for x in (q, k, v)]
    tiles = choose_backward_tiles(element_size=4, cores="ampere", **asked)
    outputs = tuple(g.tensor for g in grads)
    given = o.tensor, lse.tensor, do, None, outputs, None, 0.2, causal, tiles
    for call in backward_calls(q, k, v, *given):
        call.launch(q.device)
    assert o.intact() and lse.intact() and all(g.intact() for g in grads)
    x = leaves((q, k, v))
    wanted = flash_attention(*x, causal=causal, scale=0.2)
    assert torch.equal(o.tensor, wanted)
    assert all(map(torch.equal, outputs, torch.autograd.grad(wanted, x, do)))


# Packed sequences: lengths of q and of k; some empty, one with more queries than keys.
LENGTHS = ([5, 0, 67, 9], [9, 4, 70, 3])


def packed(widths, dtype=torch.float32, Hq=2, Hkv=1):
    totals = [sum(n) for n in LENGTHS]
    (q, k, v), do = inputs(Shape("", "", 1, *totals, Hq, Hkv), widths, dtype)
    cu = (torch.tensor([*accumulate(n, initial=0)], dtype=torch.int32) for n in LENGTHS)
    return [q[0], k[0], v[0]], do[0], (*(c.to(DEVICE) for c in cu), *map(max, LENGTHS))


@causals
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@both_ways
def test_packed(widths, dtype, causal):
    x, do, sequences = packed(widths, dtype)

    def attend(f, q, k, v):
        o, lse = f(q[0], k[0], v[0], *sequences, causal=causal, return_lse=True)
        return o[None], lse[None]

    both = [partial(attend, f) for f in (flash_attention_varlen, twin.flash_attention_varlen)]
    with empty_is_nan():
        got = both[0](*(y[None] for y in x))
    assert got[0].shape == (1, x[0].shape[0], 2, widths[1]) and got[0].is_contiguous()
    base, true = (both[1](*(y[None].to(t) for y in x)) for t in (dtype, torch.float64))
    for name, *three in zip(("o", "lse"), got, base, true, strict=True):
        assert_close_to_oracle(*three, name=name)
    judge_gradients(*both, [y[None] for y in x], (do[None], None))


def test_a_packed_sequence_gives_the_bits_that_it_gives_alone():
    (q, k, v), _, sequences = packed(NARROW, torch.float16)
    o = flash_attention_varlen(q, k, v, *sequences, causal=True)
    alone = flash_attention(q[None, 5:72], k[None, 13:83], v[None, 13:83], causal=True)
    assert torch.equal(o[None, 5:72], alone)


def padded(widths):
    x, do = inputs(Shape("", "", Lq=5, Lk=9), widths)
    return x, do, (None, None, 0, 0)


@pytest.mark.parametrize(("layout", "widths"), [(padded, NARROW), (packed, WIDE)])
def test_the_operators_keep_what_they_promise(layout, widths):
    """PyTorch's own checks of the schema, fake, autograd and tracing."""
    x, do, where = layout(widths)
    if layout is packed:
        x, do = [y[None].contiguous() for y in x], do[None]
    settings = (*where, True, 0.3)
    torch.library.opcheck(forward_op, (*leaves(x), *settings))
    o, lse = forward_module.forward(*x, *settings)
    torch.library.opcheck(backward_op, (do, None, *x, o, lse, *settings))


CALLS = [(padded, NARROW, False), (padded, WIDE, True), (packed, NARROW, True)]


@pytest.mark.parametrize(("layout", "widths", "dynamic"), CALLS)
def test_compiles_into_one_graph(layout, widths, dynamic):
    x, do, sequences = layout(widths)
    attend = partial(flash_attention, causal=True, return_lse=True)
    if layout is packed:

        def attend(q, k, v):
            return flash_attention_varlen(q, k, v, *sequences, causal=True, return_lse=True)

    def loss(q, k, v):
        o, lse = attend(2 * q, k, 3 * v)
        return o, (o * do).sum() + lse.clamp(min=-9).sum()

    found = []
    for run in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)):
        y = leaves(x)
        o, value = run(*y)
        found.append((o, value, *torch.autograd.grad(value, y)))
    assert all(map(torch.equal, *found))


def test_misuse_names_dv():
    q, k, v = (torch.zeros(1, n, 2, 16, device=DEVICE) for n in (4, 8, 8))
    for wrong, says in {
        (1, 8, 2, 257): r"value dim Dv must be from 1 to 256; got v \(1, 8, 2, 257\)",
        (1, 8, 2, 0): r"value dim Dv must be from 1 to 256; got v \(1, 8, 2, 0\)",
        (1, 7, 2, 24): r"agree in \(B, Lk, Hkv\); got k \(1, 8, 2, 16\) and v \(1, 7, 2, 24\)",
        (1, 8, 1, 16): r"agree in \(B, Lk, Hkv\); got k \(1, 8, 2, 16\) and v \(1, 8, 1, 16\)",
        (8, 2, 24): r"v must be \(B, Lk, Hkv, Dv\), four dimensions; got \(8, 2, 24\)",
    }.items():
        with pytest.raises(ValueError, match=says):
            flash_attention(q, k, torch.zeros(wrong, device=DEVICE))
    turned = torch.zeros(1, 8, 24, 2, device=DEVICE).transpose(2, 3)
    with pytest.raises(ValueError, match="v must be contiguous in its last dimension"):
        flash_attention(q, k, turned)
    cu = [torch.tensor([0, n], dtype=torch.int32, device=DEVICE) for n in (4, 8)]
    with pytest.raises(ValueError, match=r"v must be \(Tk, Hkv, Dv\).*got \(1, 8, 2, 16\)"):
        flash_attention_varlen(q[0], k[0], v, *cu, 4, 8)


@pytest.mark.parametrize("tensor_cores", [True, False])
@widths
def test_the_launch_tables_see_both_widths(widths, tensor_cores):
    """The wider one decides, but for few columns of acc; each has a block of its own."""
    D, Dv = widths
    for small in (True, False):
        asked = {"num_queries": 4096, "tensor_cores": tensor_cores, "small": small}
        launch = choose_prefill_launch(head_dim=D, value_dim=Dv, **asked)
        assert D <= launch.block_d < max(17, 2 * D) and Dv <= launch.block_dv < max(17, 2 * Dv)
        square = choose_prefill_launch(head_dim=max(widths), value_dim=max(widths), **asked)
        assert square.block_d == square.block_dv
        if tensor_cores and D > 128 >= Dv:  # as many queries as at D = 128, half as many keys
            square = replace(square, block_m=128, block_n=32)
        assert replace(launch, block_d=square.block_d, block_dv=square.block_dv) == square
    for cores in ("ampere", "amd", "hopper"):
        asked = {"element_size": 2 if tensor_cores else 4, "cores": cores}
        mine = choose_backward_tiles(head_dim=D, value_dim=Dv, **asked)
        whole = choose_backward_tiles(head_dim=max(widths), **asked)
        for tiles, even in zip(mine, whole, strict=True):
            assert min(tiles.block_m, tiles.block_n) >= 16
            assert tiles.block_m * tiles.block_n <= even.block_m * even.block_n

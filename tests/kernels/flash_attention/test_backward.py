"""The gradients of kernels.flash_attention: any lengths, heads, strides and dtype."""

import math
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from gradients import autograd, judge_gradients, leaves, random
from shapes import DTYPES

import kernels.flash_attention.backward as module
from course.check.guards import poisoned
from kernels.flash_attention import flash_attention
from kernels.flash_attention.backward import backward, backward_calls
from kernels.flash_attention.tiles import BackwardTiles, Tiles, choose_backward_tiles
from kernels.runtime import device
from reference.attention import attention, oracle
from reference.closeness import assert_close_to_oracle

DEVICE = device()


@dataclass(frozen=True)
class Shape:
    """One backward pass, and why it is tested."""

    name: str
    reason: str
    B: int = 1
    Lq: int = 67
    Lk: int = 149
    Hq: int = 2
    Hkv: int = 1
    D: int = 16

    def __str__(self) -> str:
        return self.name

    def keyless(self, causal: bool) -> int:
        """How many queries, from the first on, see no key."""
        return max(self.Lq - self.Lk, 0) if causal else 0


SHAPES = (
    Shape("one", "p is 1 and ds is 0", Lq=1, Lk=1),
    Shape("Lk=1", "many queries, one key", Lk=1),
    Shape("Lq=1", "one query sees all", Lq=1),
    Shape("whole-tiles", "no tail anywhere", Lq=64, Lk=128, Hq=1),
    Shape("one-over", "one query and one key in the tail tiles", Lq=65, Lk=65, Hq=1),
    Shape("odd-tails", "primes, and two heads per group"),
    Shape("Lq>Lk", "causal: whole tiles of queries see nothing", Lq=149, Lk=67, Hq=1),
    Shape("Lq>>Lk", "causal: only the last three queries see a key", Lq=70, Lk=3, Hq=1),
    Shape("MHA", "one KV head per query head", B=2, Lq=20, Lk=33, Hq=3, Hkv=3),
    Shape("G=3", "a group that is not a power of two", B=2, Lq=20, Lk=33, Hq=6, Hkv=2),
    Shape("G=3, tiles", "three heads, each with a diagonal and full tiles", Lq=140, Lk=140, Hq=3),
)


def inputs(shape, dtype=torch.float32):
    """q, k, v, do, dlse, with NaN around each row of D numbers."""
    sizes = [(shape.Lq, shape.Hq), (shape.Lk, shape.Hkv), (shape.Lk, shape.Hkv)]
    sizes = [(shape.B, *size, shape.D) for size in (*sizes, sizes[0])]
    q, k, v, do = (random(*s, dtype=dtype, device=DEVICE, seed=i) for i, s in enumerate(sizes))
    return (q, k, v), (do, random(*q.shape[:3], device=DEVICE, seed=9))


def judge(x, weights, keyless=0, **arguments):
    both = (partial(f, return_lse=True, **arguments) for f in (flash_attention, attention))
    return judge_gradients(*both, x, weights, keyless=keyless)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "all"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape(shape, causal):
    x, weights = inputs(shape)
    judge(x, (weights[0], None), shape.keyless(causal), causal=causal)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("shape", SHAPES[4:7] + SHAPES[9:10], ids=str)
def test_in_16_bits(shape, dtype):
    x, weights = inputs(shape, dtype)
    judge(x, (weights[0], None), shape.keyless(True), causal=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("D", [1, 40, 64, 128])
def test_every_head_dim(D, dtype):
    x, weights = inputs(Shape("D", "", Lq=20, Lk=70, Hq=1, D=D), dtype)
    judge(x, (weights[0], None), causal=True)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "all"])
@pytest.mark.parametrize("tiles", [(16, 64), (64, 16), (32, 32)], ids=str)
def test_tiles_of_any_proportion(tiles, causal, monkeypatch):
    chosen = BackwardTiles(Tiles(*tiles, 4, 2), Tiles(*tiles, 4, 2))
    monkeypatch.setattr(module, "choose_backward_tiles", lambda **_: chosen)
    for shape in (Shape("", "", Lq=83, Lk=101), Shape("", "", Lq=101, Lk=83, Hq=1)):
        x, weights = inputs(shape)
        judge(x, (weights[0], None), shape.keyless(causal), causal=causal)


@pytest.mark.parametrize("shape", [SHAPES[5], SHAPES[6], SHAPES[9]], ids=str)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_lse_has_a_gradient_too(shape, dtype):
    x, weights = inputs(shape, dtype)
    both = judge(x, weights, shape.keyless(True), causal=True)[2]
    only_o = autograd(partial(flash_attention, causal=True, return_lse=True), leaves(x),
                      (weights[0], None))[2]  # fmt: skip
    assert not torch.equal(both[0], only_o[0])
    assert torch.equal(both[2], only_o[2])  # lse does not depend on v


def test_the_gradient_of_lse_alone():
    x, (_, dlse) = inputs(Shape("lse", "", Lq=9, Lk=20))
    q, k, v = leaves(x)
    flash_attention(q, k, v, return_lse=True)[1].backward(dlse)
    y = leaves(x, torch.float64)
    oracle(*y)[1].backward(dlse.double())
    torch.testing.assert_close(q.grad, y[0].grad.float())
    torch.testing.assert_close(k.grad, y[1].grad.float())
    assert not v.grad.any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shift", [-200.0, 200.0])
def test_logits_far_from_zero(shift, dtype):
    (q, k, v), weights = inputs(Shape("shift", "", Lq=20, Lk=70, Hq=1), dtype)
    q, k = q * 0.5, k * 0.5
    q[..., 0], k[..., 0] = 20.0, shift / 20
    judge((q, k, v), (weights[0], None), causal=True, scale=1.0)


@pytest.mark.parametrize("scale", [0.0, 0.7, -0.3])
def test_any_scale(scale):
    x, weights = inputs(Shape("scale", "", Lq=20, Lk=70, Hq=1))
    grads = judge(x, (weights[0], None), scale=scale)[2]
    if scale == 0.0:  # all keys weigh the same, whatever q and k are
        assert not grads[0].any() and not grads[1].any()


VIEWS = {
    "heads before length": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "a slice of a packed tensor": lambda x: torch.stack([x, x * math.nan], 2)[:, :, 0],
    "every other row": lambda x: torch.stack([x, x * math.nan], 2).flatten(1, 2)[:, ::2],
    "D not contiguous": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "one number": lambda x: torch.full_like(x[:1, :1, :1, :1], 0.5).expand(x.shape),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_strides_change_no_bit(view):
    x, (do, _) = inputs(Shape("views", "", B=2, Lq=20, Lk=70, Hq=4, Hkv=2), torch.float16)
    do = view(do)
    if view not in (VIEWS["D not contiguous"], VIEWS["one number"]):  # only do may be like that
        x = [view(y) for y in x]
    attend = partial(flash_attention, causal=True, return_lse=True)
    strided = autograd(attend, leaves(x), (do, None))[2]
    plain = autograd(attend, leaves([y.contiguous() for y in x]), (do.contiguous(), None))[2]
    assert all(map(torch.equal, strided, plain)) and all(g.isfinite().all() for g in strided)


def test_two_runs_give_the_same_bits_and_permuting_the_batch_permutes_them():
    x, weights = inputs(Shape("bits", "", B=3, Lq=20, Lk=70), torch.bfloat16)
    attend = partial(flash_attention, causal=True, return_lse=True)
    first, second = (autograd(attend, leaves(x), weights)[2] for _ in range(2))
    order = [2, 0, 1]
    mixed = [y[order] for y in (*x, *weights)]
    permuted = autograd(attend, leaves(mixed[:3]), tuple(mixed[3:]))[2]
    assert all(map(torch.equal, first, second))
    assert all(torch.equal(a[order], b) for a, b in zip(first, permuted, strict=True))


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "all"])
def test_nothing_is_written_outside_of_the_gradients(causal):
    (q, k, v), (do, dlse) = inputs(Shape("guards", "", B=2, Lq=21, Lk=35, Hq=3, D=24))
    o, lse = flash_attention(q, k, v, causal=causal, scale=0.2, return_lse=True)
    grads = [poisoned(tuple(x.shape), x.dtype, device=DEVICE) for x in (q, k, v)]
    tiles = choose_backward_tiles(head_dim=24, element_size=4, cores="ampere", interpreted=True)
    tensors = tuple(g.tensor for g in grads)
    for call in backward_calls(
        q, k, v, o, lse, do, dlse.contiguous(), tensors, None, 0.2, causal, tiles
    ):
        call.launch(q.device)
    wanted = backward(q, k, v, o, lse, do, dlse, None, causal, 0.2)
    assert all(g.intact() for g in grads)
    assert all(map(torch.equal, tensors, wanted))


def test_head_dims_of_k_and_v_may_differ():
    """Also after another forward pass: o and lse come from naive attention in fp32."""
    sizes = ((20, 24), (70, 24), (70, 40), (20, 40))
    q, k, v, do = (random(1, L, 2, D, device=DEVICE, seed=i) for i, (L, D) in enumerate(sizes))
    o, lse = attention(q, k, v, causal=True, return_lse=True)
    got = backward(q, k, v, o, lse, do, None, None, True, 24**-0.5)
    naive = partial(attention, causal=True, return_lse=True)
    base, true = (
        autograd(naive, leaves((q, k, v), t), (do, None))[2] for t in (None, torch.double)
    )
    for name, *three in zip("qkv", got, base, true, strict=True):
        assert_close_to_oracle(*three, name=f"d{name}")


@pytest.mark.filterwarnings("ignore:All-NaN slice")
def test_tiles_that_nobody_sees_are_never_read():
    x, (do, _) = inputs(Shape("skip", "", Lq=128, Lk=128, Hq=1))
    attend = partial(flash_attention, causal=True, return_lse=True)
    wanted = autograd(attend, leaves(x), (do, None))[2]
    x[1][:, 64:] = x[2][:, 64:] = math.nan  # keys hidden from the first tile of queries
    got = autograd(attend, leaves(x), (do, None))[2]
    assert torch.equal(got[0][:, :64], wanted[0][:, :64])


@pytest.mark.parametrize("empty", [{"B": 0}, {"Lq": 0}, {"Lk": 0}], ids=str)
def test_nothing_asked_nothing_launched(empty):
    x, (do, _) = inputs(Shape("empty", "", **empty))
    grads = autograd(partial(flash_attention, return_lse=True), leaves(x), (do, None))[2]
    for g, y in zip(grads, x, strict=True):
        assert g.shape == y.shape and not g.any()


@pytest.mark.parametrize("cores", ["hopper", "ampere", "amd", "turing"])
@pytest.mark.parametrize("head_dim", [1, 64, 65, 128, 129, 256])
def test_the_table_covers_every_head_dim(head_dim, cores):
    for size in (2, 4):
        sizes = {"head_dim": head_dim, "element_size": size, "cores": cores}
        if cores == "turing" and head_dim > 128:
            with pytest.raises(ValueError, match=r"above 128 need .*got \(129|\(256"):
                choose_backward_tiles(**sizes)
            continue
        tiles = choose_backward_tiles(**sizes)
        for number in (n for t in tiles for n in t[:3]):
            assert number & (number - 1) == 0
        assert all(min(t.block_m, t.block_n) >= 16 for t in tiles)  # the minimum for tl.dot

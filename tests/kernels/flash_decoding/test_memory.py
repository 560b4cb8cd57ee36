"""kernels.flash_decoding: where keys and values are stored, and how wide they are."""

import math

import pytest
import torch
from decode_calls import DEVICE, Call, judge, plain_call, to
from poison import paged, wild
from shapes import DTYPES

from kernels.flash_decoding import flash_decode
from reference.quantization import quantize


def same(got, wanted):
    return all(torch.equal(x, y) for x, y in zip(got, wanted, strict=True))


# ---- Head dims, MLA --------------------------------------------------------------------------


@pytest.mark.parametrize("Hq", [1, 3], ids=["sum", "dot"])
@pytest.mark.parametrize(
    ("D", "Dv"), [(192, 128), (40, 80), (80, 40), (96, 192), (1, 3), (256, 17), (40, 256)], ids=str
)
def test_values_of_another_width(D, Dv, Hq):
    dtype = torch.bfloat16 if D > 64 else torch.float32
    judge(plain_call((130, 5), Hq=Hq, D=D, Dv=Dv, dtype=dtype), num_splits=2)


def latent_call(dtype, D=576, Dv=512, **features):
    """MLA: one head whose values are the first columns of its keys."""
    call = plain_call((70, 0, 9), Hq=16, D=D, dtype=dtype, **features)
    q, k, _, lengths = call.arguments
    return Call((q, k, k[..., :Dv], lengths), call.features, {"causal": True, "scale": 0.05})


@pytest.mark.parametrize("num_splits", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_latent_that_keys_and_values_share(dtype, num_splits):
    """The same bits as with a separate cache of values."""
    call = latent_call(dtype)
    got = judge(call, num_splits=num_splits)
    q, k, v, lengths = call.arguments
    apart = Call((q, k, v.clone(), lengths), call.features, call.options)
    assert same(judge(apart, num_splits=num_splits), got)


@pytest.mark.parametrize(("D", "Dv"), [(576, 500), (513, 512), (300, 257), (64, 40), (64, 20)])
def test_latents_of_other_widths(D, Dv):
    """Rounded up to a power of two, some must read their values separately; others need not."""
    call = latent_call(torch.float32, D, Dv)
    got = judge(call, num_splits=2)
    q, k, v, lengths = call.arguments
    apart = Call((q, k, v.clone(), lengths), call.features, call.options)
    torch.testing.assert_close(judge(apart, num_splits=2), got, rtol=1e-5, atol=1e-5)


def test_values_that_begin_where_the_keys_do():
    """The same address but other strides: these are not columns of the keys."""
    wide = torch.randn(2, 140, 1, 32, device=DEVICE)
    k, v = wide[:, :70], wide[:, ::2]
    assert k.data_ptr() == v.data_ptr() and k.shape == v.shape
    q = torch.randn(2, 1, 3, 32, device=DEVICE)
    judge(Call((q, k, v, None), {}, {}), num_splits=2)


@pytest.mark.parametrize("per", ["tensor", "token"])
def test_a_quantised_latent_with_two_scales(per):
    """Keys and values share the stored numbers, but not their scale."""
    k = torch.randn(2, 70, 1, 576, generator=torch.Generator().manual_seed(0))
    stored, k_scale = quantize(k, torch.int8, per=per)
    stored, k_scale = to(stored), to(k_scale)
    q = torch.randn(2, 1, 4, 576, device=DEVICE)
    features = {"k_scale": k_scale, "v_scale": 3 * k_scale.flip(0) if per == "token" else k_scale}
    call = Call((q, stored, stored[..., :512], None), features, {"scale": 0.05})
    judge(call, num_splits=2)


# ---- Pages -----------------------------------------------------------------------------------


def paged_call(size, **features):
    """A call with rows in pages; the table is a view of a wider one, its dead entries are wild."""
    call = plain_call((250, 0, 66), Hq=4, Hkv=2, Lq=2, **features)  # room for 255 keys per row
    q, k, v, lengths = (x.cpu() for x in call.arguments)
    tensors = [torch.nn.functional.pad(x, (0, 0, 0, 0, 0, 1), value=math.nan) for x in (k, v)]
    live = ~tensors[0].isnan().any(-1).any(-1)
    rng = torch.Generator().manual_seed(size)
    (k, v), table = paged(tensors, live, size, rng)
    none = wild(len(k))
    wide = none[torch.randint(len(none), (3, table.shape[1] + 2), generator=rng)].int()
    wide[:, 1:-1] = table
    features = call.features | {"block_table": wide.to(DEVICE)[:, 1:-1]}
    return call, Call((to(q), to(k), to(v), to(lengths)), features, call.options)


@pytest.mark.parametrize("size", [1, 2, 3, 12, 16, 32, 48, 64, 100, 128, 192, 256, 528])
@pytest.mark.parametrize("feature", ["plain", "window", "cache_leftpad"])
def test_pages_hold_what_a_row_would(feature, size):
    """Bit for bit: only the place in memory differs. Pages before the window are wild, too."""
    value = {"window": 70, "cache_leftpad": torch.tensor([129, 3, 66]).int()}
    rows, pages = paged_call(size, **({feature: value[feature]} if feature in value else {}))
    assert same(judge(pages, split_size=128), judge(rows, split_size=128))


def test_a_page_in_many_rows():
    """What rows have in common is stored once. int64 tables are used as they are."""
    k, v = torch.randn(2, 5, 64, 2, 16, device=DEVICE)
    table = torch.tensor([[2, 4, 0], [2, 4, 1], [2, 2, 2]], device=DEVICE)
    lengths = torch.tensor([150, 192, 140], device=DEVICE)
    q = torch.randn(3, 1, 4, 16, device=DEVICE)
    got = judge(Call((q, k, v, lengths), {"block_table": table}, {}), num_splits=2)
    rows = [x[table].flatten(1, 2) for x in (k, v)]
    assert same(flash_decode(q, *rows, lengths, num_splits=2, return_lse=True), got)


def test_rows_of_the_cache_chosen_by_index():
    """A cache with more rows than the batch, or fewer; a row may be read twice."""
    call = plain_call((130, 130, 130), Hq=2, Hkv=2)
    q, k, v, lengths = call.arguments
    for rows in ([2, 0], [1, 1, 1], [2, 1, 0, 0]):
        index = torch.tensor(rows, device=DEVICE)
        queries = q[:1].expand(len(rows), -1, -1, -1)
        features = {"cache_batch_idx": index}
        got = judge(Call((queries, k, v, lengths[index]), features, {}), num_splits=2)
        wanted = flash_decode(
            queries, k[index], v[index], lengths[index], num_splits=2, return_lse=True
        )
        assert same(got, wanted)


# ---- Strides ---------------------------------------------------------------------------------


def test_every_tensor_may_be_a_view():
    rng = torch.Generator().manual_seed(0)
    B, Lq, Hq, Hkv, Lk, D = 3, 2, 4, 2, 70, 16

    def view(*shape):
        """Dimensions in another order in memory, with NaN before and after."""
        wide = torch.full([n + 2 for n in reversed(shape[:-1])] + [shape[-1] + 2], math.nan)
        inner = wide[tuple(slice(1, -1) for _ in shape)]
        inner.copy_(torch.rand(inner.shape, generator=rng))
        order = [*reversed(range(len(shape) - 1)), len(shape) - 1]
        return wide.to(DEVICE).permute(order)[tuple(slice(1, -1) for _ in shape)]

    k_scale, v_scale = (view(B, Lk, Hkv, 2)[..., 0] for _ in "kv")  # a stride in each dimension
    bytes_ = torch.randint(-127, 128, (2, Lk, B, Hkv, D), generator=rng).to(torch.int8)
    k, v = (x.to(DEVICE).transpose(0, 1) for x in bytes_)
    features = {"k_scale": k_scale, "v_scale": v_scale, "mask": view(B, Lq, Lq)}
    features |= {"alibi_slopes": view(B, Hq)}
    q = view(B, Lq, Hq, D)
    assert not any(x.is_contiguous() for x in (q, k, v, *features.values()))
    lengths = torch.tensor([70, 0, 65], device=DEVICE)
    judge(Call((q, k, v, lengths), features, {"scale": 0.01}), num_splits=2)


def test_one_number_for_all_rows():
    """Expanded tensors have strides of 0."""
    call = plain_call((70, 9), Lq=2, Hq=4, Hkv=2)
    q, k, v, lengths = call.arguments
    features = {
        "mask": torch.randn(1, 2, 2, device=DEVICE).expand(2, 2, 2),
        "alibi_slopes": torch.rand(1, 4, device=DEVICE).expand(2, 4),
        "block_table": torch.zeros(1, 1, dtype=torch.int32, device=DEVICE).expand(2, 1),
    }
    tensors = [torch.nn.functional.pad(x[:1, :70], (0, 0, 0, 0, 0, 58)) for x in (k, v)]
    judge(Call((q, *tensors, lengths), features, {}), num_splits=2)
    judge(Call((q, k[:1].expand_as(k), v[:1].expand_as(v), lengths), {}, {}), num_splits=2)


def test_pages_beyond_32_bits():
    """The third page begins 2^31 elements after the first."""
    shape, strides = (3, 16, 1, 16), (2**30, 16, 16, 1)
    rng = torch.Generator().manual_seed(0)
    buffer = torch.empty(2**31 + 2**10, dtype=torch.int8, device=DEVICE)
    k = buffer.as_strided(shape, strides)
    k.copy_(torch.randint(-127, 128, shape, generator=rng).to(torch.int8))
    scales = (torch.rand(3, 16, 1, generator=rng) / 100).to(DEVICE)
    table = torch.tensor([[2, 0], [1, 2]], device=DEVICE).int()
    q = torch.randn(2, 1, 2, 16, generator=rng).to(DEVICE)
    features = {"k_scale": scales, "v_scale": scales, "block_table": table}
    judge(Call((q, k, k, torch.tensor([30, 20], device=DEVICE)), features, {}), num_splits=1)

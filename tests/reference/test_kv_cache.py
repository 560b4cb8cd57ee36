"""reference.kv_cache: every token in its place, rotated by its angle; nothing else is touched."""

import doctest

import pytest
import torch
from appends import (
    APPENDS,
    Append,
    arguments,
    expected,
    one_rounding,
    rotate_fp64,
    untouched_but_for,
)

from reference import kv_cache as module
from reference.attention import attention, oracle
from reference.kv_cache import append_kv, rotary_table, rotate
from reference.quantization import LARGEST, dequantize

# Every case in fp32 and in bf16, which rounds most coarsely; the first in fp16.
EACH = [(case, dtype) for case in APPENDS for dtype in (torch.float32, torch.bfloat16)]
EACH.append((APPENDS[0], torch.float16))


@pytest.mark.parametrize(("case", "dtype"), EACH, ids=str)
def test_every_token_at_its_place(case, dtype):
    given, buffers = arguments(case, dtype, "cpu")
    q = append_kv(**given)
    k_true, v_true, written, q_true = expected(case, given)
    for buffer, cache, true in zip(buffers, ("k_cache", "v_cache"), (k_true, v_true), strict=True):
        assert untouched_but_for(buffer, written), cache
        got = given[cache][written]
        assert ((got - true[written]).abs() <= one_rounding(true[written], dtype)).all(), cache
    assert torch.equal(given["v_cache"][written].double(), v_true[written])
    if case.R:
        assert q.dtype == dtype and ((q - q_true).abs() <= one_rounding(q_true, dtype)).all()
    else:
        assert q is None


def test_scores_depend_on_the_distance_alone():
    """The point of it all: the score is the same at positions 3 and 10 as at 53 and 60."""
    q, k = torch.randn(2, 1, 1, 16, dtype=torch.float64, generator=torch.manual_seed(0))
    cos, sin = (table.double() for table in rotary_table(64, 16))
    for interleaved in (False, True):
        scores = [
            (
                rotate(q, cos[[p + 7]], sin[[p + 7]], interleaved=interleaved)
                * rotate(k, cos[[p]], sin[[p]], interleaved=interleaved)
            ).sum()
            for p in (3, 53)
        ]
        assert (scores[0] - scores[1]).abs() < 1e-6  # the tables are fp32


def test_the_table_holds_the_angles_of_the_paper():
    cos, sin = rotary_table(40, 6, base=100.0)
    for p, i in ((0, 0), (39, 0), (39, 1), (17, 2)):
        angle = torch.tensor(p * 100.0 ** (-2 * i / 6), dtype=torch.float64)
        assert torch.equal(torch.stack((cos[p, i], sin[p, i])), angle.cos().new_tensor(
            [angle.cos(), angle.sin()]).float())  # fmt: skip
    for R in (0, 3):
        with pytest.raises(ValueError, match=f"even and at least 2; got {R}"):
            rotary_table(4, R)


def test_token_by_token_is_the_whole_prompt():
    """Five decoding steps give the same cache and the same answers as one prefill."""
    rng = torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 5, 2, 8, generator=rng)
    cos, sin = rotary_table(5, 8)
    tables = {"rotary_cos": cos, "rotary_sin": sin}
    whole, steps = torch.zeros(2, 2, 2, 5, 2, 8)
    rotated = append_kv(*whole, k, v, q=q, **tables)
    o = attention(rotated, *whole, causal=True)
    for i in range(5):
        now = torch.tensor([i, i])
        new = [x[:, i : i + 1] for x in (q, k, v)]
        q_i = append_kv(*steps, *new[1:], now, q=new[0], **tables)
        assert torch.equal(q_i, rotated[:, i : i + 1])
        o_i = attention(q_i, *steps[:, :, : i + 1], causal=True)
        assert torch.allclose(o_i[:, 0], o[:, i], atol=1e-6)
    assert torch.equal(whole, steps)
    assert torch.allclose(o.double(), oracle(rotated, *whole, causal=True)[0], atol=1e-6)


@pytest.mark.parametrize("dtype", LARGEST, ids=str)
def test_a_cache_of_eight_bits(dtype):
    case = Append("eight", "", starts=(5, 0), Ln=3, page=4, capacity=12)
    given, buffers = arguments(case, torch.bfloat16, "cpu", cache_dtype=dtype)
    scales = [torch.rand(given[name].shape[:3]) for name in ("k_cache", "v_cache")]
    before = scales[0].clone()
    append_kv(**given, k_scale=scales[0], v_scale=scales[1])
    k_true, v_true, written, _ = expected(case, given)
    for true, name, scale in zip((k_true, v_true), ("k_cache", "v_cache"), scales, strict=True):
        got = dequantize(given[name], scale)[written]
        amax = true[written].abs().amax(-1)
        assert torch.allclose(scale[written].double(), amax / LARGEST[dtype], rtol=1e-5)
        step = {torch.int8: 1 / 254, torch.float8_e4m3fn: 2**-4, torch.float8_e5m2: 2**-3}[dtype]
        assert ((got - true[written]).abs() <= step * 1.001 * amax[:, None]).all(), name
    assert torch.equal(scales[0][~written], before[~written])
    assert all(untouched_but_for(buffer, written) for buffer in buffers)


def test_given_scales_clamp_and_round_to_even():
    k = torch.tensor([0.25, 0.75, -1.25, 500.0, -500.0, 0.0]).reshape(1, 1, 2, 3)
    cache = torch.zeros(2, 1, 4, 2, 3, dtype=torch.int8)
    scale = torch.tensor([0.5, 2.0])  # one per head
    append_kv(*cache, k, k, torch.tensor([2]), k_scale=scale, v_scale=torch.tensor(0.5))
    assert cache[0, 0, 2].tolist() == [[0, 2, -2], [127, -127, 0]]
    assert cache[1, 0, 2].tolist() == [[0, 2, -2], [127, -127, 0]]
    assert cache.count_nonzero() == 8


def good(**change):
    given, _ = arguments(Append("good", "", Ln=2, Lq=2), torch.float32, "cpu")
    return given | change


MISUSE = {
    "row full": ({"cache_seqlens": torch.tensor([11, 0])}, ValueError, "room for 12 tokens"),
    "negative length": ({"cache_seqlens": torch.tensor([0, -1])}, ValueError, "row 1 has room"),
    "float length": ({"cache_seqlens": torch.zeros(2)}, TypeError, "int32 or int64.*float32"),
    "lengths": ({"cache_seqlens": torch.tensor([1])}, ValueError, r"\(B,\) = \(2,\); got \(1,\)"),
    "no such row": ({"cache_batch_idx": torch.tensor([0, 2])}, ValueError, r"0…1; row 1 has \[2\]"),
    "no such position": (
        {"rotary_cos": torch.ones(6, 8), "rotary_sin": torch.ones(6, 8)},
        ValueError,
        "have 6 positions; position 6 is needed",
    ),
    "one table": ({"rotary_sin": None}, ValueError, "both be"),
    "R > D": (
        {"rotary_cos": torch.ones(20, 9), "rotary_sin": torch.ones(20, 9)},
        ValueError,
        "from 1 to 8; got 9",
    ),
    "rotate_at": ({"rotate_at": "last"}, ValueError, "'last'"),
    "heads of k": ({"k": torch.zeros(2, 2, 3, 16)}, ValueError, r"\(2, 2, 3, 16\)"),
    "head dim of q": ({"q": torch.zeros(2, 2, 4, 8)}, ValueError, "agree with k"),
    "dtype": ({"k_cache": torch.zeros(2, 12, 2, 16).half()}, TypeError, "as k.*float16"),
    "scale": ({"k_scale": torch.tensor(1.0)}, ValueError, "k_scale must be None unless"),
    "batch": ({"k_cache": torch.zeros(3, 12, 2, 16), "v_cache": torch.zeros(3, 12, 2, 16)},
              ValueError, "batch of k, 2"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), MISUSE.values(), ids=MISUSE)
def test_misuse_is_told_and_nothing_is_written(change, error, message):
    given = good(**change)
    before = given["k_cache"].clone()
    with pytest.raises(error, match=message):
        append_kv(**given)
    assert torch.equal(given["k_cache"], before) or given["k_cache"].isnan().all()


def test_the_brute_force_can_tell_halves_from_pairs():
    x, angle = torch.arange(1.0, 5.0), torch.tensor([0.3, 0.8])
    a, b = (rotate_fp64(x, angle.cos(), angle.sin(), interleaved) for interleaved in (False, True))
    assert (a - b).abs().max() > 0.1


def test_doctests():
    result = doctest.testmod(module, extraglobs={"torch": torch})
    assert result.attempted > 3 and result.failed == 0

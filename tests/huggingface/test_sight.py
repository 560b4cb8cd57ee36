"""What a mask shows, and that attending by it is attending by the mask."""

import pytest
import torch
from hf_families import naive

from course.huggingface.attend import attend, backend_of
from course.huggingface.sight import from_intervals, intervals, read_mask, without_mask

B, HQ, HKV, D = 2, 4, 2, 8
REFERENCE = backend_of("reference")


def mask_of(Lq, Lk, rule) -> torch.Tensor:
    """Bool (B, 1, Lq, Lk): rule(b, i, j) for row b, query i and key j, as tensors."""
    b, i, j = torch.arange(B), torch.arange(Lq), torch.arange(Lk)
    seen = rule(b[:, None, None], i[:, None], j).expand(B, Lq, Lk)
    return seen[:, None].contiguous()


def padded(b):
    return 3 * b  # row 0 has no padding, row 1 three places


# name → Lq, Lk, rule, and the arguments of flash_decode that show the same.
MASKS = {
    "step": (1, 7, lambda b, i, j: j >= 0, {"lengths": [7, 7], "plain": 7}),
    "step_of_a_static_cache": (1, 9, lambda b, i, j: j < 5, {"lengths": [5, 5], "plain": 5}),
    "padded_step": (1, 9, lambda b, i, j: (j >= padded(b)) & (j < 8), {"leftpad": [0, 3]}),
    "prefill": (6, 6, lambda b, i, j: j <= i, {"causal": True, "plain": 6}),
    "prefill_of_a_static_cache": (
        *(4, 9, lambda b, i, j: j <= i),
        {"causal": True, "plain": 4, "lengths": [4, 4]},
    ),
    "drafts_after_a_cache": (3, 8, lambda b, i, j: j <= i + 5, {"causal": True, "plain": 8}),
    "padded_prefill": (
        *(6, 6, lambda b, i, j: (j <= i) & (j >= padded(b))),
        {"causal": True, "leftpad": [0, 3], "lengths": [6, 6]},
    ),
    "windowed_prefill": (
        *(7, 7, lambda b, i, j: (j <= i) & (j > i - 3)),
        {"causal": True, "window": 2},
    ),
    "padded_and_windowed": (
        *(7, 9, lambda b, i, j: (j <= i + 1) & (j > i - 2) & (j >= padded(b))),
        {"causal": True, "window": 2, "leftpad": [0, 3], "lengths": [8, 8]},
    ),
    "one_row_all_padding": (
        *(4, 4, lambda b, i, j: (j <= i) & (b == 0)),
        {"causal": True, "lengths": [4, 0]},
    ),
    "everything": (5, 7, lambda b, i, j: j >= 0, {"causal": False, "plain": 7}),
    "everything_padded_right": (
        *(5, 5, lambda b, i, j: j < 5 - b),
        {"causal": False, "lengths": [5, 4], "plain": None},
    ),
    "right_padded": (5, 5, lambda b, i, j: (j <= i) & (j < 5 - 2 * b), {"rows": [0] * 5 + [1] * 5}),
    "chunked": (7, 7, lambda b, i, j: (j <= i) & (i // 3 == j // 3), {"rows": [0] * 7 + [1] * 7}),
    "blocks_both_ways": (4, 8, lambda b, i, j: j < 4 + i // 2 * 2 + 2, {"rows": [0] * 4 + [1] * 4}),
}


@pytest.mark.parametrize("name", MASKS)
def test_the_mask_is_found_in_few_numbers(name):
    Lq, Lk, rule, wanted = MASKS[name]
    sight = read_mask(mask_of(Lq, Lk, rule), B, Lq, Lk)
    found = {key: getattr(sight, key) for key in wanted}
    assert {k: x.tolist() if isinstance(x, torch.Tensor) else x for k, x in found.items()} == wanted
    unsaid = {"leftpad": None, "window": None}.keys() - wanted
    if "rows" not in wanted:
        assert sight.rows is None and not any(getattr(sight, key) is not None for key in unsaid)


@pytest.mark.parametrize("lowest", [None, -torch.inf, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("name", MASKS)
def test_attention_by_sight_is_attention_by_mask(name, lowest):
    """In fp64; keys that nobody sees are NaN. lowest: the mask as floats, hiding by this number."""
    Lq, Lk, rule, _ = MASKS[name]
    mask = mask_of(Lq, Lk, rule)
    rng = torch.Generator().manual_seed(7)
    q = torch.randn(B, HQ, Lq, D, generator=rng, dtype=torch.float64)
    k, v = torch.randn(2, B, HKV, Lk, D, generator=rng, dtype=torch.float64)
    sinks = torch.randn(HQ, generator=rng, dtype=torch.float64)
    unseen = ~mask.any(2)[..., None]  # (B, 1, Lk, 1)
    given = mask if lowest is None else torch.zeros(mask.shape).masked_fill(~mask, lowest)
    for scores in (
        {"scale": None, "softcap": None, "sinks": None},
        {"scale": 1.25, "softcap": 2.0, "sinks": sinks},
    ):
        wanted = {
            "scaling": scores["scale"],
            "softcap": scores["softcap"],
            "s_aux": scores["sinks"],
        }
        right, _ = naive(None, q, k, v, mask, **wanted)
        poisoned = (x.masked_fill(unseen, torch.nan).transpose(1, 2) for x in (k, v))
        sight = read_mask(given, B, Lq, Lk)
        o = attend(q.transpose(1, 2), *poisoned, sight, REFERENCE, **scores)
        assert o.shape == (B, Lq, HQ, D)
        torch.testing.assert_close(o, right, rtol=0, atol=1e-14)


def test_any_interval_comes_back():
    """Random intervals, most of which follow no rule; and what they say is what was given."""
    rng = torch.Generator().manual_seed(3)
    for _ in range(200):
        Lq, Lk = (int(torch.randint(1, 6, (), generator=rng)) for _ in range(2))
        ends = torch.randint(0, Lk + 1, (2, B, Lq), generator=rng).sort(0).values
        j = torch.arange(Lk)
        visible = (j >= ends[0][..., None]) & (j < ends[1][..., None])
        start, stop = intervals(visible)
        assert torch.equal((j >= start[..., None]) & (j < stop[..., None]), visible)
        assert torch.equal(shown(from_intervals(start, stop, Lk), Lq, Lk), visible)


def shown(sight, Lq: int, Lk: int) -> torch.Tensor:
    """The bools (B, Lq, Lk) that `flash_decode` makes of these arguments, by its definition."""
    j = torch.arange(Lk)
    lengths = sight.lengths[:, None, None]
    leftpad = torch.zeros_like(lengths) if sight.leftpad is None else sight.leftpad[:, None, None]
    queries = Lq if sight.rows is None else 1
    position = lengths - queries + torch.arange(queries)[:, None]
    seen = (j < lengths) & (j >= leftpad)
    if sight.causal:
        seen = seen & (j <= position)
    if sight.window is not None:
        seen = seen & (j >= position - sight.window)
    return seen.expand(-1, queries, Lk).reshape(B, Lq, Lk)


def test_a_mask_is_read_once_and_again_when_it_changes():
    mask = mask_of(1, 6, lambda b, i, j: j < 4)
    first = read_mask(mask, B, 1, 6)
    assert read_mask(mask, B, 1, 6) is first
    mask[..., 4] = True
    assert read_mask(mask, B, 1, 6).lengths.tolist() == [5, 5]
    with torch.inference_mode():  # where tensors do not count their changes
        mask = mask_of(1, 6, lambda b, i, j: j < 4)
        assert read_mask(mask, B, 1, 6).lengths.tolist() == [4, 4]
        mask[..., 4] = True
        assert read_mask(mask, B, 1, 6).lengths.tolist() == [5, 5]


def test_one_mask_for_all_rows():
    mask = mask_of(3, 3, lambda b, i, j: j <= i)[:1]
    assert read_mask(mask, B, 3, 3).lengths.tolist() == [3, 3]


GAPS = mask_of(2, 5, lambda b, i, j: (j != 2) | (b == 0))
PLAIN = mask_of(2, 5, lambda b, i, j: j >= 0)
WRONG = {
    "gaps": (GAPS, ValueError, "gaps between those of query 0 in row 1"),
    "two_dimensions": (
        PLAIN[:, 0, 0],
        ValueError,
        r"must be \(B, heads, Lq, Lk\) = \(2, 1, 2, 5\)",
    ),
    "other_keys": (PLAIN[..., :4], ValueError, r"got \(2, 1, 2, 4\)"),
    "other_rows": (PLAIN.repeat(2, 1, 1, 1), ValueError, r"got \(4, 1, 2, 5\)"),
    "heads": (torch.cat([PLAIN, GAPS], 1), ValueError, "the same for all heads"),
    "a_bias": (PLAIN * -0.5, ValueError, "neither 0 nor -inf"),
    "nan": (PLAIN * torch.nan, ValueError, "neither 0 nor -inf"),
    "integers": (PLAIN.long(), TypeError, "bool or floating point; got torch.int64"),
    "no_tensor": ({"full_attention": PLAIN}, TypeError, "must be a tensor; got dict"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_no_numbers_say_is_refused(name):
    mask, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        read_mask(mask, B, 2, 5)


def test_no_mask_means_what_it_means_to_transformers():
    q, k = torch.zeros(2, 3, 4, 8), torch.zeros(2, 5, 2, 8)
    assert without_mask(q, k, True)[1:] == (None, None, True, None, 3)  # from the first key on
    assert without_mask(q, k, False)[1:] == (None, None, False, None, 5)
    assert without_mask(q[:, :1], k, True)[1:] == (None, None, False, None, 5)
    with pytest.raises(ValueError, match="got 3 queries and 2 keys"):
        without_mask(q, k[:, :2], True)

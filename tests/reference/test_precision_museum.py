"""reference.precision.museum: every piece fails as it says, and its mended version does not."""

import math
import re

import pytest
import torch

from reference.precision.museum import MUSEUM
from reference.precision.museum.piece import distance

pieces = pytest.mark.parametrize("piece", MUSEUM.values(), ids=MUSEUM)


@pieces
def test_the_broken_version_fails_on_its_input(piece):
    assert not piece.error(piece.broken) <= piece.allowed


@pieces
def test_the_mended_version_is_within_its_bound(piece):
    error = piece.error(piece.mended)
    assert error <= piece.allowed, f"{error:.2e}, allowed {piece.allowed:.2e}"


@pieces
def test_the_bound_is_one_for_rounding_and_no_more(piece):
    """A bound that forgives the bug, or a visible error of any kind, would prove nothing."""
    assert piece.allowed < 1e-3 and piece.shows()


@pieces
def test_each_piece_is_labelled(piece):
    assert re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+", piece.link)
    for text in (piece.what, piece.why, piece.fix):
        assert len(text) > 30 and text.endswith((".", ".)"))


@pieces
def test_inputs_are_made_anew_and_alike(piece):
    for x, y in zip(piece.make_input(), piece.make_input(), strict=True):
        if isinstance(x, torch.Tensor):
            assert torch.equal(x.nan_to_num(9), y.nan_to_num(9)) and x is not y
        else:
            assert x == y


def test_there_are_at_least_eight_and_their_reports_differ():
    assert len(MUSEUM) >= 8
    assert len({piece.link for piece in MUSEUM.values()}) == len(MUSEUM)


SILENT = {"a finite minus infinity", "an lse in base 2", "an empty chunk that counts"}


@pytest.mark.parametrize("name", sorted(SILENT | {"strides swapped"}))
def test_silent_ones_give_plausible_numbers(name):
    piece = MUSEUM[name]
    wrong = piece.broken(*piece.make_input())
    assert wrong.isfinite().all() and wrong.abs().max() < 10


def test_pytorch_still_reports_a_finite_lse_for_a_row_without_keys():
    """What the piece "an empty chunk that counts" says of PyTorch on a CPU."""
    q, k, v = torch.randn(3, 1, 1, 4, 16)
    hidden = torch.full((4, 4), -math.inf)
    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    o, lse = op(q, k, v, 0.0, False, attn_mask=hidden)
    assert (o == 0).all() and (lse == 0).all()


def test_the_32_bit_offset_is_right_up_to_the_page_before():
    piece = MUSEUM["an offset of 32 bits"]
    offsets = piece.broken(*piece.make_input()).tolist()
    assert offsets[:2] == [7766 * 276480, 7767 * 276480] and offsets[2] < 0


def test_company_changes_only_last_bits():
    piece = MUSEUM["bits that depend on the company"]
    assert 0 < piece.error(piece.broken) < 1e-6


def test_distance_sees_nan_and_knows_equal_infinities():
    inf, nan = torch.tensor([math.inf, 1.0]), torch.tensor([math.nan, 1.0])
    assert distance(inf, inf.double()) == 0
    assert math.isnan(distance(nan, inf)) and math.isnan(distance((inf, nan), (inf, inf)))
    assert distance(-inf, inf) == math.inf
    with pytest.raises(ValueError, match=r"wanted shape \(2,\); got \(1,\)"):
        distance(inf[:1], inf)
    with pytest.raises(ValueError, match="wanted 2 tensors; got Tensor"):
        distance(inf, (inf, inf))

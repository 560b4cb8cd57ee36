"""kernels.flash_decoding: which bits may change, and what is never touched."""

import math

import pytest
import torch
from shapes import DecodeShape, decode_inputs

from course.check.guards import empty_is_nan
from kernels.flash_decoding import flash_decode
from kernels.flash_decoding.features import Features
from kernels.flash_decoding.split import split_call
from kernels.heuristics import choose_decode_launch
from kernels.merge import merge_states
from kernels.runtime import INTERPRETED, device
from reference.attention import oracle
from reference.closeness import assert_close_to_oracle
from reference.online_softmax import merge_states as reference_merge

DEVICE = device()


def test_lengths_as_int64_and_none():
    shape = DecodeShape("lengths", "", B=2, Lk=70, lengths=(70, 70))
    q, k, v, lengths = decode_inputs(shape, torch.float32, DEVICE)
    wanted = flash_decode(q, k, v, lengths)
    assert torch.equal(flash_decode(q, k, v, lengths.long()), wanted)
    assert torch.equal(flash_decode(q, k, v), wanted)


def test_runs_repeat_to_the_bit():
    shape = DecodeShape("bits", "", B=2, Lq=2, Lk=150, lengths=(150, 71))
    inputs = decode_inputs(shape, torch.bfloat16, DEVICE)
    o, lse = flash_decode(*inputs, num_splits=3, return_lse=True)
    again = flash_decode(*inputs, num_splits=3, return_lse=True)
    assert torch.equal(o, again[0]) and torch.equal(lse, again[1])


def test_permuting_the_batch_permutes_the_bits():
    shape = DecodeShape("batch", "", B=4, Lk=130, lengths=(130, 0, 64, 3))
    q, k, v, lengths = decode_inputs(shape, torch.float16, DEVICE)
    order = torch.tensor([2, 0, 3, 1], device=DEVICE)
    o, lse = flash_decode(q, k, v, lengths, num_splits=3, return_lse=True)
    o_permuted, lse_permuted = flash_decode(
        q[order], k[order], v[order], lengths[order], num_splits=3, return_lse=True
    )
    assert torch.equal(o_permuted, o[order]) and torch.equal(lse_permuted, lse[order])


def test_room_in_the_cache_changes_no_bit():
    """Splits are cut from a row's length, not from the capacity of the cache."""
    shape = DecodeShape("room", "", B=2, Lk=300, lengths=(70, 65))
    q, k, v, lengths = decode_inputs(shape, torch.float32, DEVICE)
    wanted = flash_decode(q, k, v, lengths, num_splits=2)
    assert torch.equal(flash_decode(q, k[:, :70], v[:, :70], lengths, num_splits=2), wanted)


def test_neighbouring_programs_do_not_meet():
    """Every query head reads its own KV head and no other; V tells the heads apart."""
    q = torch.randn(2, 3, 6, 16, device=DEVICE)
    k = torch.randn(2, 70, 2, 16, device=DEVICE)
    v = torch.arange(4.0, device=DEVICE).view(2, 1, 2, 1).expand(2, 70, 2, 16).contiguous()
    o = flash_decode(q, k, v, num_splits=2)
    wanted = v[:, :1].repeat_interleave(3, 2).expand(2, 3, 6, 16)
    torch.testing.assert_close(o, wanted, rtol=1e-6, atol=0)


def test_nothing_to_do():
    k = torch.randn(2, 8, 2, 16, device=DEVICE)
    for shape in [(2, 0, 4, 16), (2, 3, 0, 16)]:
        o, lse = flash_decode(torch.empty(shape, device=DEVICE), k, k, return_lse=True)
        assert o.shape == shape and lse.shape == shape[:3]
    assert flash_decode(k[:0], k[:0], k[:0]).shape == (0, 8, 2, 16)


def test_inputs_are_left_alone():
    shape = DecodeShape("inputs", "", B=2, lengths=(100, 3))
    inputs = decode_inputs(shape, torch.bfloat16, DEVICE)
    before = [x.clone() for x in inputs]
    flash_decode(*inputs)
    assert all(
        torch.equal(x.nan_to_num(7), y.nan_to_num(7)) for x, y in zip(inputs, before, strict=True)
    )


def test_needs_no_grad():
    shape = DecodeShape("grad", "", Lk=8)
    q, k, v, _ = decode_inputs(shape, torch.float32, DEVICE)
    k.requires_grad_()
    with pytest.raises(ValueError, match="k_cache requires grad, but decoding has no backward"):
        flash_decode(q, k, v)
    with torch.no_grad():
        flash_decode(q, k, v, num_splits=1)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter checks lengths instead of clamping them")
def test_lengths_are_clamped_on_a_gpu():
    shape = DecodeShape("clamp", "", B=3, Lk=70, lengths=(70, 0, 70))
    q, k, v, lengths = decode_inputs(shape, torch.float16, DEVICE)
    wild = torch.tensor([71, -5, 2**30], dtype=torch.int32, device=DEVICE)
    assert torch.equal(flash_decode(q, k, v, wild), flash_decode(q, k, v, lengths))


def test_partials_are_attention_over_their_own_keys():
    """Splits are contiguous, in whole blocks, and cover [0, length); an empty one has lse -inf."""
    lengths, num_splits = (150, 70, 3, 0), 3
    shape = DecodeShape("partials", "", B=4, Lk=160, D=16, lengths=lengths)
    q, k, v, seqlens = decode_inputs(shape, torch.float32, DEVICE)
    launch = choose_decode_launch(
        rows=2, head_dim=16, element_size=4, tensor_cores=False, interpreted=INTERPRETED
    )
    o = torch.full((num_splits, 4, 1, 4, 16), math.nan, device=DEVICE)
    lse = torch.full((num_splits, 4, 1, 4), math.nan, device=DEVICE)
    call = {"num_splits": num_splits, "causal": True, "scale": 0.25, "launch": launch}
    split_call(q, k, v, Features(cache_seqlens=seqlens), o, lse, **call).launch(q.device)
    for b, length in enumerate(lengths):
        chunk = math.ceil(math.ceil(length / launch.block_n) / num_splits) * launch.block_n
        seen = 0
        for s in range(num_splits):
            start, stop = min(s * chunk, length), min((s + 1) * chunk, length)
            wanted, wanted_lse = oracle(
                q[b : b + 1], k[b : b + 1, start:stop], v[b : b + 1, start:stop]
            )
            torch.testing.assert_close(o[s, b : b + 1].double(), wanted, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(lse[s, b : b + 1].double(), wanted_lse, rtol=1e-5, atol=1e-5)
            seen += stop - start
        assert seen == length


@pytest.mark.parametrize("S", [1, 2, 16, 17, 40])
def test_combine_is_the_reference_merge(S):
    rng = torch.Generator().manual_seed(S)
    o = torch.randn(S, 2, 3, 40, generator=rng)
    lse = 50 * torch.randn(S, 2, 3, generator=rng)
    lse[torch.rand(S, 2, 3, generator=rng) < 0.3] = -math.inf  # empty splits
    lse[:, 1, 2] = -math.inf  # and a row without any key
    o[lse == -math.inf] = 0.0
    with empty_is_nan():
        got, got_lse = merge_states(o.to(DEVICE), lse.to(DEVICE))
    wanted, wanted_lse = reference_merge(o.double(), lse.double())
    baseline, baseline_lse = reference_merge(o, lse)
    assert_close_to_oracle(got.cpu(), baseline, wanted)
    assert_close_to_oracle(got_lse.cpu(), baseline_lse, wanted_lse, name="lse")


def test_combine_misuse_is_told():
    with pytest.raises(ValueError, match=r"S ≥ 1 and D ≥ 1; got \(2, 3, 4\) and \(3, 3\)"):
        merge_states(torch.zeros(2, 3, 4), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="lse must be float32; got torch"):
        merge_states(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.float16))

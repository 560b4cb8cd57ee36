"""Peers are called as their libraries document, and judged; here the libraries are fakes."""

import sys
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton", reason="triton has no wheels for this system")

from benchmarks import peers
from benchmarks.judge import Judge, full_rows
from reference.attention import attention


def inputs(B=2, Hq=4, Hkv=2, Lk=32, D=16):
    make = torch.Generator().manual_seed(3)
    shapes = ((B, 1, Hq, D), (B, Lk, Hkv, D), (B, Lk, Hkv, D))
    return tuple(torch.randn(s, generator=make) for s in shapes)


def fake_flashinfer():
    """FlashInfer's batch decode as documented: pages, a page index, lengths of the last pages."""

    class Wrapper:
        def __init__(self, workspace, layout, use_tensor_cores):
            assert layout == "NHD" and workspace.dtype == torch.uint8

        def plan(self, indptr, indices, last, Hq, Hkv, D, page, q_data_type, kv_data_type):
            self.planned = (indptr.tolist(), indices, last.tolist(), page)

        def run(self, q, pages):
            indptr, indices, last, page = self.planned
            rows = []
            for b in range(len(q)):
                used = indices[indptr[b] : indptr[b + 1]].long()
                length = (len(used) - 1) * page + last[b]
                k, v = (x[used].flatten(0, 1)[None, :length] for x in pages)
                rows.append(attention(q[b][None, None], k, v)[0])
            return torch.cat(rows)

    return SimpleNamespace(BatchDecodeWithPagedKVCacheWrapper=Wrapper)


def fake_xformers():
    """xformers' op as documented: (B, L, Hkv, G, D), K and V expanded over G without a copy."""

    def forward(q, k, v, op):
        assert op == "split-K" and q.shape[2:4] == k.shape[2:4] and k.stride(3) == 0
        q, k, v = (x.flatten(2, 3) for x in (q, k, v))
        return attention(q, k, v).view(*q.shape[:2], -1, v.shape[2] // 2, q.shape[3])

    splitk = SimpleNamespace(FwOp="split-K")
    return SimpleNamespace(memory_efficient_attention_forward=forward, triton_splitk=splitk)


def fake_flash_attn():
    return SimpleNamespace(flash_attn_with_kvcache=lambda q, k, v: attention(q, k, v))


@pytest.mark.parametrize(
    ("name", "module", "fake"),
    [
        ("flashinfer", "flashinfer", fake_flashinfer),
        ("xformers", "xformers.ops.fmha", fake_xformers),
        ("flash_attn", "flash_attn", fake_flash_attn),
        ("flash_attn_3", "flash_attn_interface", fake_flash_attn),
        ("sdpa", None, None),
        ("sdpa_math", None, None),
        ("flex", None, None),
        ("flex_max", None, None),
    ],
)
@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_peers_are_called_as_they_document(name, module, fake, monkeypatch):
    if module:
        monkeypatch.setitem(sys.modules, module.split(".")[0], SimpleNamespace())
        monkeypatch.setitem(sys.modules, module, fake())
    modes = []
    monkeypatch.setattr(torch, "compile", lambda f, **how: modes.append(how) or f)
    peer = next(p for p in peers.PEERS if p.name == name)
    sets = [inputs(), tuple(-x for x in inputs())]
    calls = peer.prepare(sets)
    for call, (q, k, v) in zip(calls, sets, strict=True):
        torch.testing.assert_close(call(), attention(q, k, v), atol=1e-5, rtol=1e-5)
    if name == "flex_max":
        assert modes[0] == {"dynamic": False, "mode": "max-autotune-no-cudagraphs"}


def test_flashinfer_says_no_to_lengths_that_are_not_whole_pages(monkeypatch):
    monkeypatch.setitem(sys.modules, "flashinfer", fake_flashinfer())
    with pytest.raises(ValueError, match="multiple of 16"):
        peers.flashinfer(False)([inputs(Lk=33)])


def test_the_judge_sees_a_wrong_head_a_nan_and_a_sloppy_kernel():
    q, k, v = (x.bfloat16() for x in inputs(B=3, Lk=64))
    judge = Judge(q, full_rows(k, v), kv_heads=2, longest=64)
    assert len(judge.pairs) == 6
    ours, peer = judge("ours", True), judge("peer", False)
    right = attention(q, k, v)
    assert ours(right) == "" and peer(right) == ""
    for b, h in judge.pairs:
        wrong = right.clone()
        wrong[b, :, 2 * h] = 0
        assert "too far" in ours(wrong) and "too far" in peer(wrong)
    noise = torch.randn(right.shape, generator=torch.Generator().manual_seed(5))
    sloppy = (right + 0.008 * noise).bfloat16()
    assert "too far" in ours(sloppy) and peer(sloppy) == ""
    right[1, 0, 1, 3] = float("nan")
    assert ours(right) == "inf or nan"
    assert "shape" in ours(right[:1])


def test_the_judge_takes_at_least_four_pairs_of_long_rows_and_not_more_than_64():
    q = torch.randn(64, 1, 16, 4)
    k = torch.randn(64, 8, 8, 4)
    for longest, pairs in ((2**30, 4), (2**17, 8), (8, 64)):
        found = Judge(q, full_rows(k, k), kv_heads=8, longest=longest).pairs
        assert len(set(found)) == pairs
        assert {0, 63} <= {b for b, _ in found} and {0, 7} <= {h for _, h in found}

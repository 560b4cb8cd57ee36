"""The exercises of lesson 13: a wide cache is noticed in any form, and folding passes in any."""

import contextlib
import io
import math

import pytest
import torch

from course.check import judge
from course.check.lesson_13.choose import Measured, choose
from course.check.lesson_13.fold import FOLD
from course.check.lesson_13.quantized_kernel import QUANTIZED_KERNEL, quantized_kernel
from course.check.report import Status
from course.check.rewritten import rewritten
from course.notebooks.files import ROOT, read


def in_place(x, scale):
    wide = x.float()
    wide *= scale[:, None]
    return wide


def one_by_one(x, scale):
    wide = torch.empty(x.shape)
    for j, factor in enumerate(scale.tolist()):
        wide[j] = x[j].float() * factor
    return wide


def by_numpy(x, scale):
    return torch.from_numpy(x.numpy() * scale.numpy()[:, None])


def by_a_diagonal(x, scale):
    return torch.diag(scale) @ x.float()


@pytest.mark.parametrize(
    ("widen", "how"),
    [(in_place, ""), (one_by_one, ""), (by_numpy, ""), (by_a_diagonal, ", by a diagonal matrix")],
)
def test_a_wide_cache_is_noticed(widen, how):
    def answer(q, k, v, k_scale, v_scale, scale):
        scores = scale * q @ widen(k, k_scale).T
        return scores.softmax(-1) @ widen(v, v_scale), scores.logsumexp(-1)

    report = judge(FOLD, answer, seed=1)
    assert report.mistake.name == f"K and V times their scales{how}", f"\n{report}"


@pytest.mark.parametrize("factor", [1.0, math.log2(math.e)], ids=["e", "base 2"])
def test_wide_keys_are_noticed_with_the_softmax_scale_in_them(factor):
    def answer(q, k, v, k_scale, v_scale, scale):
        scores = q @ ((k_scale * (scale * factor))[:, None] * k).T / factor
        return (scores.softmax(-1) * v_scale) @ v.float(), scores.logsumexp(-1)

    report = judge(FOLD, answer, seed=1)
    assert report.mistake.name == "K times its scales", f"\n{report}"


def head_by_head(q, k, v, k_scale, v_scale, scale):
    scores = torch.stack([k.float() @ head * k_scale * scale for head in q])
    weights = scores.softmax(-1) * v_scale
    return torch.stack([v.float().T @ head for head in weights]), scores.logsumexp(-1)


def written_over(q, k, v, k_scale, v_scale, scale):
    scores = torch.mm(q, k.float().T.contiguous()).mul_(scale).mul_(k_scale.repeat(len(q), 1))
    m = scores.amax(-1, keepdim=True)
    p = scores.sub_(m).exp_()
    l = p.sum(-1, keepdim=True)
    return p.mul_(v_scale) @ v.float() / l, (m + l.log())[:, 0]


def by_einsum(q, k, v, k_scale, v_scale, scale):
    scores = torch.einsum("gd,ld,l->gl", q, k.float(), k_scale) * scale
    largest = v_scale.max()
    weights = scores.softmax(-1)
    o = torch.einsum("gl,l,ld->gd", weights, v_scale / largest, v.float()) * largest
    return o, scores.logsumexp(-1)


@pytest.mark.parametrize("answer", [head_by_head, written_over, by_einsum])
def test_folding_passes(answer):
    report = judge(FOLD, answer, seed=1)
    assert report.status is Status.PASS, f"\n{report}"


def test_a_tile_made_wide_in_registers_passes():
    changes = [
        ("tl.trans(k), no_scores)", "tl.trans(k * k_scale[:, None]), no_scores)"),
        (" * scale_log2 * k_scale[None, :]", " * scale_log2"),
        ("p * v_scale[None, :], v, acc", "p, v * v_scale[:, None], acc"),
    ]
    report = judge(QUANTIZED_KERNEL, rewritten(quantized_kernel, changes, "wide tiles"), seed=1)
    assert report.status is Status.PASS, f"\n{report}"


@pytest.mark.parametrize("there", [True, False])
def test_a_recorded_run_is_shown_and_a_missing_one_is_said_to_be_missing(there):
    made_up = Measured("int8 per head", "bf16", 1.003, 1.001, 1.004, 11520)
    rows = [{"model": "smollm2", **made_up._asdict()}, {"model": "bytes"}]
    run = {"rows": rows} if there else None
    solutions = read(ROOT / "solutions" / "13_quantized_kv_cache.ipynb").cells
    cell = next(one.source for one in solutions if 'recorded("quality")' in one.source)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(cell, {"recorded": lambda name: run, "Measured": Measured, "choose": choose})
    lines = out.getvalue().splitlines()
    if there:
        shown = ("K int8 per head, V bf16, up to 0.40%; 169 users", 2)
        assert (lines[0].strip().partition(": ")[2], len(lines)) == shown
    else:
        assert lines == ["No such run is recorded yet: `python -m benchmarks quality` makes one."]

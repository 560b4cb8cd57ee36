"""The exercises of lesson 13: a wide cache is noticed in any form, and folding passes in any."""

import contextlib
import io
import math

import pytest
import torch

from course.check import judge
from course.check.lesson_13.choose import CHOOSE, Measured, choose
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


@pytest.mark.parametrize("widen", [in_place, one_by_one, by_numpy, by_a_diagonal])
def test_a_wide_cache_is_noticed(widen):
    def answer(q, k, v, k_scale, v_scale, scale):
        scores = scale * q @ widen(k, k_scale).T
        return scores.softmax(-1) @ widen(v, v_scale), scores.logsumexp(-1)

    report = judge(FOLD, answer, seed=1)
    assert report.mistake.name == "both multiplied by their scales", f"\n{report}"


@pytest.mark.parametrize("factor", [1.0, math.log2(math.e)], ids=["e", "base 2"])
def test_wide_keys_are_noticed_with_the_softmax_scale_in_them(factor):
    def answer(q, k, v, k_scale, v_scale, scale):
        scores = q @ ((k_scale * (scale * factor))[:, None] * k).T / factor
        return (scores.softmax(-1) * v_scale) @ v.float(), scores.logsumexp(-1)

    report = judge(FOLD, answer, seed=1)
    assert report.mistake.name == "K multiplied by its scales", f"\n{report}"


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


HIDDEN = 'scores_log2 = tl.where(mask_n[None, :], scores_log2, float("-inf"))'
LOAD = "tl.load({}_scale_ptr + tokens, mask=mask_n, other=0.0)"
CHOSEN = "tl.where(mask_n, tl.load({}_scale_ptr + tokens), 0.0)"
STEP = "m_log2, l, acc, p = online_softmax_step(m_log2, l, acc, scores_log2)"
INLINE = """m_new = tl.maximum(m_log2, tl.max(scores_log2, 1))
        alpha = tl.exp2(m_log2 - m_new)
        p = tl.exp2(scores_log2 - m_new[:, None]) * v_scale[None, :]
        l, m_log2, acc = l * alpha + tl.sum(p, 1), m_new, acc * alpha[:, None]"""
WRITTEN_OTHERWISE = {
    "a smaller number": ("a large negative number", [('float("-inf"))\n', "-1e30)\n")]),
    "the step written out": (
        "v_scale in l as well",
        [(STEP, INLINE), ("p * v_scale[None, :]", "p")],
    ),
    "the logarithm of v_scale": (
        "v_scale in l as well",
        [(HIDDEN, f"{HIDDEN} + tl.log2(v_scale)[None, :]"), ("p * v_scale[None, :]", "p")],
    ),
    "where around V's load": (
        "k_scale not masked",
        [(LOAD.format("v"), CHOSEN.format("v"))],
    ),
    "where around both loads": (
        "k_scale not masked",
        [(LOAD.format(name), CHOSEN.format(name)) for name in "kv"],
    ),
    "minus infinity loaded": (
        "no number for keys that do not exist",
        [(LOAD.format("k"), LOAD.format("k").replace("0.0", 'float("-inf")')), (HIDDEN, "pass")],
    ),
    "K's strides divided": (
        "closely packed",
        [
            (
                "b * stride_sb + offs_n * stride_sn + kv_head * stride_sh",
                "(b * stride_b + offs_n * stride_n + kv_head * stride_h) // D",
            )
        ],
    ),
}


@pytest.mark.parametrize("case", WRITTEN_OTHERWISE)
def test_a_mistake_in_the_kernel_is_named_however_it_is_written(case):
    name, changes = WRITTEN_OTHERWISE[case]
    report = judge(QUANTIZED_KERNEL, rewritten(quantized_kernel, changes, case), seed=1)
    assert report.mistake is not None and report.mistake.name == name, f"\n{report}"


def test_a_mask_that_is_missing_shows_only_where_blocks_are_not_full():
    report = judge(QUANTIZED_KERNEL, rewritten(quantized_kernel, [(HIDDEN, "pass")], "no mask"))
    failing = [x.prop.name for x in report.outcomes if x.status is Status.FAIL]
    assert failing == ["a ragged end", "far below zero", "all at once"]


def sorts_by_the_bound(measured, budget):
    measured.sort(key=lambda row: row.high)
    return choose(measured, budget)


def asks_none(measured, budget):
    best = None
    for row in measured:
        if row.high <= 1 + budget and (best is None or row[5:3:-1] < best[5:3:-1]):
            best = row
    return best if best.bytes_per_token else None


def takes_the_first(measured, budget):
    fits = [row for row in measured if row.high <= 1 + budget]
    return sorted(fits, key=lambda row: (row.bytes_per_token, row.high))[0]


def fits_or_measured(measured, budget):
    fits = [row for row in measured if row.high <= 1 + budget]
    rows = fits or measured
    return min(rows, key=lambda row: (row.bytes_per_token, row.high), default=None)


def rounds_to_four_digits(measured, budget):
    return choose([row for row in measured if round(row.high, 4) <= 1 + budget], 1.0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (sorts_by_the_bound, "sorts the table"),
        (asks_none, "an error where nothing fits"),
        (takes_the_first, "an error where nothing fits"),
        (fits_or_measured, "the smallest where nothing fits"),
        (rounds_to_four_digits, "rounded"),
    ],
)
def test_a_mistaken_choice_is_named_whatever_the_draw(answer, name, seed):
    report = judge(CHOOSE, answer, seed=seed)
    assert report.mistake is not None and report.mistake.name == name, f"\n{report}"


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

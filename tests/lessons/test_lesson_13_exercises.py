"""The exercises of lesson 13: right answers pass in any form, and wrong ones are named in any."""

import contextlib
import io
import math

import pytest
import torch

from course.check import judge
from course.check.lesson_13.choose import CHOOSE, Measured, choose
from course.check.lesson_13.fold import FOLD
from course.check.lesson_13.quantize import QUANTIZE
from course.check.lesson_13.quantized_kernel import QUANTIZED_KERNEL, quantized_kernel
from course.check.report import Status
from course.check.rewritten import rewritten
from course.notebooks.files import ROOT, read


def quantizing(largest="x.abs().amax(-1)", scale="torch.where(m == 0, 1.0, m / 127)", **parts):
    """Return an answer to 13.1 of these expressions; quotient and back are the other two."""
    quotient = parts.get("quotient", "x / scale.unsqueeze(-1)")
    back = parts.get("back", "y.round().clamp(-127, 127).to(torch.int8), scale")
    lines = (
        "def quantize(x, scale=None):",
        "    x = x.to(torch.float32)",
        f"    m = {largest}",
        f"    own = {scale}",
        "    scale, given = own if scale is None else scale, scale is not None",
        f"    y = {quotient}",
        f"    return {back}",
    )
    names = {"torch": torch}
    exec("\n".join(lines), names)
    return names["quantize"]


@pytest.mark.parametrize(
    "quotient",
    [
        "x * (1 / scale)[..., None]",
        "x / scale[..., None] if given else x * 127 / m.where(m > 0, 1)[..., None]",
        "(x.double() / scale.double()[..., None]).float()",
    ],
)
def test_a_quotient_may_be_computed_in_another_order(quotient):
    for seed in range(5):
        report = judge(QUANTIZE, quantizing(quotient=quotient), seed=seed)
        assert report.status is Status.PASS, f"\n{report}"


CAST = "y.round().clamp(-127, 127).to(torch.int8)"


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (
            {"back": f"{CAST}, torch.where(m == 0, 1.0, scale)"},
            "a given scale replaced where there are zeros",
        ),
        ({"back": f"{CAST}, own"}, "its own scale returned"),
        ({"quotient": "x / scale"}, "no last dimension"),
        ({"largest": "x.abs().max(1).values"}, "a maximum over the tokens, and no more"),
        ({"largest": "x.abs().amax(-2)"}, "a maximum over the KV heads, and no more"),
        ({"largest": "x.amax(-1).abs()"}, "the absolute value comes too late"),
        (
            {"largest": "x.abs().amax(-1, True)", "quotient": "x / scale"},
            "keepdim, and a given scale without it",
        ),
        ({"scale": "m.clamp(min=1e-12) / 127"}, "no largest below 1e-12"),
        ({"scale": "torch.maximum(m / 127, torch.tensor(1e-6))"}, "no scale below 1e-06"),
        ({"scale": "torch.where(m > 1e-10, m / 127, 1.0)"}, "a threshold above 1e-30"),
        (
            {"scale": "torch.ones_like(m) if (m == 0).any() else m / 127"},
            "all scales 1 beside a token of zeros",
        ),
        ({"back": "y.round().clamp(0, 127).to(torch.int8), scale"}, "negative numbers cut off"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_mistake_in_quantising_is_named_in_other_words(parts, name):
    report = judge(QUANTIZE, quantizing(**parts), seed=1)
    assert report.mistake and report.mistake.name == name, f"\n{report}"


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


def in_fp64(q, k, v, k_scale, v_scale, scale):
    scores = scale * (q.double() @ k.double().T) * k_scale
    weights = torch.softmax(scores, -1) * v_scale
    return (weights @ v.double()).float(), scores.logsumexp(-1).float()


@pytest.mark.parametrize("answer", [head_by_head, written_over, by_einsum, in_fp64])
def test_folding_passes(answer):
    report = judge(FOLD, answer, seed=1)
    assert report.status is Status.PASS, f"\n{report}"


def key_by_key(q, k, v, k_scale, v_scale, scale):
    m, l = torch.full((len(q),), -math.inf), torch.zeros(len(q))
    acc = torch.zeros(len(q), v.shape[1])
    for key, value, of_k, of_v in zip(k, v, k_scale, v_scale, strict=True):
        score = scale * q @ (of_k * key)
        m_new = torch.maximum(m, score)
        p, alpha = torch.exp(score - m_new), torch.exp(m - m_new)
        l, m = l * alpha + p, m_new
        acc = acc * alpha[:, None] + p[:, None] * (of_v * value)
    return acc / l[:, None], m + l.log()


def in_halves(q, k, v, k_scale, v_scale, scale):
    tiles = [(of[:, None] * x).T for x, of in zip(k.chunk(2), k_scale.chunk(2), strict=True)]
    scores = torch.cat([scale * q @ tile for tile in tiles], 1)
    return (scores.softmax(-1) * v_scale) @ v.float(), scores.logsumexp(-1)


def by_diagonals(q, k, v, k_scale, v_scale, scale):
    scores = scale * (q @ k.float().T) @ torch.diag(k_scale)
    return scores.softmax(-1) @ torch.diag(v_scale) @ v.float(), scores.logsumexp(-1)


def less_fifty(q, k, v, k_scale, v_scale, scale):
    p = torch.exp(scale * (q @ k.float().T) * k_scale - 50)
    return (p * v_scale) @ v.float() / p.sum(-1, keepdim=True), p.sum(-1).log() + 50


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (key_by_key, "K and V times their scales, piece by piece"),
        (in_halves, "K times its scales, piece by piece"),
        (by_diagonals, "a diagonal matrix beside the scores"),
        (less_fifty, "a number in place of the maximum"),
    ],
)
def test_a_mistake_in_folding_is_told_as_it_was_made(answer, name):
    report = judge(FOLD, answer, seed=1)
    assert report.mistake and report.mistake.name == name, f"\n{report}"


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
        shown = ("K int8 per head, V bf16, up to 0.400%; 169 users", 2)
        assert (lines[0].strip().partition(": ")[2], len(lines)) == shown
    else:
        assert lines == ["No such run is recorded yet: `python -m benchmarks quality` makes one."]

"""Exercises 13.1 and 13.2: what is made wide on the way, and what has too few bits."""

import pytest
import torch

from course.check import judge
from course.check.lesson_13.choose import Measured
from course.check.lesson_13.fold import FOLD, attend_quantized
from course.check.lesson_13.quantize import QUANTIZE, quantize
from course.check.report import Status
from course.check.rewritten import rewritten
from course.notebooks.files import ROOT, read

SCORES = "scale * (q @ k.float().T) * k_scale  # (G, Lk)"
NUMERATOR = "(p * v_scale) @ v.float()"
OF_K, OF_V = "K times its scales", "V times its scales"
TIMES_A_CONSTANT = {
    "its largest": (
        OF_V,
        (NUMERATOR, "v_scale.max() * (p @ ((v_scale / v_scale.max())[:, None] * v))"),
    ),
    "its sum": (
        OF_V,
        (NUMERATOR, "v_scale.sum() * (p @ ((v_scale / v_scale.sum())[:, None] * v))"),
    ),
    "of K, its largest": (
        OF_K,
        (SCORES, "q @ (k * (k_scale / k_scale.max())[:, None]).T * (scale * k_scale.max())"),
    ),
    "127": (OF_K, (SCORES, "q @ (k * (k_scale * 127)[:, None]).T * (scale / 127)")),
    "minus 1": (OF_K, (SCORES, "-scale * (q @ (k * -k_scale[:, None]).T)")),
    "127, key by key": (
        f"{OF_K}, piece by piece",
        (
            SCORES,
            "torch.stack([q @ (x * (of * 127)) for x, of in zip(k, k_scale)], 1) * (scale / 127)",
        ),
    ),
    "its mean, column by column": (
        f"{OF_V}, piece by piece",
        (
            NUMERATOR,
            "torch.stack([p @ (x * (v_scale / v_scale.mean())) for x in v.T], 1) * v_scale.mean()",
        ),
    ),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", TIMES_A_CONSTANT)
def test_a_wide_cache_is_noticed_times_any_constant(case, seed):
    name, change = TIMES_A_CONSTANT[case]
    report = judge(FOLD, rewritten(attend_quantized, [change], case), seed=seed)
    assert report.mistake is not None and report.mistake.name == name, f"\n{report}"


FOLDED = {
    "a head's weights, scaled, times V": (
        NUMERATOR,
        "torch.stack([((w * v_scale)[:, None] * v).sum(0) for w in p])",
    ),
    "a head's query times K": (
        SCORES,
        "torch.stack([(one * k).sum(1) for one in q]) * (scale * k_scale)",
    ),
    "key by key, many times": (  # each row of K is one of K times its scales, times 1 / scale
        SCORES,
        "torch.stack([torch.stack([one @ x.float() for x in k]) for one in q.repeat(2, 1)])"
        "[:len(q)] * (scale * k_scale)",
    ),
    "V times a constant": (NUMERATOR, "(p * v_scale * 127) @ (v / 127)"),
    "relative to the largest": (
        NUMERATOR,
        "v_scale.max() * ((p * (v_scale / v_scale.max())) @ v.float())",
    ),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", FOLDED)
def test_what_is_not_wide_passes(case, seed):
    report = judge(FOLD, rewritten(attend_quantized, [FOLDED[case]], case), seed=seed)
    assert report.status is Status.PASS, f"\n{report}"


PRODUCT, QUOTIENT = "(q @ k.float().T)", "torch.round(x / scale[..., None])"
OWN = "torch.where(largest == 0, 1.0, largest / 127)"
LARGEST = "largest = x.abs().amax(-1)  # (B, Lk, Hkv)"
ASKED = f"    if scale is None:\n        {LARGEST}\n        scale = {OWN}"
IN_OTHER_WORDS = [
    (QUANTIZE, "divided by //", [(QUOTIENT, QUOTIENT.replace("/", "//"))]),
    (
        QUANTIZE,
        "whether the scale is true",
        [(ASKED, f"    {LARGEST}\n    scale = scale or {OWN}")],
    ),
    (
        QUANTIZE,
        "max|x| as the scale, and 127 beside it",
        [("largest / 127)", "largest)"), ("x / scale[..., None]", "x / scale[..., None] * 127")],
    ),
    (
        QUANTIZE,
        "computed in the dtype of x",
        [
            ("    x = x.float()\n", ""),
            (OWN, OWN.replace("largest / 127", "(largest / 127).float()")),
        ],
    ),
    (
        FOLD,
        "a softmax over the heads, and its lse",
        [
            (f"{NUMERATOR} / l[:, None]", "(p * v_scale / l) @ v.float()"),
            ("amax(-1)", "amax(0)"),
            ("m[:, None]", "m"),
            ("sum(-1)", "sum(0)"),
        ],
    ),
    (
        FOLD,
        "both products in bf16",
        [
            (PRODUCT, "(q.bfloat16() @ k.bfloat16().T).float()"),
            (NUMERATOR, "((p * v_scale).bfloat16() @ v.bfloat16()).float()"),
        ],
    ),
    (FOLD, "q in eight bits", [(PRODUCT, "(q.to(torch.int8).int() @ k.int().T)")]),
    (
        FOLD,
        "all in fp64",
        [(".float()", ".double()"), ("(q @", "(q.double() @")],
    ),
]


@pytest.mark.parametrize(
    ("exercise", "name", "changes"), IN_OTHER_WORDS, ids=[name for _, name, _ in IN_OTHER_WORDS]
)
def test_a_mistake_is_named_in_other_words(exercise, name, changes):
    right = quantize if exercise is QUANTIZE else attend_quantized
    report = judge(exercise, rewritten(right, changes, name), seed=1)
    assert report.mistake is not None and report.mistake.name == name, f"\n{report}"


def test_zeros_say_nothing_of_a_factor():
    """A storage without a number in it, and one of a few, are looked at and count for nothing."""

    def answer(*args):
        torch.zeros(64, 32), torch.ones(64, 32)
        return attend_quantized(*args)

    assert judge(FOLD, answer, seed=1).status is Status.PASS


def unwritten(*args):
    raise NotImplementedError()


def wrapped(*args):
    """What Triton's interpreter raises of a kernel that is not written."""
    try:
        unwritten()
    except NotImplementedError as error:
        raise RuntimeError(repr(error)) from error


@pytest.mark.parametrize(
    ("ends_in", "names", "says"),
    [
        ("16", {"in_int8": unwritten}, "write quantize and attend_quantized first"),
        ("16-kernel", {"in_int8": unwritten}, "write quantize and quantized_kernel first"),
        (
            "16-kernel",
            {"in_int8": lambda wide: (), "decode_quantized": wrapped},
            "write quantize and quantized_kernel first",
        ),
        ("23", {"choose": unwritten}, "write choose first"),
    ],
)
def test_cells_say_what_has_to_be_written_first(ends_in, names, says, capsys):
    cells = read(ROOT / "solutions" / "13_quantized_kv_cache.ipynb").cells
    source = next(cell.source for cell in cells if cell.id == f"x13-{ends_in}")
    row = {"model": "smollm2"} | dict.fromkeys(Measured._fields)
    given = {"Measured": Measured, "recorded": lambda name: {"rows": [row]}}
    exec(source, given | dict.fromkeys(("wide", "q", "lengths", "decode_quantized")) | names)
    assert capsys.readouterr().out == f"{says}\n"

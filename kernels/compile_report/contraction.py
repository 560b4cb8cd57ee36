"""Finds a rounding error that is compensated twice, in PTX.

A score is a product, s = x · y. Near 200 its rounding error is as large as 1e-5, so a kernel may
compute what was lost and add it back once the maximum m is subtracted:

    t    = x · y                  rounded
    lost = fma(x, y, -t)          exactly what rounding took off
    d    = (t - m) + lost

But a compiler may *contract* a product and a sum to one fused multiply-add, which rounds once:

    d    = fma(x, y, -m) + lost   the fma has kept what was lost; now it counts twice

Twice is as wrong as never, and no interpreter shows it: only the compiled code does.
"""

import re
from collections import defaultdict

_NAME = r"[%\w.$-]+"
_MULTIPLY = re.compile(rf"\bmul(?:\.rn)?(?:\.ftz)?\.f32\s+({_NAME}), ({_NAME}), ({_NAME});")
_NEGATE = re.compile(rf"\bneg(?:\.ftz)?\.f32\s+({_NAME}), ({_NAME});")
_FUSE = re.compile(
    rf"\bfma\.rn(?:\.ftz)?\.f32\s+({_NAME}), ({_NAME}), ({_NAME}), ({_NAME});.*$", re.MULTILINE
)


def compensated_twice(ptx: str) -> list[str]:
    """Return the instructions that fuse a product of which the rounding error is taken as well.

    ptx: of one kernel, whose registers are assigned once, as Triton writes it. [] is as it
    should be: each product is either compensated or contracted.

    >>> compensated_twice('''
    ...     mul.f32 %t, %x, %y;
    ...     neg.f32 %n, %t;
    ...     fma.rn.f32 %lost, %x, %y, %n;
    ...     neg.f32 %r, %m;
    ...     fma.rn.f32 %d, %y, %x, %r;
    ... ''')
    ['fma.rn.f32 %d, %y, %x, %r;']
    """
    products = {out: frozenset((x, y)) for out, x, y in _MULTIPLY.findall(ptx)}
    negated = dict(_NEGATE.findall(ptx))
    compensated, fused = set(), defaultdict(list)
    for match in _FUSE.finditer(ptx):
        _, x, y, addend = match.groups()
        factors = frozenset((x, y))
        if products.get(negated.get(addend)) == factors:
            compensated.add(factors)
        else:
            fused[factors].append(" ".join(match[0].split("//")[0].split()))
    return [text for factors in fused if factors in compensated for text in fused[factors]]

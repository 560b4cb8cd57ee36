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
_ZEROS = ("0f00000000", "0f80000000")


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
    negated = dict(_NEGATE.findall(ptx))
    found = [(match, match.groups()) for match in _FUSE.finditer(ptx)]
    # fma(x, y, 0) is a product, too: up to Triton 3.7, -t is written as fma(-x, y, 0).
    made = _MULTIPLY.findall(ptx) + [(out, x, y) for _, (out, x, y, c) in found if c in _ZEROS]
    products = {out: _product(x, y, negated) for out, x, y in made}
    compensated, fused = set(), defaultdict(list)
    for match, (_, x, y, addend) in found:
        sign, factors = _product(x, y, negated)
        minus, base = _signed(addend, negated)
        of, taken = products.get(base, (0, None))
        if taken == factors and minus * of == -sign:
            compensated.add(factors)
        elif addend not in _ZEROS:
            fused[factors].append(" ".join(match[0].split("//")[0].split()))
    return [text for factors in fused if factors in compensated for text in fused[factors]]


def _signed(name: str, negated: dict[str, str]) -> tuple[int, str]:
    """Return a register as (1 or -1, the register that it is or negates)."""
    return (-1, negated[name]) if name in negated else (1, name)


def _product(x: str, y: str, negated: dict[str, str]) -> tuple[int, frozenset[str]]:
    """Return x · y as its sign and its factors, in any order."""
    (a, x), (b, y) = _signed(x, negated), _signed(y, negated)
    return a * b, frozenset((x, y))

#!/bin/sh
# torch 2.13.0 on a CPU: a cast to float8_e8m0fnu rounds 3 up to 4, drops signs, and turns 3e38 to NaN.
#
# e8m0 holds the shared scale of an MX block: a power of two, without sign or zero. The MX
# specification takes the power below the largest value: 3 has scale 2. Seen: the cast rounds to the
# nearest power by halves, and a tie goes up whatever its exponent is (1.5 to 2, 3 to 4, 6 to 8); -2
# becomes 2 silently; 0 becomes 2^-127; and from 1.5 * 2^127 on a finite fp32 number becomes NaN. So
# take the exponent by bits or frexp, as a cast is not the specification's rule.
#
# Prints what it sees; fails if that is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.3.5

"$folder/venv/bin/python" - <<'END'
import math

import torch

seen = {1.49: 1, 1.5: 2, 2.9: 2, 3.0: 4, 5.0: 4, 6.0: 8, -2.0: 2, -3.0: 4, 0.0: 2.0**-127}
seen |= {2.0**127: 2.0**127, 3e38: math.nan}
for x, wanted in seen.items():
    got = torch.tensor(x).to(torch.float8_e8m0fnu).float().item()
    print(f"{x:>12.5g} becomes {got:.5g}")
    assert got == wanted or (math.isnan(got) and math.isnan(wanted)), f"{x} must become {wanted}"
END

#!/bin/sh
# torch 2.13.0: the gradient of logcumsumexp is NaN for a leading -inf; that of logsumexp is 0.
#
# The last element of logcumsumexp is logsumexp: a running softmax denominator, whose masked scores
# are -inf. The values agree, and an -inf after the first finite score has gradient 0 in both. Seen:
# for an -inf before it logsumexp says 0, which is right, and logcumsumexp NaN.
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


def last(x):
    return torch.logcumsumexp(x, 0)[-1]


def whole(x):
    return torch.logsumexp(x, 0)


found = {}
for name, scores in {"leading": [-math.inf, 1.0, 2.0], "inner": [1.0, -math.inf, 2.0]}.items():
    for lse in (whole, last):
        x = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
        y = lse(x)
        (grad,) = torch.autograd.grad(y, x)
        found[name, lse] = y.detach(), grad
        print(f"{name} -inf, {lse.__name__:<6} {y.item():.4f}, gradient {grad.tolist()}")
for name in ("leading", "inner"):
    assert torch.allclose(found[name, whole][0], found[name, last][0]), "the values differ now"
assert torch.allclose(found["inner", whole][1], found["inner", last][1]), "an inner -inf is wrong now"
assert found["leading", whole][1][0] == 0, "logsumexp is wrong now"
assert found["leading", last][1][0].isnan(), "logcumsumexp is right now"
END

#!/bin/sh
# torch 2.13.0: a second custom_op of the same name takes over the first, for the first's callers too.
#
# Two libraries, or two copies of one, define "shop::price". A reader expects an error, as
# torch.library.Library.define gives, or that each object goes on calling its own function. Seen
# instead: no error and no warning; the first object now runs the second's function, and the first's
# gradient formula is gone, so that backward raises an error.
#
# Prints what it sees; fails if that is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.3.5

"$folder/venv/bin/python" - <<'END'
import torch
from torch import Tensor


def double(x: Tensor) -> Tensor:
    return x * 2


def triple(x: Tensor) -> Tensor:
    return x * 3


first = torch.library.custom_op("shop::price", double, mutates_args=())
first.register_autograd(lambda ctx, grad: grad * 2)
x = torch.ones(1, requires_grad=True)
before = first(x)
before.backward()
print("alone, the first gives", before.item(), "and the gradient", x.grad.item())

torch.library.custom_op("shop::price", triple, mutates_args=())
after = first(x)
print("once a second is defined, the first gives", after.item())
try:
    after.backward()
    said = ""
except RuntimeError as error:
    said = str(error)
print("its backward:", said)
assert (before.item(), x.grad.item(), after.item()) == (2, 2, 3), "the first keeps its function now"
assert "no autograd formula was registered" in said, "the first keeps its gradient now"
END

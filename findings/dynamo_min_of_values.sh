#!/bin/sh
# torch 2.13.0: torch.compile traces min([...], default=...) and min(d.values()), not both together.
#
# min of a list with a default compiles, and min of a dictionary's values compiles. Seen:
# min(d.values(), default=1) does not ("invalid call to builtin op handler"), nor does
# max(generator, default=0) or min(d.values(), key=...); min(list(d.values()), default=1) does.
#
# Prints what it sees; fails if that is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.3.5

"$folder/venv/bin/python" - <<'END'
import logging

import torch

logging.getLogger("torch._dynamo").setLevel(logging.ERROR)  # it warns before it raises
SIZES = {"a": 3, "b": 2}
CASES = {
    "min([3, 2], default=1)": (lambda x: x * min([3, 2], default=1), True),
    "min(d.values())": (lambda x: x * min(SIZES.values()), True),
    "min(list(d.values()), default=1)": (lambda x: x * min(list(SIZES.values()), default=1), True),
    "min(d.values(), default=1)": (lambda x: x * min(SIZES.values(), default=1), False),
    "min(d.values(), key=abs)": (lambda x: x * min(SIZES.values(), key=abs), False),
    "max(generator, default=0)": (lambda x: x * max((n for n in (1, 2)), default=0), False),
}
for name, (function, traced) in CASES.items():
    torch.compiler.reset()
    try:
        torch.compile(function, backend="eager", fullgraph=True)(torch.ones(1))
        said = "compiles"
    except torch._dynamo.exc.Unsupported as error:
        said = "does not: " + str(error).splitlines()[0]
    print(f"{name:<34}{said}")
    assert (said == "compiles") == traced, name
END

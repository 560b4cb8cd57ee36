#!/bin/sh
# torch 2.13.0 on a CPU: index_add_ sums fp16 and bf16 in 16 bits; scatter_add_ sums them in fp32.
#
# 10,000 ones go to the same element. Documentation and shapes make the two look like one operation,
# and sum, cumsum and scatter_reduce_ also round once, at the end. Seen: scatter_add_ gives 10,000
# (bf16: 9,984, the nearest bf16), index_add_ stops at 2,048 (bf16: 256), where one more changes
# nothing. An attention backward that collects dk and dv by index_add_ loses its sums like this.
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

expected = {torch.float16: (10000, 10000, 2048), torch.bfloat16: (9984, 9984, 256)}
for dtype, wanted in expected.items():
    ones, there = torch.ones(10000, dtype=dtype), torch.zeros(10000, dtype=torch.long)
    total = torch.cumsum(ones, 0)[-1].item()
    scattered = torch.zeros(1, dtype=dtype).scatter_add_(0, there, ones).item()
    added = torch.zeros(1, dtype=dtype).index_add_(0, there, ones).item()
    print(f"{dtype}: cumsum {total}, scatter_add_ {scattered}, index_add_ {added}")
    assert (total, scattered, added) == wanted, f"must be {wanted}"
END

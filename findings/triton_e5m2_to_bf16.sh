#!/bin/sh
# triton 3.9.0, interpreted: e5m2's infinity and NaN become the numbers 65536 and 114688 in bf16.
#
# Both formats have infinity and NaN, so a reader expects `.to(tl.bfloat16)` to keep them. Seen
# instead: finite numbers, as if e5m2 had one more binade, while `.to(tl.float16)` of the same block
# keeps them, and so does torch. A NaN that marks bad data in an 8-bit cache is gone after the cast.
#
# Prints what it sees; fails if that is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check triton==3.9.0 torch==2.13.0 numpy==2.3.5

cat > "$folder/casts.py" <<'END'
import torch
import triton
import triton.language as tl


@triton.jit
def cast(x, to_bf16, to_fp16, N: tl.constexpr):
    i = tl.arange(0, N)
    value = tl.load(x + i)
    tl.store(to_bf16 + i, value.to(tl.bfloat16))
    tl.store(to_fp16 + i, value.to(tl.float16))


x = torch.tensor([1.0, float("inf"), -float("inf"), float("nan")]).to(torch.float8_e5m2)
to_bf16, to_fp16 = torch.zeros(4, dtype=torch.bfloat16), torch.zeros(4, dtype=torch.float16)
cast[(1,)](x, to_bf16, to_fp16, N=4)
print("e5m2 holds", x.float().tolist(), "and torch's bf16", x.to(torch.bfloat16).tolist())
print("cast to bf16:", to_bf16.tolist())
print("cast to fp16:", to_fp16.tolist())
assert str(to_fp16.tolist()) == str(x.to(torch.bfloat16).tolist()) == "[1.0, inf, -inf, nan]"
assert to_bf16.tolist() == [1.0, 65536.0, -65536.0, 114688.0], "infinity and NaN are kept now"
END
TRITON_INTERPRET=1 "$folder/venv/bin/python" "$folder/casts.py"

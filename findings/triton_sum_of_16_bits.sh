#!/bin/sh
# Triton 3.8.0: tl.sum of an fp16 or bf16 block adds in 16 bits; tl.max of the same block is fp32.
#
# Its documentation says that floats are "upcasted to at least tl.float32" in a sum without a dtype,
# and torch.sum accumulates in fp32. Seen instead: the result has the type of the block, and the code
# for sm_90 adds with add.f16 or add.bf16. tl.max, which has nothing to lose, does widen: its result
# is fp32. 3.6 to 3.9 all do so; the documentation of 3.9 no longer promises more. Before a sum,
# write x.to(tl.float32).
#
# Prints what it sees; fails if that is no longer so. No GPU is needed. Linux.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check triton==3.8.0

cat >"$folder/sums.py" <<'END'
import re

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def sum_and_max(x_ptr, out_ptr, N: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, N))
    total, largest = tl.sum(x, axis=0), tl.max(x, axis=0)
    tl.static_print("dtypes of the block, its sum, its max:", x.dtype, total.dtype, largest.dtype)
    tl.store(out_ptr, total.to(tl.float32) + largest)


assert "float dtypes are upcasted to at least" in tl.sum.__doc__, "the documentation has changed"
for kind in ("fp16", "bf16"):
    types = {"x_ptr": f"*{kind}", "out_ptr": "*fp32", "N": "constexpr"}
    source = ASTSource(sum_and_max, types, {"N": 1024})
    code = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm
    adds = sorted(set(re.findall(r"\badd[.\w]*\.(b?f16|f32)\b", code["ptx"])))
    print(kind, "additions in the PTX for sm_90:", *adds)
    number = {"fp16": "f16", "bf16": "bf16"}[kind]
    assert number in adds, "the additions are wider now"
    assert re.search(rf"arith\.addf .* : {number}\b", code["ttir"]), "the sum is wider now"
    assert re.search(rf"arith\.extf .* : tensor<1024x{number}", code["ttir"]), "max is narrow now"
print(f"triton {triton.__version__}: the sum of 16 bits is made in 16 bits, the maximum in 32")
END
TRITON_CACHE_DIR="$folder/cache" "$folder/venv/bin/python" "$folder/sums.py"

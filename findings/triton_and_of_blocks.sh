#!/bin/sh
# triton 3.9.0: `a and b` on blocks means one thing compiled and another interpreted, silently.
#
# A kernel marks the places with lo <= i and i < hi. A reader expects the same from TRITON_INTERPRET=1
# as from the compiler, or an error. Seen instead: the compiler joins both comparisons entry by entry,
# with a warning that this is deprecated; the interpreter gives i < hi alone, without a word: it asks
# Python for the truth of a whole block, and goes on with the second operand. With `&` both agree.
#
# Prints what it sees; fails if that is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check triton==3.9.0 torch==2.13.0 numpy==2.3.5

cat > "$folder/kernels.py" <<'END'
import triton
import triton.language as tl


@triton.jit
def by_word(out, lo, hi, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.where(lo <= i and i < hi, 1, 0))


@triton.jit
def by_sign(out, lo, hi, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.where((lo <= i) & (i < hi), 1, 0))
END

cd "$folder"
TRITON_INTERPRET=1 "$folder/venv/bin/python" - <<'END'
import torch
from kernels import by_sign, by_word

found = {}
for kernel in (by_word, by_sign):
    out = torch.zeros(8, dtype=torch.int32)
    kernel[(1,)](out, 2, 5, N=8)
    found[kernel.fn.__name__] = out.tolist()
print("interpreted, with `and`:", found["by_word"], "with `&`:", found["by_sign"])
assert found["by_sign"] == [0, 0, 1, 1, 1, 0, 0, 0]
assert found["by_word"] == [1, 1, 1, 1, 1, 0, 0, 0], "both operands count now"
END

TRITON_INTERPRET=0 TRITON_CACHE_DIR="$folder/cache" "$folder/venv/bin/python" -W ignore - <<'END'
import triton
from kernels import by_word
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

types = {"out": "*i32", "lo": "i32", "hi": "i32", "N": "constexpr"}
made = triton.compile(ASTSource(by_word, types, {"N": 8}), target=GPUTarget("cuda", 90, 32))
steps = [line.split()[2:4] for line in made.asm["ttir"].splitlines() if " arith." in line]
print("compiled for sm_90:", [" ".join(step) for step in steps])
assert sum(name == "arith.cmpi" for name, _ in steps) == 2, "one comparison is dropped here too"
assert any(name == "arith.andi" for name, _ in steps), "the compiler does not join them any more"
END

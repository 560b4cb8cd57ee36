#!/bin/sh
# triton 3.9.0: one `tl.load` of few numbers becomes two loads of the same addresses.
#
# A kernel loads 16 weights once, takes their maximum, and multiplies a block of rows by them. A reader
# expects one load of 16 numbers. Seen instead, with one warp: two. The compiler needs the numbers in two
# layouts, one for the maximum and one for the rows, and where a vector has fewer elements than the
# program has threads it does not convert one into the other, it loads again: the second time every
# thread loads all 16 (four more 128-bit loads). With 32 weights there is one load. The same under
# `volatile=True`. So a loop over tiles of 16 splits asks memory twice for every lse, and if another
# program writes there meanwhile, the maximum may be of other numbers than those that follow.
#
# Prints what it sees; fails if that is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check triton==3.9.0

cat > "$folder/kernels.py" <<'END'
import triton
import triton.language as tl


@triton.jit
def weigh(weights, rows, out, N: tl.constexpr, D: tl.constexpr, VOLATILE: tl.constexpr):
    i, d = tl.arange(0, N), tl.arange(0, D)
    w = tl.load(weights + i, volatile=VOLATILE)
    w = tl.exp(w - tl.max(w, 0))
    x = tl.load(rows + i[:, None] * D + d[None, :])
    tl.store(out + d, tl.sum(w[:, None] * x, 0))
END

cd "$folder"
TRITON_CACHE_DIR="$folder/cache" "$folder/venv/bin/python" -W ignore - <<'END'
import triton
from kernels import weigh
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

names = ("weights", "rows", "out", "N", "D", "VOLATILE")
types = dict.fromkeys(names[:3], "*fp32") | dict.fromkeys(names[3:], "constexpr")
aligned = {(i,): [["tt.divisibility", 16]] for i in range(3)}


def loads(n, volatile):
    """How often the program loads: as written, as laid out for the GPU; 128-bit loads in the end."""
    source = ASTSource(weigh, types, {"N": n, "D": 128, "VOLATILE": volatile}, aligned)
    made = triton.compile(source, GPUTarget("cuda", 90, 32), {"num_warps": 1}).asm
    written, laid_out = (made[stage].count("tt.load ") for stage in ("ttir", "ttgir"))
    return written, laid_out, made["ptx"].count(".v4.b32")


found = {(n, volatile): loads(n, volatile) for n in (16, 32) for volatile in (False, True)}
for (n, volatile), (written, laid_out, wide) in found.items():
    print(f"{n} weights, volatile={volatile}: {written} loads written, {laid_out} made", f"({wide} wide)")
assert all(written == 2 for written, _, _ in found.values())
assert found[32, False][1] == 2, "32 weights are loaded twice as well now"
assert found[16, False][1] == 3, "16 weights are loaded once now"
assert found[16, True][1] == 3, "volatile keeps it to one load now"
END

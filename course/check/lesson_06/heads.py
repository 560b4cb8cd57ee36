"""Exercise 6.3: which K and V a program reads when query heads share them."""

from course.check.guards import poisoned
from course.check.lesson_06.fp32_attention import drawn, inside_nan, launch, tolerance
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip
from kernels.flash_attention import attend
from kernels.primitives import LOG2_E, finalize
from kernels.runtime import device
from reference.attention import oracle

# isort: split
import triton
import triton.language as tl

D, BLOCK, Lq, Lk = 16, 16, 16, 40  # enough keys for q's strides to stay inside k


@right
@triton.jit
def heads_kernel(
    q_ptr, k_ptr, v_ptr, o_ptr,
    stride_qb, stride_qm, stride_qh,
    stride_kb, stride_kn, stride_kh,
    stride_vb, stride_vn, stride_vh,
    G, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    head, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    head_kv = head // G
    q_ptr += batch * stride_qb + head * stride_qh
    k_ptr += batch * stride_kb + head_kv * stride_kh
    v_ptr += batch * stride_vb + head_kv * stride_vh
    offs_m, offs_d = tl.arange(0, BLOCK_M), tl.arange(0, D)[None, :]
    q = tl.load(q_ptr + offs_m[:, None] * stride_qm + offs_d)
    m_log2 = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    state = (m_log2, tl.zeros((BLOCK_M,), tl.float32), tl.zeros((BLOCK_M, D), tl.float32))
    sees = tl.full((BLOCK_M,), 0, tl.int32) + Lk
    kv = (k_ptr, stride_kn, v_ptr, stride_vn)
    state = attend(state, q, kv, scale_log2, 0, Lk, sees, D, BLOCK_N, MASKED=True)
    o, _ = finalize(state[0], state[1], state[2])
    row = (batch * BLOCK_M + offs_m) * tl.num_programs(0) + head
    tl.store(o_ptr + row[:, None] * D + offs_d, o)


@also_right
@triton.jit
def counted(
    q_ptr, k_ptr, v_ptr, o_ptr, sqb, sqm, sqh, skb, skn, skh, svb, svn, svh, G, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Counts the groups and steps through them."""
    head, batch = tl.program_id(0), tl.program_id(1)
    q_ptr += batch * sqb + head * sqh
    for _ in range(G, head + 1, G):
        k_ptr += skh
        v_ptr += svh
    for _ in range(0, batch):
        k_ptr += skb
        v_ptr += svb
    offs_m, offs_d = tl.arange(0, BLOCK_M), tl.arange(0, D)[None, :]
    q = tl.load(q_ptr + offs_m[:, None] * sqm + offs_d)
    m_log2 = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    state = (m_log2, tl.zeros((BLOCK_M,), tl.float32), tl.zeros((BLOCK_M, D), tl.float32))
    sees = tl.full((BLOCK_M,), 0, tl.int32) + Lk
    kv = (k_ptr, skn, v_ptr, svn)
    state = attend(state, q, kv, scale_log2, 0, Lk, sees, D, BLOCK_N, MASKED=True)
    o, _ = finalize(state[0], state[1], state[2])
    row = (batch * BLOCK_M + offs_m) * tl.num_programs(0) + head
    tl.store(o_ptr + row[:, None] * D + offs_d, o)


def seen(answer, rng, B, Hq, Hkv, gaps=(0, 0, 0), spare=0, order=(0, 1, 2, 3), D=D):
    """Launch (Hq, B) programs.

    gaps: entries of NaN after each row of q, k and v. spare: rows after those that count, as in a
    cache. order: of the dimensions in memory.
    """
    lengths = Lq, Lk, Lk
    shapes = [(B, n + spare, H, D) for n, H in zip(lengths, (Hq, Hkv, Hkv), strict=True)]
    qkv = drawn(rng, *shapes)
    ins = inside_nan(*(x.permute(order) for x in qkv), gaps=gaps)
    views = [x.tensor.permute(order)[:, :n] for x, n in zip(ins, lengths, strict=True)]
    q, k, v = (x[:, :n] for x, n in zip(qkv, lengths, strict=True))
    o = poisoned((B, Lq, Hq, D), name="o", device=device())
    strides = [n for x in views for n in x.stride()[:3]]
    tensors = [*views, o.tensor]
    scale = D**-0.5
    constants = {"D": D, "BLOCK_M": BLOCK, "BLOCK_N": BLOCK}
    launch(answer, (Hq, B), *tensors, *strides, Hq // Hkv, Lk, scale * LOG2_E, **constants)
    wanted, _ = oracle(q, k, v, scale=scale)
    return Seen(
        o.tensor,
        wanted.float(),
        f"B = {B}, Hq = {Hq}, Hkv = {Hkv}, strides {[x.stride()[:3] for x in views]}",
        names=("o",),
        guards=(*ins, o),
        atol=tolerance(*(x.reshape(-1, D) for x in (q, k, v)), scale),
        rtol=0.0,
    )


@holds("one program, nothing to choose")
def one_head(answer, rng):
    return seen(answer, rng, 1, 1, 1)


@holds("three query heads, three KV heads")
def each_its_own(answer, rng):
    return seen(answer, rng, 1, 3, 3)


@holds("six query heads, two KV heads")
def groups(answer, rng):
    return seen(answer, rng, 1, 6, 2)


@holds("four query heads, one KV head")
def one_for_all(answer, rng):
    return seen(answer, rng, 1, 4, 1)


@holds("two batch rows")
def a_batch(answer, rng):
    return seen(answer, rng, 2, 4, 2)


@holds("gaps after the rows, different in q, k and v")
def rows_apart(answer, rng):
    return seen(answer, rng, 2, 4, 2, (4, 12, 8), D=32)


@holds("a cache with room for more tokens than Lk")
def room_to_grow(answer, rng):
    """The next batch row is not Lk tokens further on."""
    return seen(answer, rng, 2, 1, 1, spare=5)


@holds("all tokens of a head side by side")
def heads_outside(answer, rng):
    """(B, H, L, D) in memory: heads are further apart than tokens."""
    return seen(answer, rng, 1, 4, 2, order=(0, 2, 1, 3))


slip(
    "own head",
    "Every query head reads the KV head of **its own number**. There are only Hq / G of "
    "those, so later query heads read what belongs to the next token.",
    ("head // G", "head"),
)
slip(
    "modulo",
    "The KV head is computed as a **remainder**: neighbouring query heads then read "
    "different keys. A group is G adjacent heads.",
    ("head // G", "head % G"),
)
slip(
    "interleaved",
    "The KV head is the **remainder modulo Hkv**, so heads 0, Hkv, 2 Hkv, … share one. In "
    "this layout a group is G adjacent heads.",
    ("head // G", "head % (tl.num_programs(0) // G)"),
)
slip(
    "the first KV head",
    "All programs read the **first KV head**: k_ptr and v_ptr don't depend on the head.",
    ("head // G", "head * 0"),
)
slip(
    "KV head for q",
    "q_ptr is moved by the **KV head**, but only K and V are shared. Each query head has "
    "its own queries.",
    ("head * stride_qh", "head_kv * stride_qh"),
)
slip(
    "batch forgotten",
    "K and V are always those of **batch row 0**: the head is right, the batch is missing.",
    ("batch * stride_kb + ", ""),
    ("batch * stride_vb + ", ""),
)
slip(
    "batch of q forgotten",
    "q is always that of **batch row 0**: K and V follow the batch, q does not.",
    ("batch * stride_qb + ", ""),
)
slip(
    "no batch at all",
    "All three pointers stay in **batch row 0**: the program's batch is never used.",
    ("batch * stride_qb + ", ""),
    ("batch * stride_kb + ", ""),
    ("batch * stride_vb + ", ""),
)
slip(
    "strides of q",
    "K and V are addressed with the **strides of q**. They have fewer heads and a "
    "different length, so their heads and batch rows are different distances apart.",
    ("batch * stride_kb + head_kv * stride_kh", "batch * stride_qb + head_kv * stride_qh"),
    ("batch * stride_vb + head_kv * stride_vh", "batch * stride_qb + head_kv * stride_qh"),
)
slip(
    "K with the strides of q",
    "K is addressed with the **strides of q**. It has fewer heads and a different "
    "length, so its heads and batch rows are different distances apart.",
    ("batch * stride_kb + head_kv * stride_kh", "batch * stride_qb + head_kv * stride_qh"),
)
slip(
    "V with the strides of K",
    "V is addressed with the **strides of K**: that is right only if both are laid out in "
    "memory the same way, and they need not be.",
    ("batch * stride_vb + head_kv * stride_vh", "batch * stride_kb + head_kv * stride_kh"),
)
slip(
    "contiguous taken for granted",
    "The next KV head is taken to be **D elements** further on. Only the strides say how "
    "far apart two heads are.",
    ("head_kv * stride_kh", "head_kv * D"),
    ("head_kv * stride_vh", "head_kv * D"),
)
slip(
    "a token for a head",
    "The next KV head is taken to be **one key** further on: stride_kn and stride_vn step "
    "along the tokens, stride_kh and stride_vh along the heads.",
    ("head_kv * stride_kh", "head_kv * stride_kn"),
    ("head_kv * stride_vh", "head_kv * stride_vn"),
)

for x, name in ("k", "K"), ("v", "V"):
    slip(
        f"batch of {name} forgotten",
        f"**{name}** is always that of batch row 0: its pointer moves by the KV head alone.",
        (f"batch * stride_{x}b + ", ""),
    )
    slip(
        f"the first KV head of {name}",
        f"**{name}** is always that of KV head 0: its pointer moves by the batch alone.",
        (f" + head_kv * stride_{x}h", ""),
    )
    slip(
        f"own head of {name}",
        f"For **{name}** the number of the query head is taken. Its heads are the KV heads.",
        (f"head_kv * stride_{x}h", f"head * stride_{x}h"),
    )
    slip(
        f"{name} not moved",
        f"The pointer to **{name}** stays where it is: every program reads batch row 0, KV head 0.",
        (f"    {x}_ptr += batch * stride_{x}b + head_kv * stride_{x}h\n", ""),
    )
slip(
    "K moved twice",
    "K's pointer is moved **twice**, the second time by V's strides, and V's not at all.",
    ("v_ptr += batch", "k_ptr += batch"),
)
slip(
    "nothing moved",
    "**None of the pointers moves**: every program reads head 0 of batch row 0.",
    ("batch * stride_qb + head * stride_qh", "0"),
    ("batch * stride_kb + head_kv * stride_kh", "0"),
    ("batch * stride_vb + head_kv * stride_vh", "0"),
)
slip(
    "q not moved",
    "The pointer to **q** stays where it is: every program reads the queries of head 0, batch "
    "row 0.",
    ("batch * stride_qb + head * stride_qh", "0"),
)
slip(
    "head of q forgotten",
    "All programs of a batch row read the queries of **head 0**: q_ptr moves by the batch alone.",
    (" + head * stride_qh", ""),
)
slip(
    "head and batch swapped",
    "The strides are **swapped**: stride_…b is the way from one batch row to the next, "
    "stride_…h from one head to the next.",
    ("batch * stride_qb + head * stride_qh", "head * stride_qb + batch * stride_qh"),
    ("batch * stride_kb + head_kv * stride_kh", "head_kv * stride_kb + batch * stride_kh"),
    ("batch * stride_vb + head_kv * stride_vh", "head_kv * stride_vb + batch * stride_vh"),
)
slip(
    "batch shared, too",
    "The **batch row** is divided by G as well. Only heads are shared: each row has its own K and "
    "V.",
    ("batch * stride_kb", "batch // G * stride_kb"),
    ("batch * stride_vb", "batch // G * stride_vb"),
)
slip(
    "multiplied",
    "The KV head is the query head **times G**. There are fewer KV heads, not more.",
    ("head // G", "head * G"),
)
slip(
    "rounded up",
    "head / G is rounded **up** where it should be rounded down: heads 0 … G − 1 share KV head 0.",
    ("head // G", "(head + G - 1) // G"),
)
slip(
    "counted from 1",
    "The division counts heads **from 1**: the last head of each group already gets the next KV "
    "head. Heads 0 … G − 1 share KV head 0.",
    ("head // G", "(head + 1) // G"),
)
slip(
    "V with the strides of q",
    "V is addressed with the **strides of q**. It has fewer heads and a different length, so its "
    "heads and batch rows are different distances apart.",
    ("batch * stride_vb + head_kv * stride_vh", "batch * stride_qb + head_kv * stride_qh"),
)
for x, what in ("h", "KV head"), ("b", "batch row"):
    slip(
        f"V's {what} by K's stride",
        f"The next {what} of V is taken to be as far away as **that of K**. V has strides of its "
        "own.",
        (f"* stride_v{x}", f"* stride_k{x}"),
    )
slip(
    "no head at all",
    "All three pointers stay at **head 0** of their batch row: the program's head is never used.",
    (" + head * stride_qh", ""),
    (" + head_kv * stride_kh", ""),
    (" + head_kv * stride_vh", ""),
)
for name, step, way in ("tokens", "stride_{}", "one token"), ("D apart", "D", "D elements"):
    slip(
        f"heads taken for {name}",
        f"The next head is taken to be **{way}** further on, for q, K and V. "
        "Only stride_qh, stride_kh and stride_vh say how far apart two heads are.",
        ("* stride_qh", f"* {step.format('qm')}"),
        ("* stride_kh", f"* {step.format('kn')}"),
        ("* stride_vh", f"* {step.format('vn')}"),
    )

HEADS = Exercise.of(
    __name__,
    "6.3 heads",
    title="Whose keys are these?",
    section="4 · Heads, batches, strides",
    needs=("triton",),
    trials=1,
)

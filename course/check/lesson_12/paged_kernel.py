"""Exercise 12.3: the split kernel finds its keys through the block table."""

from course.check.draw import integer
from course.check.lesson_12.paged_launch import ask
from course.check.spec import Exercise, also_right, holds, right, slip

# isort: split
import triton
import triton.language as tl

LOOK_UP = "6 · The kernel of lesson 09, with a table"


@right
@triton.jit
def paged_kernel(
    q_ptr, k_ptr, v_ptr, table_ptr, lengths_ptr, o_ptr, lse_ptr,
    stride_page, stride_slot, stride_head, stride_table,
    scale, G, PAGE: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    split, kv_head, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    S, Hkv, B = tl.num_programs(0), tl.num_programs(1), tl.num_programs(2)
    length = tl.load(lengths_ptr + b)
    chunk = tl.cdiv(tl.cdiv(length, BLOCK_N), S) * BLOCK_N
    start = tl.minimum(split * chunk, length)
    stop = tl.minimum(start + chunk, length)
    offs_m, offs_d = tl.arange(0, BLOCK_M), tl.arange(0, D)
    mask_m = offs_m < G
    row = (b * Hkv + kv_head) * G + offs_m  # of the B · Hq query rows
    q = tl.load(q_ptr + row[:, None] * D + offs_d[None, :], mask=mask_m[:, None], other=0.0)
    m = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    l, acc = tl.zeros((BLOCK_M,), tl.float32), tl.zeros((BLOCK_M, D), tl.float32)
    for start_n in range(start, stop, BLOCK_N):
        offs_n = start_n + tl.arange(0, BLOCK_N)
        mask_n = offs_n < stop
        entry = table_ptr + b * stride_table + offs_n // PAGE
        page = tl.load(entry, mask=mask_n, other=0).to(tl.int64)
        offs = page * stride_page + offs_n % PAGE * stride_slot + kv_head * stride_head
        k = tl.load(k_ptr + offs[:, None] + offs_d[None, :], mask=mask_n[:, None], other=0.0)
        v = tl.load(v_ptr + offs[:, None] + offs_d[None, :], mask=mask_n[:, None], other=0.0)
        scores = scale * tl.dot(q, tl.trans(k), input_precision="ieee")
        scores = tl.where(mask_n[None, :], scores, float("-inf"))
        m_new = tl.maximum(m, tl.max(scores, 1))  # finite: every block has a key
        alpha = tl.exp(m - m_new)
        p = tl.exp(scores - m_new[:, None])
        l = l * alpha + tl.sum(p, 1)
        acc = acc * alpha[:, None] + tl.dot(p, v, input_precision="ieee")
        m = m_new
    l_safe = tl.where(l == 0.0, 1.0, l)  # an empty split: o = 0, lse = -inf
    place = split * (B * Hkv * G) + row
    o_ptrs = o_ptr + place[:, None] * D + offs_d[None, :]
    tl.store(o_ptrs, acc / l_safe[:, None], mask=mask_m[:, None])
    tl.store(lse_ptr + place, m + tl.log(l_safe), mask=mask_m)


@also_right
@triton.jit
def by_pointers(
    q_ptr, k_ptr, v_ptr, table_ptr, lengths_ptr, o_ptr, lse_ptr,
    stride_page, stride_slot, stride_head, stride_table,
    scale, G, PAGE: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The table's row and the head's column are found once, and K is loaded without a mask.

    K may hold anything where there is no key, as its scores are replaced; page 0 always exists.
    """
    split, kv_head, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    S, Hkv, B = tl.num_programs(0), tl.num_programs(1), tl.num_programs(2)
    length = tl.load(lengths_ptr + b)
    chunk = tl.cdiv(tl.cdiv(length, BLOCK_N), S) * BLOCK_N
    start = tl.minimum(split * chunk, length)
    stop = tl.minimum(start + chunk, length)
    offs_m, offs_d = tl.arange(0, BLOCK_M), tl.arange(0, D)
    mask_m = offs_m < G
    row = (b * Hkv + kv_head) * G + offs_m
    q = tl.load(q_ptr + row[:, None] * D + offs_d[None, :], mask=mask_m[:, None], other=0.0)
    m = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    l, acc = tl.zeros((BLOCK_M,), tl.float32), tl.zeros((BLOCK_M, D), tl.float32)
    table_ptr += b * stride_table
    k_ptr += kv_head * stride_head
    v_ptr += kv_head * stride_head
    for start_n in range(start, stop, BLOCK_N):
        offs_n = start_n + tl.arange(0, BLOCK_N)[:, None]
        exists = offs_n < stop
        page, slot = offs_n // PAGE, offs_n - offs_n // PAGE * PAGE
        page = tl.load(table_ptr + page, mask=exists, other=0).to(tl.int64)
        cells = page * stride_page + slot * stride_slot + offs_d[None, :]
        k = tl.load(k_ptr + cells)
        scores = scale * tl.dot(q, tl.trans(k), input_precision="ieee")
        scores = tl.where(tl.trans(exists), scores, float("-inf"))
        m_new = tl.maximum(m, tl.max(scores, 1))
        p = tl.exp(scores - m_new[:, None])
        alpha = tl.exp(m - m_new)
        l, m = l * alpha + tl.sum(p, 1), m_new
        v = tl.load(v_ptr + cells, mask=exists, other=0.0)
        acc = acc * alpha[:, None] + tl.dot(p, v, input_precision="ieee")
    l_safe = tl.where(l == 0.0, 1.0, l)
    place = split * (B * Hkv * G) + row
    o_ptrs = o_ptr + place[:, None] * D + offs_d[None, :]
    tl.store(o_ptrs, acc / l_safe[:, None], mask=mask_m[:, None])
    tl.store(lse_ptr + place, m + tl.log(l_safe), mask=mask_m)


@holds("pages of one block each, in any order")
def pages_of_a_block(answer, rng):
    return ask(answer, rng, lengths=[48], page=16)


@holds("pages of two blocks; the last one is not full")
def large_pages(answer, rng):
    return ask(answer, rng, lengths=[integer(rng, 65, 79)], page=64, block_n=32)


@holds("pages smaller than a block: several look-ups in each")
def small_pages(answer, rng):
    """At most 44 keys: then the last of 48 lanes lead past the end of the table."""
    return ask(answer, rng, lengths=[integer(rng, 33, 44)], page=4)


@holds("pages of 24, 5 and 1: no power of two, and a token each")
def odd_pages(answer, rng):
    return [
        ask(answer, rng, lengths=[integer(rng, 49, 60)], page=24),
        ask(answer, rng, lengths=[integer(rng, 21, 34)], page=5),
        ask(answer, rng, lengths=[integer(rng, 17, 20)], page=1),
    ]


@holds("three rows, one of them empty; dead entries lead nowhere")
def ragged_rows(answer, rng):
    return ask(answer, rng, lengths=[integer(rng, 17, 31), 0, integer(rng, 33, 50)], page=8, room=3)


@holds("two KV heads, three query heads each; pages with gaps, or head by head")
def heads_and_strides(answer, rng):
    return [
        ask(answer, rng, lengths=[20, 33], Hkv=2, G=3, page=8, gap=4, D=32),
        ask(answer, rng, lengths=[20, 33], Hkv=2, G=3, page=8, heads_first=True),
    ]


@holds("each split its own keys, some splits none")
def splits(answer, rng):
    return [
        ask(answer, rng, lengths=[integer(rng, 66, 79), 40], S=3, page=8, G=2),
        ask(answer, rng, lengths=[integer(rng, 17, 31), 1, 1], S=5, page=32, Hkv=2),
    ]


@holds("two rows begin with the same pages")
def a_common_prefix(answer, rng):
    return ask(answer, rng, lengths=[30, integer(rng, 40, 47)], page=8, shared=3)


slip(
    "no table",
    "The keys are read **as if the pages lay in order**: the table is never asked. Load the page's "
    "number from it.",
    ("tl.load(entry, mask=mask_n, other=0).to(tl.int64)", "(offs_n // PAGE).to(tl.int64)"),
)
slip(
    "row 0's table",
    "All rows of the batch use the table of **row 0**. Row b begins b · stride_table entries "
    "later.",
    (" + b * stride_table", ""),
)
slip(
    "as wide as the row is long",
    "The table's rows are taken to be **as wide as this row has pages**. They are all equally "
    "wide: stride_table.",
    ("b * stride_table", "b * tl.cdiv(length, PAGE)"),
)
slip(
    "table transposed",
    "The table is read **column by column**: neighbouring entries belong to one row.",
    ("b * stride_table + offs_n // PAGE", "b + offs_n // PAGE * stride_table"),
)
slip(
    "one look-up per block",
    "The page is looked up **once per block**, for its first key. That is right if a page holds "
    "whole blocks; a smaller page, or one of another size, ends inside a block.",
    ("b * stride_table + offs_n // PAGE", "b * stride_table + start_n // PAGE + offs_n * 0"),
)
slip(
    "one page for the row",
    "Every block reads from the row's **first page**: the entry does not depend on the place.",
    ("b * stride_table + offs_n // PAGE", "b * stride_table + offs_n * 0"),
)
slip(
    "entries per token",
    "The table is indexed by **the place** of a key. It has an entry per page: divide by PAGE.",
    ("stride_table + offs_n // PAGE", "stride_table + offs_n"),
)
slip(
    "entries per block",
    "The table is indexed by **the block**. It has an entry per page, and a page is PAGE keys.",
    ("offs_n // PAGE", "offs_n // BLOCK_N"),
)
slip(
    "counted from the split",
    "Entries of the table are counted **from the start of the split**. They count from the start "
    "of the row.",
    ("offs_n // PAGE", "(offs_n - start) // PAGE"),
)
slip(
    "slots from the split",
    "Slots are counted **from the start of the split**. A page does not begin where a split does.",
    ("offs_n % PAGE", "(offs_n - start) % PAGE"),
)
slip(
    "slots from the block",
    "The slot is the key's number **in its block**. It is its number in the page: the remainder of "
    "the division by PAGE.",
    ("offs_n % PAGE", "tl.arange(0, BLOCK_N)"),
)
slip(
    "slot not reduced",
    "The slot is **the place itself**. In every page the slots begin anew: take the remainder.",
    ("offs_n % PAGE", "offs_n"),
)
slip(
    "page and slot swapped",
    "Quotient and remainder are **swapped**: the quotient is the entry of the table, the remainder "
    "the slot.",
    ("offs_n // PAGE", "offs_n @ PAGE"),
    ("offs_n % PAGE", "offs_n // PAGE"),
    ("offs_n @ PAGE", "offs_n % PAGE"),
)
slip(
    "no slot",
    "All keys of a page are read from its **first slot**.",
    (" + offs_n % PAGE * stride_slot", ""),
)
slip(
    "pages of 16",
    "The page size is taken to be **16**. It is PAGE.",
    ("offs_n // PAGE", "offs_n // 16"),
    ("offs_n % PAGE", "offs_n % 16"),
)
slip(
    "a page number is no offset",
    "The page's **number** is added as it is. A page begins stride_page numbers after the one "
    "before it.",
    ("page * stride_page", "page"),
)
slip(
    "pages without heads",
    "A page is taken to be **PAGE · D numbers** long. It holds all KV heads, and may have gaps "
    "after it: stride_page says how long it is.",
    ("page * stride_page", "page * PAGE * D"),
)
slip(
    "pages closely packed",
    "A page is taken to be **PAGE slots** long. There may be gaps between pages, and in another "
    "layout a page is not made of slots side by side: use stride_page.",
    ("page * stride_page", "page * PAGE * stride_slot"),
)
slip(
    "slots closely packed",
    "Slots are taken to lie **D numbers apart**. Between them are the other KV heads: use "
    "stride_slot.",
    ("* stride_slot", "* D"),
)
slip(
    "heads closely packed",
    "KV heads are taken to lie **D numbers apart**. In another layout they don't: use stride_head.",
    ("kv_head * stride_head", "kv_head * D"),
)
slip(
    "the first KV head",
    "All programs read **the first KV head**.",
    (" + kv_head * stride_head", ""),
)
slip(
    "a table for each head",
    "The table is taken to have a row for **each KV head** of each row. One row serves all heads.",
    ("b * stride_table", "(b * Hkv + kv_head) * stride_table"),
)
slip(
    "V is K",
    "The values are read **from the keys**.",
    ("v = tl.load(v_ptr", "v = tl.load(k_ptr"),
)
slip(
    "V not masked",
    "V is loaded **past the end**, too. p is 0 there, but what nobody has written may be NaN, and "
    "0 · NaN is NaN.",
    (
        "v = tl.load(v_ptr + offs[:, None] + offs_d[None, :], mask=mask_n[:, None], other=0.0)",
        "v = tl.load(v_ptr + offs[:, None] + offs_d[None, :])",
    ),
)
slip(
    "no mask on the table",
    "The table's load has **no mask**: for keys that don't exist it reads past the end of the "
    "row's entries, and of the table itself.",
    ("tl.load(entry, mask=mask_n, other=0)", "tl.load(entry)"),
)
slip(
    "masks for V alone",
    "The loads of the table and of K have **no mask**. The scores of keys that don't exist are "
    "replaced, but to load them, K follows entries that lead nowhere.",
    ("tl.load(entry, mask=mask_n, other=0)", "tl.load(entry)"),
    (
        "k = tl.load(k_ptr + offs[:, None] + offs_d[None, :], mask=mask_n[:, None], other=0.0)",
        "k = tl.load(k_ptr + offs[:, None] + offs_d[None, :])",
    ),
)
slip(
    "no masks",
    "**None of the loads has a mask**: for keys that don't exist, entries are read that lead "
    "nowhere, and values that may be NaN.",
    ("tl.load(entry, mask=mask_n, other=0)", "tl.load(entry)"),
    (", mask=mask_n[:, None], other=0.0", ""),
)
slip(
    "K and V exchanged",
    "Keys and values are **exchanged**: K comes from v_ptr, V from k_ptr.",
    ("k = tl.load(k_ptr", "k = tl.load(w_ptr"),
    ("v = tl.load(v_ptr", "v = tl.load(k_ptr"),
    ("tl.load(w_ptr", "tl.load(v_ptr"),
)
slip(
    "page and slot strides swapped",
    "The strides are **swapped**: stride_page leads from page to page, stride_slot from slot to "
    "slot.",
    ("page * stride_page", "page * stride_other"),
    ("PAGE * stride_slot", "PAGE * stride_page"),
    ("page * stride_other", "page * stride_slot"),
)
slip(
    "the KV head's row of the table",
    "The row of the table is that of **the KV head's number**. It is b, the row of the batch.",
    ("b * stride_table", "kv_head * stride_table"),
)
slip(
    "the split's row of the table",
    "The row of the table is that of **the split's number**. It is b, the row of the batch.",
    ("b * stride_table", "split * stride_table"),
)

PAGED_KERNEL = Exercise.of(
    __name__,
    "12.3 paged kernel",
    title="Look the page up in the kernel",
    section=LOOK_UP,
    needs=("triton",),
    trials=1,
    seconds=60.0,
)

"""Exercise 9.5's mistakes outside the loop: which keys, whose K, V and q, and where results go."""

from course.check.spec import slip

GRID = "1 · From three loops to a grid"
KEYS = "2 · Which keys: the row's own length, in whole blocks"
QUERIES = "3 · Which queries: pack the group"


slip(
    "an empty split writes nothing",
    "An **empty split writes nothing**, so the merge reads what lay in memory before. It has to "
    "leave o = 0 and lse = -inf.",
    ("mask=mask_m[:, None])\n    tl.store", "mask=mask_m[:, None] & (start < stop))\n    tl.store"),
    ("tl.log(l_safe), mask=mask_m", "tl.log(l_safe), mask=mask_m & (start < stop)"),
)
slip(
    "one key too many",
    "The mask is **off by one**: stop is the first key that does not belong to the split, so `<=` "
    "lets in one key too many.",
    ("offs_n < stop", "offs_n <= stop"),
    see=KEYS,
)
slip(
    "the whole row",
    "Every split takes **the whole row**: its keys are counted S times over.",
    ("start = tl.minimum(split * chunk, length)", "start = length * 0"),
    ("stop = tl.minimum(start + chunk, length)", "stop = length"),
    see=KEYS,
)
slip(
    "to the end of the row",
    "Each split begins at its own start, but runs on **to the end of the row**, through the keys "
    "of all splits after it.",
    ("stop = tl.minimum(start + chunk, length)", "stop = length"),
    see=KEYS,
)
slip(
    "past the end",
    "stop is **not pulled back to the length**: the last split reads on where there are no keys.",
    ("stop = tl.minimum(start + chunk, length)", "stop = start + chunk"),
    see=KEYS,
)
slip(
    "blocks for keys",
    "start and stop are **numbers of blocks**: multiply them by BLOCK_N to get keys.",
    ("tl.cdiv(tl.cdiv(length, BLOCK_N), S) * BLOCK_N", "tl.cdiv(tl.cdiv(length, BLOCK_N), S)"),
    see=KEYS,
)
slip(
    "rounded down",
    "The blocks per split are **rounded down**, so the last blocks of the row belong to no split.",
    ("tl.cdiv(tl.cdiv(length, BLOCK_N), S) * BLOCK_N", "tl.cdiv(length, BLOCK_N) // S * BLOCK_N"),
    see=KEYS,
)
slip(
    "keys cut, not blocks",
    "The **keys** are cut into S equal parts, so splits end inside a block. Cut the blocks: each "
    "split takes equally many whole ones.",
    ("tl.cdiv(tl.cdiv(length, BLOCK_N), S) * BLOCK_N", "tl.cdiv(length, S)"),
    see=KEYS,
)
slip(
    "the first row's length",
    "All rows of the batch take the **length of the first**: each has its own, at lengths_ptr + b.",
    ("tl.load(lengths_ptr + b)", "tl.load(lengths_ptr)"),
    see=KEYS,
)
slip(
    "K and V of the first row",
    "K and V are those of **the first row of the batch**, for all rows.",
    ("b.to(tl.int64) * stride_kb + ", ""),
    ("b.to(tl.int64) * stride_vb + ", ""),
    see=GRID,
)
slip(
    "the first KV head",
    "All programs read **the first KV head**: K and V don't depend on the second number of the "
    "grid.",
    (" + kv_head * stride_kh", ""),
    (" + kv_head * stride_vh", ""),
    see=GRID,
)
slip(
    "V with the strides of K",
    "V is addressed with **the strides of K**. It has its own, and they need not be the same.",
    ("stride_vb + kv_head", "stride_kb + kv_head"),
    ("kv_head * stride_vh", "kv_head * stride_kh"),
    ("* stride_vn", "* stride_kn"),
    see=QUERIES,
)
slip(
    "interleaved heads",
    "The query heads of a KV head are taken **Hkv apart**: kv_head, kv_head + Hkv, … A group is G "
    "adjacent heads.",
    ("(b * Hkv + kv_head) * G + offs_m", "b * Hkv * G + kv_head + offs_m * Hkv"),
    see=QUERIES,
)
slip(
    "one query head",
    "Only **one query head per KV head** is computed: all G of them belong into the tile.",
    ("mask_m = offs_m < G", "mask_m = offs_m < 1"),
    see=QUERIES,
)
slip(
    "padding stored",
    "The **padding rows are stored**, too: they overwrite what lies after the group, and after "
    "the tensors. Mask the stores as the load of q.",
    ("mask=mask_m[:, None])\n    tl.store", "mask=offs_m[:, None] >= 0)\n    tl.store"),
    ("tl.log(l_safe), mask=mask_m", "tl.log(l_safe)"),
    see=QUERIES,
)
slip(
    "all splits in one place",
    "All splits store **to the same place**: where a partial goes depends on the split as well.",
    ("split * (B * Hkv * G) + row", "row"),
)
slip(
    "splits after rows",
    "The partials lie **(B, S, …)** here; asked for is the split as the first dimension.",
    ("split * (B * Hkv * G) + row", "(b * S + split) * (Hkv * G) + kv_head * G + offs_m"),
)
slip(
    "blocks dealt out",
    "The blocks are **dealt out in turn**: split s takes blocks s, s + S, … Asked for is one "
    "range of adjacent blocks for each.",
    ("range(start, stop, BLOCK_N)", "range(split * BLOCK_N, length, S * BLOCK_N)"),
    ("offs_n < stop", "offs_n < length"),
    see=KEYS,
)
slip(
    "last block left out",
    "**The last block of a split is left out** unless it is full: the number of turns is rounded "
    "down.",
    (
        "range(start, stop, BLOCK_N)",
        "range(start, start + (stop - start) // BLOCK_N * BLOCK_N, BLOCK_N)",
    ),
    see=KEYS,
)
slip(
    "rounded down twice",
    "Both divisions are **rounded down**, so keys at the end of the row belong to no split.",
    ("tl.cdiv(tl.cdiv(length, BLOCK_N), S) * BLOCK_N", "length // BLOCK_N // S * BLOCK_N"),
    see=KEYS,
)
slip(
    "blocks rounded down",
    "The number of **blocks in the row** is rounded down: a last block that is not full counts as "
    "well.",
    ("tl.cdiv(tl.cdiv(length, BLOCK_N), S) * BLOCK_N", "tl.cdiv(length // BLOCK_N, S) * BLOCK_N"),
    see=KEYS,
)
slip(
    "keys cut and rounded down",
    "The **keys** are cut into S parts, **rounded down**: the last ones belong to no split. Cut "
    "the blocks, and round up.",
    ("tl.cdiv(tl.cdiv(length, BLOCK_N), S) * BLOCK_N", "length // S"),
    see=KEYS,
)
slip(
    "last split takes the rest",
    "The blocks per split are rounded down, and **the last split takes the rest**. Asked for is "
    "to round up: then the last splits have less, not more.",
    ("tl.cdiv(tl.cdiv(length, BLOCK_N), S) * BLOCK_N", "tl.cdiv(length, BLOCK_N) // S * BLOCK_N"),
    (
        "stop = tl.minimum(start + chunk, length)",
        "stop = tl.where(split == S - 1, length, start + chunk)",
    ),
    see=KEYS,
)
slip(
    "keys cut, masked by the length",
    "The **keys** are cut into S equal parts, and the mask knows only the length: the last block "
    "of a split reads on into the next one.",
    ("tl.cdiv(tl.cdiv(length, BLOCK_N), S) * BLOCK_N", "tl.cdiv(length, S)"),
    ("offs_n < stop", "offs_n < length"),
    see=KEYS,
)
slip(
    "loop from 0",
    "The loop begins **at the first key of the row**, not at the split's own start.",
    ("range(start, stop, BLOCK_N)", "range(0, stop, BLOCK_N)"),
    see=KEYS,
)
slip(
    "keys counted from 0",
    "The loop counts **from 0 within the split**, and reads there: start has to be added.",
    ("range(start, stop, BLOCK_N)", "range(0, stop - start, BLOCK_N)"),
    ("offs_n < stop", "offs_n < stop - start"),
    see=KEYS,
)
slip(
    "split and head swapped",
    "**split and kv_head are swapped**. The grid is (S, Hkv, B).",
    (
        "split, kv_head, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)",
        "split, kv_head, b = tl.program_id(1), tl.program_id(0), tl.program_id(2)",
    ),
    see=GRID,
)
slip(
    "S and Hkv swapped, too",
    "The **first two axes are swapped**, as ids and as numbers of programs. The grid is (S, Hkv, "
    "B).",
    (
        "split, kv_head, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)",
        "split, kv_head, b = tl.program_id(1), tl.program_id(0), tl.program_id(2)",
    ),
    (
        "S, Hkv, B = tl.num_programs(0), tl.num_programs(1), tl.num_programs(2)",
        "S, Hkv, B = tl.num_programs(1), tl.num_programs(0), tl.num_programs(2)",
    ),
    see=GRID,
)
slip(
    "head and row swapped",
    "**kv_head and b are swapped**. The grid is (S, Hkv, B).",
    (
        "split, kv_head, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)",
        "split, kv_head, b = tl.program_id(0), tl.program_id(2), tl.program_id(1)",
    ),
    see=GRID,
)
slip(
    "split and row swapped",
    "**split and b are swapped**. The grid is (S, Hkv, B).",
    (
        "split, kv_head, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)",
        "split, kv_head, b = tl.program_id(2), tl.program_id(1), tl.program_id(0)",
    ),
    see=GRID,
)
slip(
    "strides of K swapped",
    "In K, the strides from key to key and from head to head are **swapped**.",
    ("kv_head * stride_kh", "kv_head * stride_kx"),
    ("* stride_kn", "* stride_kh"),
    ("stride_kx", "stride_kn"),
    see=QUERIES,
)
slip(
    "strides of V swapped",
    "In V, the strides from key to key and from head to head are **swapped**.",
    ("kv_head * stride_vh", "kv_head * stride_vx"),
    ("* stride_vn", "* stride_vh"),
    ("stride_vx", "stride_vn"),
    see=QUERIES,
)
slip(
    "strides swapped",
    "In K and V, the strides from key to key and from head to head are **swapped**.",
    ("kv_head * stride_kh", "kv_head * stride_kx"),
    ("* stride_kn", "* stride_kh"),
    ("stride_kx", "stride_kn"),
    ("kv_head * stride_vh", "kv_head * stride_vx"),
    ("* stride_vn", "* stride_vh"),
    ("stride_vx", "stride_vn"),
    see=QUERIES,
)
slip(
    "K of the first KV head",
    "**K is that of the first KV head**, in all programs.",
    (" + kv_head * stride_kh", ""),
    see=GRID,
)
slip(
    "K of the first row",
    "**K is that of the first row** of the batch, in all programs.",
    ("b.to(tl.int64) * stride_kb + ", ""),
    see=GRID,
)
slip(
    "V of the first KV head",
    "**V is that of the first KV head**, in all programs.",
    (" + kv_head * stride_vh", ""),
    see=GRID,
)
slip(
    "V of the first row",
    "**V is that of the first row** of the batch, in all programs.",
    ("b.to(tl.int64) * stride_vb + ", ""),
    see=GRID,
)
slip(
    "query head for KV head",
    "K and V are those of KV head **kv_head · G**: that is a query head. The second number of the "
    "grid counts KV heads already.",
    ("kv_head * stride_kh", "kv_head * G * stride_kh"),
    ("kv_head * stride_vh", "kv_head * G * stride_vh"),
    see=QUERIES,
)
slip(
    "q of the first row",
    "**q is that of the first row** of the batch, in all programs.",
    ("q_ptr + row[:, None] * D", "q_ptr + (kv_head * G + offs_m)[:, None] * D"),
    see=QUERIES,
)
slip(
    "rows without b",
    "The rows of q, o and lse **don't depend on b**: all rows of the batch use, and write, those "
    "of the first.",
    ("(b * Hkv + kv_head) * G", "kv_head * G"),
    see=QUERIES,
)
slip(
    "q of the first group",
    "**q is that of the first group** of heads, in all programs.",
    ("q_ptr + row[:, None] * D", "q_ptr + (b * Hkv * G + offs_m)[:, None] * D"),
    see=QUERIES,
)
slip(
    "group starts at kv_head",
    "The group of q starts **at head kv_head**: G heads belong to each KV head, so it starts at "
    "kv_head · G.",
    ("q_ptr + row[:, None] * D", "q_ptr + (b * Hkv * G + kv_head + offs_m)[:, None] * D"),
    see=QUERIES,
)
slip(
    "splits of one row",
    "The splits lie **Hq rows apart** here, as if the batch had one row. A split of o has B · Hq "
    "rows.",
    ("split * (B * Hkv * G) + row", "split * (Hkv * G) + row"),
)
slip(
    "splits last",
    "The partials lie **(B, Hq, S, …)** here; asked for is the split as the first dimension.",
    ("split * (B * Hkv * G) + row", "row * tl.num_programs(0) + split"),
)

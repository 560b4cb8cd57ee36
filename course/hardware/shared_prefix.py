"""When a shared prefix pays: the bytes of K and V read with and without `cascade_decode`.

    apart      every row reads the prefix on its own            B · passes(G·Lq) · Lp · c
    together   all rows' queries attend to it in full tiles     passes(B·G·Lq) · Lp · c + partials

c is what a token's keys and values take. A tile of the kernel holds up to TILE query rows, and each
tile reads all keys once: passes(n) = ⌈n / TILE⌉. The price of two calls is a second (o, lse) for
each query row, written, and read again by the merge, which also reads the first.

These are bytes asked for. A GPU's L2 cache may serve some of the reads of a prefix whose pages all
rows share, and then less is saved.

Source: `kernels.cascade`; Juravsky et al. 2024, "Hydragen", section 3.
"""

from course.hardware.sizes import check_shape, element_bytes

TILE = 64


def passes(rows: int) -> int:
    """How many times `rows` query rows of one KV head read the same keys.

    >>> passes(8), passes(64), passes(65)
    (1, 1, 2)
    """
    return -(-rows // TILE)


def prefix_bytes(
    *,
    batch: int,
    heads: tuple[int, int],
    head_dim: int,
    prefix: int,
    queries: int = 1,
    dtype: str = "bf16",
) -> tuple[int, int]:
    """The bytes that a prefix of `prefix` tokens costs one layer: (apart, together).

    What the rows read of their own keys is the same in both, and left out.

    >>> prefix_bytes(batch=32, heads=(32, 8), head_dim=128, prefix=2048)
    (268435456, 17842176)

    32 users of one system prompt: 16 MB are read for it (and 1 MB of partials), not 256 MB.
    """
    check_shape(heads=heads, batch=batch, head_dim=head_dim, queries=queries)
    Hq, Hkv = heads
    group, size = Hq // Hkv * queries, element_bytes(dtype)
    token = 2 * Hkv * head_dim * size
    apart = batch * passes(group) * prefix * token
    partials = 4 * batch * queries * Hq * (head_dim * size + 4)  # two, each written and read
    return apart, passes(batch * group) * prefix * token + partials


def shortest_that_pays(
    *,
    batch: int,
    heads: tuple[int, int],
    head_dim: int,
    queries: int = 1,
    dtype: str = "bf16",
    extra: float = 0.0,
) -> int | None:
    """The shortest prefix, in tokens, for which `together` takes fewer bytes; None if none does.

    extra: what else sharing costs, in bytes: the time of its launches times the memory's bandwidth.

    >>> shortest_that_pays(batch=32, heads=(32, 8), head_dim=128)
    9
    >>> shortest_that_pays(batch=1, heads=(32, 8), head_dim=128) is None
    True
    """
    shape = {"batch": batch, "heads": heads, "head_dim": head_dim}
    shape |= {"queries": queries, "dtype": dtype}
    none = prefix_bytes(prefix=0, **shape)[1]
    one = prefix_bytes(prefix=1, **shape)
    saved = one[0] - (one[1] - none)  # by each token of the prefix
    return int((none + extra) // saved) + 1 if saved > 0 else None

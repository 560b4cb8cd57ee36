"""Exercise 12.3's launch: shuffled pages, NaN wherever nobody has written, and fp64 beside it."""

import math

import torch

from course.check.guards import guarded, poisoned
from course.check.lesson_09.split_launch import truth
from course.check.seen import Seen
from kernels.runtime import device


def paged(rows, lengths, page, rng, *, room=0, shared=0):
    """Cut k and v, each (B, capacity, Hkv, D), into shuffled pages; returns these and the table.

    What no key fills is NaN. room: unused columns of the table. shared: pages that all rows begin
    with; their numbers must be equal in all rows. Dead entries name the page after the last one:
    it lies in the NaN around the pages, where a read is noticed and does a GPU no harm.
    """
    counts = [math.ceil(length / page) for length in lengths]
    total = sum(counts) - shared * (len(lengths) - 1) + 2
    numbers = torch.randperm(total, generator=rng).tolist()
    table = torch.full((len(lengths), max([1, *counts]) + room), total, dtype=torch.int32)
    common = [numbers.pop() for _ in range(shared)]
    pools = [torch.full((total, page, *x.shape[2:]), math.nan) for x in rows]
    for b, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        own = common + [numbers.pop() for _ in range(count - shared)]
        table[b, :count] = torch.tensor(own, dtype=torch.int32)
        for place in range(length):
            for pool, x in zip(pools, rows, strict=True):
                pool[own[place // page], place % page] = x[b, place]
    return pools, table


def ask(answer, rng, *, lengths, page, Hkv=1, G=1, S=1, D=16, block_n=16, **more):
    """Launch (S, Hkv, B) programs on random keys in pages.

    more: room and shared as in `paged`; gap (NaN between the cells of the pages); heads_first (a
    page is laid out (Hkv, page, D)).
    """
    B, capacity, shared = len(lengths), max(lengths), more.get("shared", 0)
    q = torch.randn(B, Hkv * G, D, generator=rng)
    k, v = torch.randn(2, B, capacity, Hkv, D, generator=rng)
    for x in (k, v):
        x[:, : shared * page] = x[:1, : shared * page]
    scale = D**-0.5
    o_true, lse_true, near = truth(q, k, v, lengths, S, scale, block_n)
    pools, table = paged((k, v), lengths, page, rng, room=more.get("room", 0), shared=shared)
    if more.get("heads_first"):
        pools = [x.transpose(1, 2).contiguous() for x in pools]
    named = zip((q, *pools), "qkv", (0, *[more.get("gap", 0)] * 2), strict=True)
    ins = [guarded(x.to(device()), name, row_gap=gap) for x, name, gap in named]
    tensors = [x.tensor for x in ins]
    if more.get("heads_first"):
        tensors[1:] = [x.transpose(1, 2) for x in tensors[1:]]
    table = guarded(table.to(device()), "table", row_gap=2)
    rows = guarded(torch.tensor(lengths, dtype=torch.int32).to(device()), "lengths")
    o = poisoned((S, B, Hkv * G, D), name="o", device=device())
    lse = poisoned((S, B, Hkv * G), name="lse", device=device())
    strides = *tensors[1].stride()[:3], table.tensor.stride(0)
    constants = {"PAGE": page, "D": D, "BLOCK_M": 16, "BLOCK_N": block_n}
    answer[(S, Hkv, B)](
        *tensors, table.tensor, rows.tensor, o.tensor, lse.tensor, *strides, scale, G, **constants
    )
    told = f"S = {S}, Hkv = {Hkv}, G = {G}, lengths {[*lengths]}, PAGE = {page}, D = {D}"
    return Seen(
        (o.tensor, lse.tensor),
        (o_true, lse_true),
        f"{told}, BLOCK_N = {block_n}",
        names=("o", "lse"),
        guards=(*ins, table, rows, o, lse),
        atol=near,
        rtol=0.0,
    )

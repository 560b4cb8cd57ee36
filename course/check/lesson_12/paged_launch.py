"""Exercise 12.3's launch: shuffled pages, NaN wherever nobody has written, and fp64 beside it."""

import math

import torch

from course.check.guards import guarded
from course.check.lesson_09.split_launch import laid_out, launch, truth
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
    wanted = truth(q, k, v, lengths, S, scale, block_n)
    pools, table = paged((k, v), lengths, page, rng, room=more.get("room", 0), shared=shared)
    gaps = dict.fromkeys("kv", more.get("gap", 0))
    pages = dict(zip("kv", pools, strict=True))
    ins, pools = laid_out(pages, gaps, more.get("heads_first", False))
    q = guarded(q.to(device()), "q")
    table = guarded(table.to(device()), "table", row_gap=2)
    numbers = *pools[0].stride()[:3], table.tensor.stride(0), scale
    sizes = {"S": S, "Hkv": Hkv, "G": G, "D": D, "BLOCK_N": block_n}
    tensors, guards = (q.tensor, *pools, table.tensor), (q, *ins, table)
    return launch(
        answer, tensors, numbers, lengths, sizes, wanted, guards=guards, constants={"PAGE": page}
    )

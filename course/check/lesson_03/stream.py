"""A stream of tiles that can be read once, and what an answer keeps of it."""

import math
import tracemalloc
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from course.check.observe import tensors_in
from course.check.seen import Seen

LIMIT = 6e4  # the task promises scores between -60,000 and 60,000
EPS = torch.finfo(torch.float32).eps
SETTLED = 20  # tiles after which an answer that keeps little holds all that it ever will


def stream(scores, v, widths):
    """Yield the tiles one after another, all in the same memory, as in a GPU's fast memory.

    Asking for the next tile overwrites the previous one; a second loop gets nothing.
    """
    score_tile = torch.empty(scores.shape[0], max(widths))
    v_tile = torch.empty(max(widths), v.shape[1])
    start = 0
    for n in widths:
        score_tile[:, :n] = scores[:, start : start + n]
        v_tile[:n] = v[start : start + n]
        yield score_tile[:, :n], v_tile[:n]
        start += n


class Alive(TorchDispatchMode):
    """Counts the numbers in tensors that were made under it and are still referenced."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.made += [weakref.ref(tensor) for _, tensor in tensors_in((result,))]
        return result

    def numbers(self):
        """How many numbers are held now."""
        held = [tensor for ref in self.made if (tensor := ref()) is not None]
        once = {id(tensor): tensor.numel() for tensor in held}  # x.copy_() gives x again
        return sum(once.values())


def numbers_in_tensors(answer, scores, v, widths):
    """How many numbers an answer holds in tensors after the last tile has gone by."""
    kept = 0

    def watched():
        nonlocal kept
        yield from stream(scores, v, widths)
        kept = alive.numbers()

    with Alive() as alive:
        answer(watched(), scores.shape[0], v.shape[1])
    return kept


def bytes_of_python(answer, scores, v, widths):
    """By how much what an answer holds in lists, floats and NumPy arrays grows with the stream.

    The least of three tries: in one, some library may fill a cache of its own.
    """
    tries = (_growth(answer, scores, v, widths) for _ in range(3))
    return next((grown for grown in tries if grown < 1000), 1000)


def _growth(answer, scores, v, widths):
    held = []

    def watched():
        for i, tile in enumerate(stream(scores, v, widths)):
            if i == SETTLED:
                held.append(tracemalloc.get_traced_memory()[0])
            yield tile
        held.append(tracemalloc.get_traced_memory()[0])

    spare = [i + 0.5 for i in range(200)]  # Python's stock of freed floats is used up, and held
    ours = not tracemalloc.is_tracing()
    if ours:
        tracemalloc.start()
    try:
        answer(watched(), scores.shape[0], v.shape[1])
    finally:
        if ours:
            tracemalloc.stop()
        spare.clear()
    return held[-1] - held[0] if held else 0


def seen(answer, scores, v, widths):
    """Compare with the softmax of all keys at once, in fp64.

    Tolerance: n additions, and one rescaling per tile; its exponent is off by up to an ulp
    of the largest score if lse is kept instead of m and l.
    """
    rows, D = scores.shape[0], v.shape[1]
    lse = torch.logsumexp(scores.double(), -1)
    o = torch.softmax(scores.double(), -1) @ v.double()
    finite = scores[scores > -torch.inf]
    roundings = scores.shape[1] + len(widths) * (4 + finite.abs().max().item())
    given = f"{rows} row{'s' * (rows > 1)}, D = {D}, tiles of {', '.join(map(str, widths))} keys"
    if scores.numel() <= 6:
        given += f", scores {[round(x, 2) for x in scores.flatten().tolist()]}"
    got = answer(stream(scores, v, widths), rows, D)
    atol = 2 * EPS * roundings * max(1.0, v.abs().max().item())
    wanted = (o.float(), lse.float())
    return Seen(got, wanted, given, atol=atol, rtol=0.0, names=("o", "lse"), any_dtype=True)


def drawn(rng, rows, around, n, D=2):
    """Tiles of n keys each, with scores near the numbers in `around`."""
    scores = [(x + torch.randn(rows, n, generator=rng)).clamp(-LIMIT, LIMIT) for x in around]
    return torch.cat(scores, 1), torch.randn(n * len(around), D, generator=rng), [n] * len(around)


def by_lse(tiles, rows, D):
    """Carries a finished (o, lse) instead of (m, l, acc)."""
    o, lse = torch.zeros(rows, D), torch.full((rows,), -torch.inf)
    for scores, v in tiles:
        lse_tile = torch.logsumexp(scores, -1)
        lse_new = torch.logaddexp(lse, lse_tile)
        old, p = torch.exp(lse - lse_new), torch.exp(scores - lse_new[:, None])
        o, lse = old[:, None] * o + p @ v, lse_new
    return o, lse


def worked_examples(answer):
    """Within a few roundings: here nothing may be added to l, not even 1e-6."""
    log3 = math.log(3)
    cases = (
        ([2.0], [5.0], [1], 5, 2),
        ([2.0, 2.0], [5.0, 3.0], [1, 1], 4, 2 + math.log(2)),
        ([0.0, log3], [0.0, 4.0], [1, 1], 3, math.log(4)),
        ([0.0], [5.0], [1], 5, 0),
    )
    return [
        Seen(
            answer(stream(torch.tensor([scores]), torch.tensor(v)[:, None], widths), 1, 1),
            (torch.tensor([[float(o)]]), torch.tensor([float(lse)])),
            f"scores {[round(x, 2) for x in scores]}, values {v}, tiles of 1 key",
            names=("o", "lse"),
            atol=2e-7,
            rtol=8e-7,
            any_dtype=True,
        )
        for scores, v, widths, o, lse in cases
    ]

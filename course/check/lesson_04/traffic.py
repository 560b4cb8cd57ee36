"""What exercise 4.1 looks at: the results of a tile loop, and what moves while it runs."""

import math

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from course.check.guards import empty_is_nan
from course.check.observe import tensors_in
from course.check.seen import Seen
from reference.attention import oracle
from reference.traffic import Traffic

EPS = torch.finfo(torch.float32).eps


def head(rng, Lq, Lk, D=8):
    return [torch.randn(n, D, generator=rng) for n in (Lq, Lk, Lk)]


def tolerance(q, k, v):
    """A score rounds in D products of this size; Lk terms and a factor per tile add to that."""
    D, Lk = k.shape[1], len(k)
    size = (q.abs() @ k.abs().T).max().item() * D**-0.5
    return 2 * EPS * (D * size + 2 * Lk + 8) * max(1.0, v.abs().max().item())


def seen(answer, q, k, v, bm, bn):
    wanted = tuple(x[0, :, 0].float() for x in oracle(*(x[None, :, None] for x in (q, k, v))))
    given = f"Lq = {len(q)}, Lk = {len(k)}, D = {q.shape[1]}, block_m = {bm}, block_n = {bn}"
    with empty_is_nan():
        got = answer(q, k, v, bm, bn, Traffic())
    return Seen(got, wanted, given, names=("o", "lse"), atol=tolerance(q, k, v), rtol=0.0)


class Watching(Traffic):
    """Also keeps the largest tile loaded and all that is stored, both by name."""

    def __init__(self):
        super().__init__()
        self.largest, self.written = {}, {}

    def load(self, name, tile):
        """Count one read of `tile` and hand it back."""
        self.largest[name] = max(self.largest.get(name, 0), tile.numel())
        return super().load(name, tile)

    def store(self, name, tile):
        """Count one write of `tile` and hand it back."""
        self.written.setdefault(name, []).append(tile.detach().flatten().clone())
        return super().store(name, tile)

    def holds_all_of(self, name, result):
        """Say whether the numbers of a result are those stored, in whatever order of tiles."""
        parts = self.written.get(name, [])
        numbers = torch.cat(parts).sort().values if parts else torch.empty(0)
        wanted = result.detach().flatten().sort().values
        return numbers.shape == wanted.shape and torch.allclose(numbers, wanted, 1e-5, 1e-5)


class Sizes(TorchDispatchMode):
    """Keeps the size of the largest tensor that is made under it, views included."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for _, tensor in tensors_in((result,)):
            self.largest = max(self.largest, tensor.numel())
        return result


def largest_tensor(answer, *args):
    """How many numbers the largest tensor holds that an answer makes."""
    with Sizes() as sizes:
        answer(*args)
    return sizes.largest


def counted(answer, q, k, v, bm, bn):
    traffic, Lq, Lk = Watching(), len(q), len(k)
    result = answer(q, k, v, bm, bn, traffic)
    got = {f"{n} loaded": traffic.loads[n] for n in "qkv"}
    got |= {f"{n} stored": traffic.stores[n] for n in ("o", "lse")}
    got |= {f"largest tile of {n}": traffic.largest.get(n, 0) for n in "qkv"}
    pairs = zip(("o", "lse"), result, strict=True) if isinstance(result, (tuple, list)) else ()
    got["what is stored is o and lse"] = all(traffic.holds_all_of(n, x) for n, x in pairs)
    walks = math.ceil(Lq / bm)
    wanted = {"q loaded": q.numel(), "k loaded": walks * k.numel(), "v loaded": walks * v.numel()}
    wanted |= {"o stored": q.numel(), "lse stored": Lq}
    wanted |= {f"largest tile of {n}": b * 8 for n, b in zip("qkv", (bm, bn, bn), strict=True)}
    wanted["what is stored is o and lse"] = True
    return Seen(got, wanted, f"Lq = {Lq}, Lk = {Lk}, D = 8, block_m = {bm}, block_n = {bn}")


def worked_examples(answer):
    """Two examples within a few roundings: nothing may be added to l, not even 1e-6."""
    k = math.log(2) * torch.tensor([[0.0], [1.0], [3.0], [2.0], [1.0], [3.0]])
    q, v = torch.ones(1, 1), torch.arange(1.0, 7.0)[:, None]
    lse = 3 * math.log(2) + math.log(3.125)
    lonely = torch.zeros(1, 1)
    cases = (
        ((q, k, v, 1, 2), (4.12, lse), "the example by hand, lse = 3 log 2 + log 3.125"),
        ((q, lonely, v[4:5], 1, 1), (5.0, 0.0), "one query [[1]], one key [[0]] of value 5"),
    )
    options = {"names": ("o", "lse"), "atol": 2e-7, "rtol": 8e-7}
    return [
        Seen(answer(*args, Traffic()), (torch.tensor([[o]]), torch.tensor([x])), given, **options)
        for args, (o, x), given in cases
    ]


def far_from_zero(answer, rng):
    """Even in fp64, exp overflows above 709 and underflows below -745."""
    q, k, v = head(rng, 5, 9)
    k[:, 0] = 1.0
    rows = torch.tensor([[-1.0, 1, 1, 1, 1], [-1, -1, -1, -1, -1], [-0.1, 0.1, 0.1, 0.1, 0.1]])
    firsts = 2000 * 8**0.5 * rows[:, :, None]
    found = [seen(answer, torch.cat([x, q[:, 1:]], 1), k, v, 2, 4) for x in firsts[:2]]
    k[1::2, 0] = -1.0  # now scores near -200 and near 200 lie in one tile
    return [*found, seen(answer, torch.cat([firsts[2], q[:, 1:]], 1), k, v, 2, 4)]


def scores_at_once(answer, rng):
    """Largest otherwise: k whole, turned or scaled, or a tile of scores, 128 numbers each."""
    q, k, v = head(rng, 32, 64, 2)
    few = largest_tensor(answer, q, k, v, 16, 8, Traffic()) <= 512  # a query tile's: 16 · 64
    got = "the scores of one tile at a time" if few else "the scores of a query with all keys"
    given = "Lq = 32, Lk = 64, D = 2, block_m = 16, block_n = 8; what is in fast memory at once"
    return Seen(got, "the scores of one tile at a time", given)


def growing(answer, rng):
    q, k, v = head(rng, 6, 12)
    q, k = q.abs() + 0.5, torch.linspace(0.2, 2.0, 12)[:, None] * (k.abs() + 0.5)
    return seen(answer, q, k, v, 4, 3)


def by_logaddexp(q, k, v, block_m, block_n, traffic):
    """Carries the normalised o and lse instead of m, l, acc."""
    parts = []
    for q_i in q.split(block_m):
        q_i = traffic.load("q", q_i)
        o, lse = torch.zeros_like(q_i), torch.full((len(q_i),), -torch.inf)
        for k_j, v_j in zip(k.split(block_n), v.split(block_n), strict=True):
            s = q_i @ traffic.load("k", k_j).T / math.sqrt(q.shape[1])
            total = torch.logaddexp(lse, s.logsumexp(-1))
            o = torch.exp(lse - total)[:, None] * o
            o += torch.exp(s - total[:, None]) @ traffic.load("v", v_j)
            lse = total
        parts.append((traffic.store("o", o), traffic.store("lse", lse)))
    o, lse = (torch.cat(x) for x in zip(*parts, strict=True))
    return o, lse

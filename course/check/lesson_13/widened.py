"""Does an answer of exercise 13.2 multiply K or V by their scales? Looked up in what it makes."""

import math
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from course.check.observe import tensors_in

LOG2_E = math.log2(math.e)
STEPS = 1e5  # of log c in 1: factors c that differ by less are the same
SAMPLES = 8  # numbers of a tensor on which a factor is tried first


class Watching(TorchDispatchMode):
    """Look, in all tensors that operations take and make, for the numbers of a K or V made wide.

    Wide is a stored number times its token's scale, and times a factor that all tokens have alike.
    It is known by its value, in whatever layout it lies, so signs do not matter.
    """

    def __init__(self, k, v, k_scale, v_scale, scale):
        super().__init__()
        softmax = (1.0, scale, LOG2_E, scale * LOG2_E)
        self.wide = {"K": Wide(k, k_scale, softmax), "V": Wide(v, v_scale, (1.0,))}
        self.numels, self.known, self.square = {0}, {}, len(k) ** 2

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for _, x in tensors_in((args, kwargs or {}, made)):
            storage = x.untyped_storage()
            place, numel = storage.data_ptr(), storage.nbytes() // x.element_size()
            self.numels.add(numel)
            new = place not in self.known or func._schema.is_mutable
            if new and x.is_floating_point():
                self.known[place] = storage  # kept, so that no other gets its place
                numbers = x.detach().double().flatten().abs()
                for wide in self.wide.values():
                    wide.look(numbers[numbers.isfinite() & (numbers != 0)], place, numel)
        return made

    def found(self):
        """Return in words what was made on the way."""
        square = "a matrix of Lk × Lk numbers" if self.square in self.numels else ""
        wide = {name: of for name, of in self.wide.items() if of.made}
        if wide:
            how = "" if any(of.whole for of in wide.values()) else "piece by piece"
            made = f"{' and '.join(wide)} times the scales"
            return ", ".join(filter(None, (made, how, square)))
        if square:
            return square
        if max(self.numels) > max(of.size for of in self.wide.values()):
            return "a tensor larger than K and V"
        return "K and V as they are stored"


class Wide:
    """How much of K or V times its scales has been seen, by itself or times a factor."""

    def __init__(self, stored, scales, factors):
        numbers = stored.double().abs() * scales.double()[:, None]
        self.size, self.numbers = stored.numel(), _sorted(numbers)
        self.expected = _sorted(torch.stack([numbers * factor for factor in factors]))
        self.numels = {}
        self.hits = Counter()  # of each storage: numbers times an expected factor
        self.seen = {}  # of each other factor: which of the numbers, in any storage
        self.most = 0  # of the numbers times one factor, in one storage

    def look(self, x, place, numel):
        """Take in what a storage holds now. x: magnitudes, without zeros."""
        if not len(x):
            return
        self.numels[place] = numel
        self.hits[place] += int(_among(x, self.expected)[0].sum())
        for factor, which in self._multiples(x.unique()) if len(x) >= SAMPLES else ():
            seen = self.seen.setdefault(factor, torch.zeros(len(self.numbers), dtype=torch.bool))
            seen[which] = True
            self.most = max(self.most, len(which.unique()))

    def _multiples(self, x):
        """Yield each factor that most of x are numbers times it, in steps, and which these are.

        It can only be one that makes the largest of x out of one of the numbers. What is stored
        times a factor is no such thing: 8 bits have few numbers, but no token has most of them.
        """
        if len(x) < SAMPLES:
            return
        factors = x[-1] / self.numbers
        samples = x[torch.linspace(0, len(x) - 1, SAMPLES).long()]
        fits = _among(samples / factors[:, None], self.numbers)[0].all(1)
        for factor in factors[fits].tolist():
            among, which = _among(x / factor, self.numbers)
            if among.sum() > len(x) // 2:
                yield round(STEPS * math.log(factor)), which[among]

    @property
    def made(self):
        """Whether most of it was there, at once or in pieces.

        Every row of K is one of K times its scales, times the inverse of one scale: that is
        another factor for each token.
        """
        if self.hits.total() > self.size // 2:
            return True
        nothing = torch.zeros(len(self.numbers), dtype=torch.bool)
        covered = (of | self.seen.get(factor + 1, nothing) for factor, of in self.seen.items())
        return any(int(of.sum()) > len(of) // 2 for of in covered)

    @property
    def whole(self):
        """Whether one tensor holds, or has held, far more than half of it: halves are pieces."""
        most = 3 * self.size // 4
        held = any(hits > most and self.numels[place] > most for place, hits in self.hits.items())
        return held or self.most > 3 * len(self.numbers) // 4


def _sorted(numbers):
    return numbers[numbers != 0].unique()


def _among(x, numbers):
    """Which of x are among these numbers, but for a few roundings in fp32, and their places."""
    right = torch.searchsorted(numbers, x).clamp(1, len(numbers) - 1)
    place = torch.where((x - numbers[right - 1]) < (numbers[right] - x), right - 1, right)
    return (numbers[place] - x).abs() <= 8e-7 * x, place

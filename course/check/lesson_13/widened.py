"""Does an answer of exercise 13.2 multiply K or V by their scales? Looked up in what it makes."""

import math
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from course.check.observe import tensors_in

LOG2_E = math.log2(math.e)


class Watching(TorchDispatchMode):
    """Count, in all tensors that operations take and make, the numbers of a K or V made wide.

    Wide is a stored number times its token's scale, alone or times the factors of the softmax. It
    is known by its value, in whatever layout it lies.
    """

    def __init__(self, k, v, k_scale, v_scale, scale):
        super().__init__()
        wide = [x.double() * of[:, None].double() for x, of in ((k, k_scale), (v, v_scale))]
        factors = (1.0, scale, LOG2_E, scale * LOG2_E)
        keys = torch.cat([wide[0] * factor for factor in factors]).flatten()
        self.numbers = {"K": _sorted(keys), "V": _sorted(wide[1].flatten())}
        self.sizes = {"K": k.numel(), "V": v.numel()}
        self.counts = {name: Counter() for name in self.numbers}  # of each storage
        self.numels, self.known, self.square = {0}, {}, len(k) ** 2

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for _, x in tensors_in((args, kwargs or {}, made)):
            storage = x.untyped_storage()
            place, numel = storage.data_ptr(), storage.nbytes() // x.element_size()
            self.numels.add(numel)
            new = place not in self.known or func._schema.is_mutable
            if new and x.is_floating_point():
                self.known[place] = numel, storage  # kept, so that no other gets its place
                for name, numbers in self.numbers.items():
                    hits = _hits(x.detach().double().flatten(), numbers)
                    self.counts[name][place] += hits
        return made

    def found(self):
        """Return in words what was made on the way."""
        square = "a matrix of Lk × Lk numbers" if self.square in self.numels else ""
        wide = [name for name, of in self.counts.items() if of.total() > self.sizes[name] // 2]
        if wide:
            how = "" if any(map(self._whole, wide)) else "piece by piece"
            made = f"{' and '.join(wide)} times the scales"
            return ", ".join(filter(None, (made, how, square)))
        if square:
            return square
        if max(self.numels) > max(self.sizes.values()):
            return "a tensor larger than K and V"
        return "K and V as they are stored"

    def _whole(self, name):
        """Say whether one tensor holds, or has held, most of K or V made wide."""
        half = self.sizes[name] // 2
        counts = self.counts[name].items()
        return any(hits > half and self.known[place][0] > half for place, hits in counts)


def _sorted(numbers):
    return numbers[numbers != 0].sort().values


def _hits(x, numbers):
    """How many of x are among these numbers, but for a few roundings in fp32."""
    place = torch.searchsorted(numbers, x).clamp(1, len(numbers) - 1)
    nearest = torch.minimum((x - numbers[place - 1]).abs(), (x - numbers[place]).abs())
    return int((nearest <= 5e-7 * x.abs()).logical_and(x != 0).sum())

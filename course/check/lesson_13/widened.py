"""Does an answer of exercise 13.2 multiply K or V by their scales? Looked up in what it makes."""

import math

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from course.check.observe import tensors_in

LOG2_E = math.log2(math.e)


class Watching(TorchDispatchMode):
    """Count, in all tensors that operations take and make, the numbers of a K or V made wide.

    Wide is a stored number times its token's scale, alone or times the factors of the softmax. It
    is known by its value: in which layout it lies, and whether token by token, is no matter.
    """

    def __init__(self, k, v, k_scale, v_scale, scale):
        super().__init__()
        wide = [x.double() * of[:, None].double() for x, of in ((k, k_scale), (v, v_scale))]
        factors = (1.0, scale, LOG2_E, scale * LOG2_E)
        keys = torch.cat([wide[0] * factor for factor in factors]).flatten()
        self.numbers = {"K": _sorted(keys), "V": _sorted(wide[1].flatten())}
        self.sizes = {"K": k.numel(), "V": v.numel()}
        self.counts = dict.fromkeys(self.numbers, 0)
        self.largest, self.known = 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for _, x in tensors_in((args, kwargs or {}, made)):
            storage = x.untyped_storage()
            self.largest = max(self.largest, storage.nbytes() // x.element_size())
            new = storage.data_ptr() not in self.known or func._schema.is_mutable
            if new and x.is_floating_point():
                self.known[storage.data_ptr()] = storage  # kept, so that no other gets its place
                for name, numbers in self.numbers.items():
                    self.counts[name] += _hits(x.detach().double().flatten(), numbers)
        return made

    def found(self):
        """Return in words what was made on the way."""
        wide = [name for name, size in self.sizes.items() if self.counts[name] > size // 2]
        if wide:
            return f"{' and '.join(wide)} times the scales"
        if self.largest > max(self.sizes.values()):
            return "a tensor larger than K and V"
        return "K and V as they are stored"


def _sorted(numbers):
    return numbers[numbers != 0].sort().values


def _hits(x, numbers):
    """How many of x are among these numbers, but for a few roundings in fp32."""
    place = torch.searchsorted(numbers, x).clamp(1, len(numbers) - 1)
    nearest = torch.minimum((x - numbers[place - 1]).abs(), (x - numbers[place]).abs())
    return int((nearest <= 5e-7 * x.abs()).logical_and(x != 0).sum())

"""The eight-bit dtypes that the kernels of this process can read and write."""

import torch

from kernels.runtime import device, has_e4m3
from reference.quantization import LARGEST

E4M3 = torch.float8_e4m3fn
EIGHT_BITS = tuple(x for x in LARGEST if x != E4M3 or has_e4m3(torch.device(device())))

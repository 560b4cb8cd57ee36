"""GPUs in numbers, as their makers state them: SMs, memory, bandwidth, arithmetic, L2 cache.

Datasheet figures are peaks. What a kernel reaches is less, and is measured (`benchmarks`); the
model that predicts times from them is `kernels.explain`. This is their only table:
`course.hardware` computes with it.

Every device names its source: first the datasheet (bandwidth, arithmetic, size of the memory), then
the source for SMs and L2 cache. Arithmetic is dense: where a datasheet has figures "with sparsity",
half of them.
"""

import dataclasses
import re
from dataclasses import dataclass

import torch

LAUNCH_US = 10.0
"""Assumed: µs that Triton's Python path costs the host for a launch; `benchmarks` measures it."""

REACHABLE = 0.9
"""Assumed: the share of a datasheet's memory bandwidth that a good kernel reaches."""


@dataclass(frozen=True)
class Device:
    """One GPU.

    sms: streaming multiprocessors (AMD: compute units). bandwidth: of its memory, GB/s (10⁹ bytes).
    tensor_tflops: 16-bit matrix products with fp32 sums, dense, 10¹² operations per second.
    fp32_tflops: outside of tensor cores. l2_mb: L2 cache, MB. tensor_cores: whether Triton uses
    them there (from sm_80 on). launch_us: µs from one launch to the next, an assumption: 10 in
    eager mode; a CUDA graph needs less, say `dataclasses.replace(device, launch_us=2.0)`.
    reachable: the share of `bandwidth` that a good kernel reaches, an assumption too. memory_gb:
    GB (10⁹ bytes). arch: as `kernels.compile_report.targets` has it. source: documents.

    Three more assumptions, to ask "what if" with: fill_us: µs from a wave's start to its first
    keys. alone: the share of its pace that an SM reaches with one program, where it has room for
    two. pace: how many times its equal share of the bandwidth an SM draws while others rest.
    """

    name: str
    sms: int
    bandwidth: float
    tensor_tflops: float
    fp32_tflops: float
    l2_mb: float
    tensor_cores: bool = True
    launch_us: float = LAUNCH_US
    reachable: float = REACHABLE
    memory_gb: float | None = None
    arch: str | None = None
    source: str = ""
    fill_us: float = 0.0
    alone: float = 1.0
    pace: float = 1.0

    def __post_init__(self) -> None:
        for field in ("sms", "bandwidth", "tensor_tflops", "fp32_tflops"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field} must be above 0; got {getattr(self, field)}")
        for field in ("l2_mb", "launch_us", "fill_us"):
            if not getattr(self, field) >= 0:
                raise ValueError(f"{field} must not be negative; got {getattr(self, field)}")
        for field in ("reachable", "alone"):
            if not 0 < getattr(self, field) <= 1:
                got = getattr(self, field)
                raise ValueError(f"{field} must be above 0 and at most 1; got {got}")
        if not self.pace >= 1:
            raise ValueError(f"pace must be at least 1; got {self.pace}")
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise ValueError(f"memory_gb must be above 0; got {self.memory_gb}")

    @property
    def has_e4m3(self) -> bool:
        """Whether kernels can read float8_e4m3fn there: not on NVIDIA's GPUs before sm_89.

        >>> [Device.named(name).has_e4m3 for name in ("A100 80GB SXM", "L4", "MI300X")]
        [False, True, True]
        """
        nvidia = re.fullmatch(r"sm_(\d+)[a-z]?", self.arch or "")
        return nvidia is None or int(nvidia[1]) >= 89

    @property
    def clock_ghz(self) -> float:
        """The clock, 10⁹ per second, at which `fp32_tflops` is reached: the boost clock.

        A lane multiplies and adds once per clock; an SM has 64 of them up to sm_80, 128 later.

        >>> [round(Device.named(name).clock_ghz, 2) for name in ("T4", "A100 80GB SXM", "H200")]
        [1.58, 1.41, 1.98]
        """
        lanes = 64 if self.arch in ("sm_70", "sm_75", "sm_80") else 128
        return self.fp32_tflops * 1e3 / (self.sms * lanes * 2)

    @property
    def bytes_per_clock(self) -> float:
        """What memory delivers to each SM per clock, at `bandwidth`, bytes."""
        return self.bandwidth / (self.sms * self.clock_ghz)

    @classmethod
    def named(cls, name: str) -> "Device":
        """Return the device of that name, upper or lower case, as `DEVICES` lists them.

        >>> Device.named("h100 sxm").sms
        132

        Raises ValueError, listing the known names, for any other.
        """
        for device in DEVICES:
            if device.name.lower() == name.lower():
                return device
        names = ", ".join(device.name for device in DEVICES)
        raise ValueError(f"no device is called {name!r}; there are {names}")

    @classmethod
    def here(cls) -> "Device":
        """Return this machine's GPU, or a stand-in that says so where there is none.

        Figures come from `DEVICES` by the GPU's name, the number of SMs from the GPU itself: part
        of a GPU (MIG) has fewer, and (assumed) proportionally less of everything else.

        Raises ValueError for a GPU without figures: pass a `Device` of your own.
        """
        if not torch.cuda.is_available():
            name = f"{STAND_IN} (a stand-in: there is no GPU here)"
            return dataclasses.replace(cls.named(STAND_IN), name=name)
        there = torch.cuda.get_device_properties(torch.cuda.current_device())
        found = recognise(there.name)
        if found is None:
            raise ValueError(f"no figures for {there.name}: give Device(name=…, sms=…, …) instead")
        share = there.multi_processor_count / found.sms
        if share == 1.0:
            return found
        return dataclasses.replace(
            found,
            name=f"{found.name}, {there.multi_processor_count} of {found.sms} SMs",
            sms=there.multi_processor_count,
            bandwidth=found.bandwidth * share,
            tensor_tflops=found.tensor_tflops * share,
            fp32_tflops=found.fp32_tflops * share,
            memory_gb=found.memory_gb and found.memory_gb * share,
        )


_V100 = "NVIDIA V100 datasheet; NVIDIA Tesla V100 GPU Architecture (white paper)"
_T4 = "NVIDIA T4 datasheet; NVIDIA Turing GPU Architecture (white paper)"
_A100 = "NVIDIA A100 datasheet; NVIDIA A100 Tensor Core GPU Architecture (white paper)"
_GA102 = "NVIDIA Ampere GA102 GPU Architecture (white paper, V2)"
_ADA = "NVIDIA Ada GPU Architecture (white paper, V2)"
_A10 = f"NVIDIA A10 datasheet; {_GA102}"
_L4, _L40S = (f"NVIDIA {name} datasheet; {_ADA}" for name in ("L4", "L40S"))
_H100 = "NVIDIA H100 datasheet; NVIDIA H100 Tensor Core GPU Architecture (white paper)"
_H200 = "NVIDIA H200 datasheet; NVIDIA H100 Tensor Core GPU Architecture (white paper)"
_B200 = "NVIDIA DGX B200 datasheet and HGX platform, an eighth; a B200's device properties"
_MI300X = "AMD Instinct MI300X data sheet; AMD CDNA 3 Architecture (white paper)"

_FIGURES = (
    # name             SMs    GB/s  tensor    fp32    L2   GB  arch      source
    ("V100 SXM2 16GB",  80,  900.0,  125.0,   15.7,   6.0,  16, "sm_70", _V100),
    ("V100 SXM2 32GB",  80,  900.0,  125.0,   15.7,   6.0,  32, "sm_70", _V100),
    # 256 bits at 10 Gbit/s are 320 GB/s; some of NVIDIA's pages say 300.
    ("T4",              40,  320.0,   65.0,    8.1,   4.0,  16, "sm_75", _T4),
    ("A10",             72,  600.0,  125.0,   31.2,   6.0,  24, "sm_86", _A10),
    # With fp16 sums it is twice as fast: not what attention does.
    ("RTX 3090",        82,  936.0,   71.0,   35.6,   6.0,  24, "sm_86", _GA102),
    ("RTX 4090",       128, 1008.0,  165.2,   82.6,  72.0,  24, "sm_89", _ADA),
    ("L4",              58,  300.0,  121.0,   30.3,  48.0,  24, "sm_89", _L4),
    # L2: that of the L40, the same chip with as many SMs.
    ("L40S",           142,  864.0, 362.05,   91.6,  96.0,  48, "sm_89", _L40S),
    ("A100 40GB",      108, 1555.0,  312.0,   19.5,  40.0,  40, "sm_80", _A100),
    ("A100 80GB SXM",  108, 2039.0,  312.0,   19.5,  40.0,  80, "sm_80", _A100),
    ("A100 80GB PCIe", 108, 1935.0,  312.0,   19.5,  40.0,  80, "sm_80", _A100),
    ("H100 SXM",       132, 3350.0,  989.4,   67.0,  50.0,  80, "sm_90", _H100),
    ("H100 PCIe",      114, 2000.0,  756.0,   51.0,  50.0,  80, "sm_90", _H100),
    ("H200",           132, 4800.0,  989.4,   67.0,  50.0, 141, "sm_90", _H200),
    # Drivers report a bus of 7,680 bits: 7.7 TB/s.
    ("B200",           148, 8000.0, 2250.0,   75.0, 126.0, 180, "sm_100", _B200),
    # L2: 4 MB in each of eight dies; behind it are 256 MB of "Infinity Cache".
    ("MI300X",         304, 5300.0, 1307.4,  163.4,  32.0, 192, "gfx942", _MI300X),
)  # fmt: skip

DEVICES = tuple(
    Device(
        *figures,
        tensor_cores=arch not in ("sm_70", "sm_75"),  # Triton does not use them there
        memory_gb=float(memory_gb),
        arch=arch,
        source=source,
    )
    for *figures, memory_gb, arch, source in _FIGURES
)
STAND_IN = "A100 80GB SXM"
"""The device to explain when there is no GPU."""

_DRIVER_NAMES = {  # the end of what the driver calls them
    "B200": "B200",
    "H200": "H200",
    "H100 PCIe": "H100 PCIe",
    "H100 80GB HBM3": "H100 SXM",
    "A100-SXM4-80GB": "A100 80GB SXM",
    "A100 80GB PCIe": "A100 80GB PCIe",
    "A100-SXM4-40GB": "A100 40GB",
    "A100-PCIE-40GB": "A100 40GB",
    "V100-SXM2-32GB": "V100 SXM2 32GB",
    "V100-SXM2-16GB": "V100 SXM2 16GB",
    "RTX 4090": "RTX 4090",
    "RTX 3090": "RTX 3090",
    "L40S": "L40S",
    "L4": "L4",
    "A10": "A10",
    "T4": "T4",
    "MI300X": "MI300X",
}


def recognise(driver_name: str) -> Device | None:
    """Return the device that a driver calls this ("NVIDIA H100 80GB HBM3"), None if not listed."""
    whole = driver_name.split(" MIG ")[0]  # a part of a GPU is called "<the GPU> MIG 3g.40gb"
    for end, name in _DRIVER_NAMES.items():
        if f" {whole}".endswith(f" {end}"):
            return Device.named(name)
    return None

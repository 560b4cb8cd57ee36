"""How other decode kernels are launched: their own host code, from their own packages.

None of the packages need be installed, and none can be without a GPU: each is a server with a
hundred requirements. A wheel is unpacked, and the one module that launches the kernel is imported
from it as it is. What it imports from the rest of the server, and does not need for a launch, is
replaced by `ELSEWHERE`. All three are under the Apache licence; nothing is copied from them.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from benchmarks.absent_gpu import SMS, bf16

Call = Callable[[], object]
B, HQ, HKV, D, LK, PAGE = 8, 32, 4, 128, 4096, 64
SPLITS = 8

PEERS = {
    "sglang": "sglang.kernels.ops.attention.decode_attention",
    "vllm": "vllm.v1.attention.ops.triton_unified_attention",
    "lmdeploy": "lmdeploy.pytorch.kernels.cuda.pagedattention",
}


def _elsewhere() -> dict[str, dict[str, Any]]:
    """By module, what stands in for it: the answers that it gives on an H100."""
    import triton
    import triton.language as tl

    policy = {"NONE": 0, "INT4": 4, "INT8": 8, "FP8": 16, "FP8_E5M2": 17, "TURBO_QUANT": 42}
    modes = ("NONE", "FP8_PER_TENSOR", "INT8_PER_TOKEN_HEAD", "FP8_PER_TOKEN_HEAD")
    mode = {name: i for i, name in enumerate((*modes, "INT4_PER_TOKEN_HEAD"))}
    hopper = {"multi_processor_count": SMS, "compute_capability": (9, 0), "warps_per_sm": 64}
    platform = SimpleNamespace(
        fp8_dtype=lambda: torch.float8_e4m3fn, is_device_capability_family=lambda _: False
    )
    return {
        "sglang.srt.environ": {"envs": SimpleNamespace()},
        "sglang.srt.utils": {
            "get_device_core_count": lambda *_: SMS,
            **{f"is_{x}": lambda: False for x in ("hip", "gfx95_supported", "gfx1250_supported")},
        },
        "vllm.envs": {"VLLM_BATCH_INVARIANT": False},
        "vllm.logger": {"init_logger": lambda _: SimpleNamespace()},
        "vllm.platforms": {"current_platform": platform},
        "vllm.triton_utils": {"tl": tl, "triton": triton},
        "vllm.v1.kv_cache_interface": {"KVQuantMode": SimpleNamespace(**mode)},
        "lmdeploy.messages": {"QuantPolicy": SimpleNamespace(**policy)},
        "lmdeploy.utils": {"get_logger": lambda _: SimpleNamespace()},
        "lmdeploy.pytorch.kernels.cuda.utils": {
            "get_device_props": lambda _: hopper, "is_cuda": lambda: True
        },
    }  # fmt: skip


def load(name: str, folder: Path) -> ModuleType:
    """Import a peer's module out of its unpacked wheel, without the packages around it."""
    module = PEERS[name]
    for other, members in _elsewhere().items():
        if other.startswith(f"{name}."):
            sys.modules[other] = ModuleType(other)
            vars(sys.modules[other]).update(members)
    parts = module.split(".")
    for n in range(1, len(parts)):  # packages without their __init__, which would start the server
        package = ModuleType(".".join(parts[:n]))
        package.__path__ = [str(folder.joinpath(*parts[:n]))]
        sys.modules.setdefault(package.__name__, package)
    for other in [x for x in sys.modules if x.startswith(f"{name}.")]:
        parent, _, child = other.rpartition(".")
        if parent in sys.modules:
            setattr(sys.modules[parent], child, sys.modules[other])
    return importlib.import_module(module)


def _int32(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int32)


def sglang(folder: Path) -> dict[str, Call]:
    """SGLang: a list of token slots per row; the caller owns the partial results."""
    attend = load("sglang", folder).decode_attention_fwd
    q, o = bf16(B, HQ, D), bf16(B, HQ, D)
    k, v = bf16(B * LK, HKV, D), bf16(B * LK, HKV, D)
    starts, slots, splits = _int32(B + 1), _int32(B * LK), _int32(B)
    partial_o, partial_lse = torch.empty(B, HQ, SPLITS, D), torch.empty(B, HQ, SPLITS)
    rest = (splits, SPLITS, D**-0.5, 1.0, 1.0)
    return {"pages": lambda: attend(q, k, v, o, starts, slots, partial_o, partial_lse, *rest)}


def vllm(folder: Path) -> dict[str, Call]:
    """vLLM's unified attention: pages; the caller owns the partial results."""
    attend = load("vllm", folder).unified_attention
    q, out = bf16(B, HQ, D), bf16(B, HQ, D)
    k, v = bf16(B * LK // PAGE, PAGE, HKV, D), bf16(B * LK // PAGE, PAGE, HKV, D)
    cache = (k, v, out, _int32(B + 1), 1, _int32(B), LK, D**-0.5, True)
    parts = {
        "softmax_segm_output": torch.empty(B, HQ, SPLITS, D),
        "softmax_segm_max": torch.empty(B, HQ, SPLITS),
        "softmax_segm_expsum": torch.empty(B, HQ, SPLITS),
    }
    table, splits = _int32(B, LK // PAGE), {"seq_threshold_3D": 32, "num_par_softmax_segments": 8}

    def call(window: tuple[int, int]) -> Call:
        return lambda: attend(q, *cache, window, table, 0.0, None, None, None, **splits, **parts)

    return {"pages": call((-1, -1)), "window": call((512, 0))}


def lmdeploy(folder: Path) -> dict[str, Call]:
    """LMDeploy: pages; output and partial results are allocated by the call, as in ours."""
    attend = load("lmdeploy", folder).flash_attn_with_kvcache
    q = bf16(B, HQ, D)
    k, v = bf16(B * LK // PAGE, PAGE, HKV, D), bf16(B * LK // PAGE, PAGE, HKV, D)
    lengths, table = _int32(B), _int32(B, LK // PAGE)
    return {
        "pages": lambda: attend(q, k, v, lengths, table),
        "window": lambda: attend(q, k, v, lengths, table, window_size=512),
    }

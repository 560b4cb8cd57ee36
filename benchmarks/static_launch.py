"""Compiles other libraries' Triton kernels by way of their own launchers, without a GPU.

    python -m benchmarks.static_launch FOLDER PEER TARGET …     rows as JSON

FOLDER holds the peer's source files as its wheel has them. The launcher is called as its users call
it, mostly with tensors that have shapes but no memory, and chooses tiles, warps and stages. Where
Triton would launch, it only compiles, for the GPU that a stand-in for the driver reports.

What the kernel files import from the rest of their library is replaced by `stubs`: answers to
"which GPU is this?", loggers, switches that are off. Runs in a process of its own, since it
replaces parts of Triton.
"""

import enum
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from kernels.compile_report import sass
from kernels.compile_report.counts import count
from kernels.compile_report.targets import Target, target

B, LK, HKV, D, PAGE, SPLITS = 4, 4096, 8, 128, 16, 16
Launch = Callable[[], object]


def no(*_: object) -> bool:
    """The answer to "is this an AMD GPU?" and the like."""
    return False


class QuantPolicy(enum.IntEnum):
    """What lmdeploy calls the formats of its caches."""

    NONE = 0
    INT4 = 4
    INT8 = 8
    FP8 = 16
    FP8_E5M2 = 17
    TURBO_QUANT = 42


class KVQuantMode(enum.IntEnum):
    """What vLLM calls those of its own."""

    NONE = 0
    FP8_PER_TENSOR = 1
    INT8_PER_TOKEN_HEAD = 2
    FP8_PER_TOKEN_HEAD = 3
    INT4_PER_TOKEN_HEAD = 4


def stubs(on: Target) -> dict[str, dict[str, Any]]:
    """For each module that is not there: its members that the kernel files use."""
    device = {
        "multi_processor_count": on.device.sms,
        "warps_per_sm": on.warps,
        "blocks_per_sm": on.blocks,
        "compute_capability": (on.arch // 10, on.arch % 10),
    }
    platform = SimpleNamespace(
        is_rocm=no,
        fp8_dtype=lambda: torch.float8_e4m3fn,
        is_device_capability_family=no,
    )
    return {
        "lmdeploy.messages": {"QuantPolicy": QuantPolicy},
        "lmdeploy.utils": {"get_logger": logging.getLogger},
        "lmdeploy.pytorch.kernels.cuda.turbo_quant": {"hadamard_rotate": None},
        "lmdeploy.pytorch.kernels.cuda.utils": {
            "get_device_props": lambda _: device,
            "is_cuda": lambda: True,
        },
        "sglang.srt.environ": {"envs": None},
        "sglang.srt.utils": {
            "get_device_core_count": lambda *_: on.device.sms,
            "is_gfx95_supported": no,
            "is_gfx1250_supported": no,
            "is_hip": no,
        },
        "sglang.kernels.ops.attention.score_mod": {
            "unpack_aux_tensors": lambda *_: (None, 0, 0, 0),
        },
        "transformers.models.qwen3.modeling_qwen3": {"eager_attention_forward": None},
        "vllm.envs": {"VLLM_BATCH_INVARIANT": False},
        "vllm.logger": {"init_logger": logging.getLogger},
        "vllm.platforms": {"current_platform": platform},
        "vllm.triton_utils": {"tl": tl, "triton": triton},
        "vllm.v1.kv_cache_interface": {"KVQuantMode": KVQuantMode},
    }


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A tensor with a shape but no memory."""
    return torch.empty(shape, dtype=dtype, device="meta")


def indices(*shape: int) -> Tensor:
    """int32 numbers without memory."""
    return meta(*shape, dtype=torch.int32)


def floats(*shape: int) -> Tensor:
    """fp32 numbers without memory."""
    return meta(*shape, dtype=torch.float32)


def fasterkernels() -> Iterator[tuple[str, str, Launch]]:
    """Its dense decode kernel for Hugging Face's caches."""
    module = import_module("fskernels.triton.triton_gqa_decode_hf")
    for G in (8, 1):
        k, v = meta(B, HKV, LK, D), meta(B, HKV, LK, D)
        call = (meta(B, G * HKV, D), k, v, indices(B), indices(B), SPLITS)
        yield f"bf16, G {G}", "bf16", lambda c=call: module.flash_decode_gqa_hf_dense_optimized(*c)


def lmdeploy() -> Iterator[tuple[str, str, Launch]]:
    """Its paged decode kernel."""
    module = import_module("lmdeploy.pytorch.kernels.cuda.pagedattention")
    for kind, G, page in (("bf16", 8, 64), ("bf16", 8, 16), ("bf16", 1, 64), ("e4m3", 8, 64)):
        dtype = torch.bfloat16 if kind == "bf16" else torch.float8_e4m3fn
        pages = LK // page
        # With memory: it takes caches at the same address, which without memory is 0, for one.
        k, v = (torch.empty(B * pages, page, HKV, D, dtype=dtype) for _ in range(2))
        more = {} if kind == "bf16" else {
            "quant_policy": QuantPolicy.FP8,
            "k_scales_zeros": floats(1),
            "v_scales_zeros": floats(1),
        }  # fmt: skip

        def launch(G: int = G, k: Tensor = k, v: Tensor = v, pages: int = pages, more=more) -> None:
            q = meta(B, G * HKV, D)
            module.flash_attn_with_kvcache(q, k, v, indices(B), indices(B, pages), **more)

        yield f"{kind}, G {G}, pages of {page}", kind, launch


def sglang() -> Iterator[tuple[str, str, Launch]]:
    """Its decode kernels: grouped heads, one head per KV head."""
    module = import_module("sglang.kernels.ops.attention.decode_attention")
    for kind, G in (("bf16", 8), ("bf16", 1), ("e4m3", 8)):
        dtype = torch.bfloat16 if kind == "bf16" else torch.float8_e4m3fn
        k, v = (meta(B * LK, HKV, D, dtype=dtype) for _ in range(2))
        H = G * HKV
        q, parts, lse = meta(B, H, D), floats(B, H, SPLITS, D), floats(B, H, SPLITS)
        places = (indices(B + 1), meta(B * LK, dtype=torch.int64))
        first = module._decode_att_m_fwd if G == 1 else module._decode_grouped_att_m_fwd
        call = (q, k, v, parts, lse, *places, indices(B), SPLITS, D**-0.5, 0.0)
        yield f"{kind}, G {G}, pages of 1", kind, lambda f=first, c=call: f(*c)


def vllm() -> Iterator[tuple[str, str, Launch]]:
    """Its decode kernel and its unified one, for a batch with one query per row."""
    decode = import_module("vllm.v1.attention.ops.triton_decode_attention")
    unified = import_module("vllm.v1.attention.ops.triton_unified_attention")
    pages = LK // PAGE
    for G in (8, 1):
        H = G * HKV
        q, k, v = meta(B, H, D), meta(B * pages, PAGE, HKV, D), meta(B * pages, PAGE, HKV, D)
        first = decode._decode_att_m_fwd if G == 1 else decode._decode_grouped_att_m_fwd
        parts = floats(B, H, SPLITS, D + 1)
        places = (indices(B, pages), indices(B), SPLITS, D**-0.5, PAGE, 0.0, floats(1), floats(1))
        call = (q, k, v, parts, *places)
        yield f"decode: bf16, G {G}, pages of 16", "bf16", lambda f=first, c=call: f(*c)
        scratch = {
            "seq_threshold_3D": 128,
            "num_par_softmax_segments": SPLITS,
            "softmax_segm_output": floats(B, H, SPLITS, D),
            "softmax_segm_max": floats(B, H, SPLITS),
            "softmax_segm_expsum": floats(B, H, SPLITS),
        }

        def launch(q: Tensor = q, k: Tensor = k, v: Tensor = v, scratch: dict = scratch) -> None:
            unified.unified_attention(
                q, k, v, meta(*q.shape), indices(B + 1), 1, indices(B), LK, D**-0.5, True, (-1, -1),
                indices(B, pages), 0.0, None, None, None, **scratch,
            )  # fmt: skip

        yield f"unified: bf16, G {G}, pages of 16", "bf16", launch


PEERS = {peer.__name__: peer for peer in (fasterkernels, lmdeploy, sglang, vllm)}


def compile_only(on: Target) -> list[Any]:
    """Make Triton compile for this target wherever it would launch; returns what it compiled."""
    compiled: list[Any] = []
    run = JITFunction.run

    def instead(self: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        compiled.append(run(self, *args, grid=grid, warmup=True, **options))
        return compiled[-1]

    JITFunction.run = instead
    triton.runtime.driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: GPUTarget("cuda", on.arch, 32),
            get_current_device=lambda: 0,
            get_current_stream=lambda _: 0,
        )
    )
    return compiled


def measured(kernel: Any, on: Target, size: int) -> dict[str, Any]:
    """What a compiled kernel spends, as a `kernels.compile_report.Report` says it.

    size: bytes per number of the cache. All peers call the keys of a tile by one of two names.
    """
    names, constants = kernel.src.fn.arg_names, kernel.src.constants
    given = {names[path[0]]: value for path, value in constants.items()}
    keys = given.get("BLOCK_N") or given["TILE_SIZE"]
    text = sass.disassemble(kernel.asm["cubin"])
    counts, warps = sass.measure(text), kernel.metadata.num_warps
    resident = on.resident_blocks(
        registers=counts["registers"], shared_bytes=kernel.metadata.shared, num_warps=warps
    )
    spent = count(text, on, warps, tile_bytes=2 * keys * D * size)
    if spent is None:
        raise ValueError(f"{kernel.metadata.name} has no loop that loads tiles")
    kept = {name: counts[name] for name in ("registers", "spill_bytes")}
    kept |= {"num_warps": warps, "shared_bytes": kernel.metadata.shared}
    return kept | {"resident_blocks": resident, **spent.fields(warps, resident, on)}


def rows_of(peer: str, on: Target) -> Iterator[dict[str, Any]]:
    """Compile every configuration of a peer; a row without numbers says why."""
    for name, members in stubs(on).items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(members)
    compiled = compile_only(on)
    for case, kind, launch in PEERS[peer]():
        compiled.clear()
        row = {"peer": peer, "case": case, "target": on.name}
        try:
            launch()
            yield row | measured(compiled[0], on, 2 if kind == "bf16" else 1)
        except Exception as error:  # the launcher's or the compiler's: of whatever class
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            yield row | {"missing": lines[-1] if lines else repr(error)}


if __name__ == "__main__":
    folder, named, on = sys.argv[1:]
    sys.path.insert(0, folder)
    json.dump(list(rows_of(named, target(on))), sys.stdout)

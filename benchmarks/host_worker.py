"""One contestant of `benchmarks.host`, in a process of its own: times its calls when told to.

    python -m benchmarks.host_worker ours FOLDER       kernels/ in this folder
    python -m benchmarks.host_worker vllm FOLDER       an unpacked wheel

First it prints the names of its calls, or why it has none; then, for each line of input, a name and
a number of calls, how many nanoseconds each of them took, as a line of JSON.
"""

import gc
import json
import sys
import time
from pathlib import Path

import torch

from benchmarks import absent_gpu, host_peers
from benchmarks.absent_gpu import bf16
from benchmarks.host_peers import HKV, HQ, LK, PAGE, B, Call, D

WARM_UP = 100


def ours() -> dict[str, Call]:
    """The calls of this project whose `kernels` is found first; the peers' shapes."""
    from kernels.flash_decoding import flash_decode
    from kernels.kvcache_api import flash_attn_with_kvcache

    q, new = bf16(B, 1, HQ, D), bf16(B, 1, HKV, D)
    k, v = bf16(B, LK, HKV, D), bf16(B, LK, HKV, D)
    n = torch.full((B,), LK - 1, dtype=torch.int32)
    pages = [x.view(-1, PAGE, HKV, D) for x in (k, v)]
    table = torch.zeros(B, LK // PAGE, dtype=torch.int32)
    bytes_ = [x.to(torch.int8) for x in pages]
    scales = {"k_scale": torch.ones(HKV), "v_scale": torch.ones(HKV)}
    cos, sin = torch.ones(LK, D // 2), torch.ones(LK, D // 2)
    append = {"k": new, "v": new.clone(), "rotary_cos": cos, "rotary_sin": sin, "causal": True}
    return {
        "plain": lambda: flash_decode(q, k, v, n),
        "pages": lambda: flash_decode(q, *pages, n, block_table=table),
        "eight bits": lambda: flash_decode(q, *bytes_, n, block_table=table, **scales),
        "window": lambda: flash_decode(q, *pages, n, block_table=table, window=512),
        "all three": lambda: flash_decode(
            q, *bytes_, n, block_table=table, window=512, **scales
        ),
        "kvcache": lambda: flash_attn_with_kvcache(q, k, v, cache_seqlens=n, causal=True),
        "append": lambda: flash_attn_with_kvcache(q, k, v, cache_seqlens=n, **append),
    }  # fmt: skip


def nanoseconds(call: Call, times: int) -> list[int]:
    """How long each of so many calls takes, without the garbage collector."""
    clock, took = time.perf_counter_ns, []
    for _ in range(times):
        begin = clock()
        call()
        took.append(clock() - begin)
    return took


def calls_of(name: str, folder: Path) -> dict[str, Call]:
    """The calls of a contestant, warm."""
    if name == "ours":
        import kernels.kvcache_api  # noqa: F401 (loaded first, so that it is told of the GPU)

        absent_gpu.install()
        calls = ours()
    else:
        absent_gpu.install()
        calls = getattr(host_peers, name)(folder)
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    return calls


def main() -> None:
    """Say which calls there are, then time those that are asked for."""
    torch.set_grad_enabled(False)
    try:
        calls = calls_of(sys.argv[1], Path(sys.argv[2]))
    except Exception as error:
        print(json.dumps({"cannot": f"{type(error).__name__}: {error}"}), flush=True)
        return
    print(json.dumps({"calls": list(calls)}), flush=True)
    gc.disable()
    for line in sys.stdin:
        name, times = json.loads(line)
        print(json.dumps(nanoseconds(calls[name], times)), flush=True)


if __name__ == "__main__":
    main()

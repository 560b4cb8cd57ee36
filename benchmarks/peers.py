"""Who decodes alongside us: each contestant's name, whether it is here, and how to call it.

All get views of the same tensors: q (B, 1, Hq, D) and caches (B, Lk, Hkv, D), every row full.
Nothing is copied or converted in a timed call. What a library lets its user prepare once for many
layers (FlashInfer's plan, a compiled function) is prepared before the clock starts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.machine import version_of
from benchmarks.timing import Call
from kernels.flash_attention import flash_attention
from kernels.flash_decoding import flash_decode
from kernels.runtime import INTERPRETED

Inputs = tuple[Tensor, Tensor, Tensor]
PAGE = 16  # FlashInfer's batch decode takes pages: the contiguous cache is viewed as pages of 16


@dataclass(frozen=True)
class Peer:
    """A contestant. name: in records and `--peers`. label: in tables and figures.

    missing: "" or why it cannot run in this process. prepare: makes one call per set of inputs.
    """

    name: str
    label: str
    missing: Callable[[], str]
    prepare: Callable[[Sequence[Inputs]], list[Call]]
    ours: bool = False
    version: Callable[[], str] = lambda: ""


def each(
    function: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Callable[[Sequence[Inputs]], list[Call]]:
    """A `prepare` for a function of q, k, v that has nothing to prepare."""
    return lambda sets: [lambda s=s: function(*s) for s in sets]


def here() -> str:
    """For what is always available."""
    return ""


def needs_gpu() -> str:
    """For what would run on a CPU, but is not a peer there."""
    return "needs a GPU" if INTERPRETED else ""


def needs(module: str) -> Callable[[], str]:
    """For a library that may not be installed."""
    return lambda: needs_gpu() if find_spec(module) else f"missing: {module} is not installed"


def heads_first(sets: Sequence[Inputs]) -> list[tuple[Tensor, Tensor, Tensor, bool]]:
    """Views (B, H, L, D), as PyTorch's functions expect them, and whether heads are shared."""
    return [(*(x.transpose(1, 2) for x in s), s[0].shape[2] != s[1].shape[2]) for s in sets]


def sdpa(sets: Sequence[Inputs]) -> list[Call]:
    """PyTorch's attention, whichever backend it chooses."""

    def prepared(q: Tensor, k: Tensor, v: Tensor, gqa: bool) -> Call:
        return lambda: scaled_dot_product_attention(q, k, v, enable_gqa=gqa).transpose(1, 2)

    return [prepared(*s) for s in heads_first(sets)]


def sdpa_by(backend: SDPBackend) -> Callable[[Sequence[Inputs]], list[Call]]:
    """The same with one backend; its eager time includes selecting it, a few microseconds."""

    def prepared(call: Call) -> Call:
        def chosen() -> Tensor:
            with sdpa_kernel([backend]):
                return call()

        return chosen

    return lambda sets: [prepared(call) for call in sdpa(sets)]


def flex(mode: str | None) -> Callable[[Sequence[Inputs]], list[Call]]:
    """FlexAttention, compiled for these shapes only; it has a split kernel for few queries."""

    def prepare(sets: Sequence[Inputs]) -> list[Call]:
        from torch.nn.attention.flex_attention import flex_attention

        torch.compiler.reset()  # forget other cells' shapes: past the recompile limit it runs eager
        compiled = torch.compile(flex_attention, dynamic=False, mode=mode)

        def prepared(q: Tensor, k: Tensor, v: Tensor, gqa: bool) -> Call:
            return lambda: compiled(q, k, v, enable_gqa=gqa).transpose(1, 2)

        return [prepared(*s) for s in heads_first(sets)]

    return prepare


def xformers_splitk(sets: Sequence[Inputs]) -> list[Call]:
    """xformers' Triton split-K op; GQA by expanded views (B, L, Hkv, G, D), its own layout."""
    fmha = import_module("xformers.ops.fmha")

    def prepared(q: Tensor, k: Tensor, v: Tensor) -> Call:
        Hkv, G = k.shape[2], q.shape[2] // k.shape[2]
        q = q.unflatten(2, (Hkv, G))
        k, v = (x[:, :, :, None].expand(-1, -1, -1, G, -1) for x in (k, v))
        op = fmha.triton_splitk.FwOp
        return lambda: fmha.memory_efficient_attention_forward(q, k, v, op=op).flatten(2, 3)

    return [prepared(*s) for s in sets]


def flash_attn(module: str) -> Callable[[Sequence[Inputs]], list[Call]]:
    """flash-attn's decode call; it chooses the number of splits itself."""

    def prepare(sets: Sequence[Inputs]) -> list[Call]:
        function = import_module(module).flash_attn_with_kvcache
        return each(lambda q, k, v: function(q, k, v))(sets)

    return prepare


def flashinfer(use_tensor_cores: bool) -> Callable[[Sequence[Inputs]], list[Call]]:
    """FlashInfer's batch decode, planned once; all sets have the same lengths and page table."""

    def prepare(sets: Sequence[Inputs]) -> list[Call]:
        (B, _, Hq, D), (Lk, Hkv) = sets[0][0].shape, sets[0][1].shape[1:3]
        if Lk % PAGE:
            raise ValueError(f"the length must be a multiple of {PAGE}; got {Lk}")
        make = {"dtype": torch.int32, "device": sets[0][0].device}
        wrapper = import_module("flashinfer").BatchDecodeWithPagedKVCacheWrapper(
            torch.zeros(128 * 2**20, dtype=torch.uint8, device=make["device"]),
            "NHD",
            use_tensor_cores=use_tensor_cores,
        )
        wrapper.plan(
            torch.arange(B + 1, **make) * (Lk // PAGE),
            torch.arange(B * Lk // PAGE, **make),
            torch.full((B,), PAGE, **make),
            Hq,
            Hkv,
            D,
            PAGE,
            q_data_type=sets[0][0].dtype,
            kv_data_type=sets[0][1].dtype,
        )

        def prepared(q: Tensor, k: Tensor, v: Tensor) -> Call:
            queries, pages = q[:, 0], tuple(x.view(-1, PAGE, Hkv, D) for x in (k, v))
            return lambda: wrapper.run(queries, pages)[:, None]

        return [prepared(*s) for s in sets]

    return prepare


def _torch(name: str, backend: SDPBackend) -> Peer:
    return Peer(f"sdpa_{name}", f"SDPA {name}", needs_gpu, sdpa_by(backend), version=_torch_version)


def _torch_version() -> str:
    return torch.__version__


PEERS: tuple[Peer, ...] = (
    Peer("flash_decoding", "Flash-Decoding", here, each(flash_decode), ours=True),
    Peer("fa2", "FA-2, one query", here, each(flash_attention), ours=True),
    Peer("sdpa", "SDPA", here, sdpa, version=_torch_version),
    _torch("flash", SDPBackend.FLASH_ATTENTION),
    _torch("cudnn", SDPBackend.CUDNN_ATTENTION),
    _torch("efficient", SDPBackend.EFFICIENT_ATTENTION),
    _torch("math", SDPBackend.MATH),
    Peer("flex", "FlexAttention", needs_gpu, flex(None), version=_torch_version),
    Peer(
        "flex_max",
        "FlexAttention, max-autotune",
        needs_gpu,
        flex("max-autotune-no-cudagraphs"),
        version=_torch_version,
    ),
    Peer(
        "xformers",
        "xformers split-K",
        needs("xformers"),
        xformers_splitk,
        version=lambda: version_of("xformers"),
    ),
    Peer(
        "flash_attn",
        "flash-attn",
        needs("flash_attn"),
        flash_attn("flash_attn"),
        version=lambda: version_of("flash-attn"),
    ),
    Peer(
        "flash_attn_3",
        "flash-attn 3",
        needs("flash_attn_interface"),
        flash_attn("flash_attn_interface"),
        version=lambda: version_of("flash_attn_3", "flash-attn-3"),
    ),
    Peer(
        "flashinfer",
        "FlashInfer",
        needs("flashinfer"),
        flashinfer(use_tensor_cores=False),
        version=lambda: version_of("flashinfer-python", "flashinfer"),
    ),
    Peer(
        "flashinfer_tc",
        "FlashInfer, tensor cores",
        needs("flashinfer"),
        flashinfer(use_tensor_cores=True),
        version=lambda: version_of("flashinfer-python", "flashinfer"),
    ),
)
LABELS = {peer.name: peer.label for peer in PEERS}


def roll_call(peers: Sequence[Peer]) -> dict[str, str]:
    """What the record says about each: "ours", its version, or why it is not here."""
    return {p.name: p.missing() or ("ours" if p.ours else p.version() or "here") for p in peers}

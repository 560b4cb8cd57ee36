"""FlashAttention-2, forward and backward, next to PyTorch's attention and flash-attn.

    python -m benchmarks prefill [options as for decode]

A cell is called "forward causal B2 16/16 8192" or "backward full …"; "D192/128" at its end means
D = 192 and Dv = 128, the widths of MLA before it is absorbed. Calls take milliseconds, so
they are timed eagerly: a launch hardly counts.
"""

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.contest import Entrant, compete, reason
from benchmarks.judge import PEER_RATIO
from benchmarks.peers import needs, needs_gpu
from benchmarks.record import Record
from benchmarks.session import Cell, Session
from kernels.flash_attention import flash_attention
from kernels.runtime import INTERPRETED, device
from reference.attention import attention
from reference.closeness import compare

SHAPES = [(2, 16, 16, 8192), (2, 32, 8, 8192), (16, 16, 16, 1024), (4, 16, 16, 4096)]
SHAPES += [(1, 16, 16, 16384)]
D = 128
MLA = (192, 128)  # D and Dv
Attention = Callable[[Tensor, Tensor, Tensor, bool], Tensor]

PROTOCOL = (
    "D=128 (MLA: D=192, Dv=128), bf16, Lq = Lk, fresh normal random data. Before timing, o (or dq, "
    "dk, dv) of one row and one KV head is judged against fp64 at full length: ours by the "
    "course's rule, peers at 16 times plain PyTorch's error. NAME_ms: one eager call between two "
    "CUDA events; contestants take turns; 3 warm-up rounds; median and quartiles of 7 to 25. "
    "backward: the gradients alone. TFLOPs: 2·B·Hq·Lq·Lk·(D + Dv), backward 2·B·Hq·Lq·Lk·(3·D + "
    "2·Dv), over our time; half that if causal."
)


def ours(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Our kernel."""
    return flash_attention(q, k, v, causal=causal)


def sdpa(backends: Sequence[SDPBackend]) -> Attention:
    """PyTorch's attention with one of these backends; if none is given, whichever it chooses."""

    def call(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        gqa = q.shape[2] != k.shape[2]
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        if not backends:
            o = scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=gqa)
        else:
            with sdpa_kernel(list(backends)):
                o = scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=gqa)
        return o.transpose(1, 2)

    return call


def flash_attn(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """flash-attn's own kernel."""
    return import_module("flash_attn").flash_attn_func(q, k, v, causal=causal)


CONTESTANTS: dict[str, tuple[Attention, Callable[[], str]]] = {
    "flash_attention": (ours, lambda: ""),
    "sdpa": (sdpa(()), lambda: ""),
    "sdpa_flash": (sdpa((SDPBackend.FLASH_ATTENTION,)), needs_gpu),
    "sdpa_cudnn": (sdpa((SDPBackend.CUDNN_ATTENTION,)), needs_gpu),
    "sdpa_efficient": (sdpa((SDPBackend.EFFICIENT_ATTENTION,)), needs_gpu),
    "flash_attn": (flash_attn, needs("flash_attn")),
}


def flops(
    B: int, Hq: int, L: int, causal: bool, backward: bool, widths: tuple[int, int] = (D, D)
) -> float:
    """Floating-point operations of the two (backward: five) matrix products.

    widths: D and Dv. q kᵀ has D columns, p v has Dv; backward q kᵀ, dq and dk have D, dv and do vᵀ
    have Dv.
    """
    D, Dv = widths
    columns = 3 * D + 2 * Dv if backward else D + Dv
    return 2 * B * Hq * L * L * columns * (0.5 if causal else 1)


def gradients(function: Attention, qkv: Sequence[Tensor], do: Tensor, causal: bool) -> Callable:
    """A call that computes dq, dk, dv of `function`, whose forward has run."""
    leaves = [x.detach().requires_grad_() for x in qkv]
    o = function(*leaves, causal)
    return lambda: torch.autograd.grad(o, leaves, do, retain_graph=True)


def naive(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Plain PyTorch: truth in fp64, baseline in the dtype of its inputs."""
    return attention(q, k, v, causal=causal)


def judge(qkv: Sequence[Tensor], do: Tensor, causal: bool, backward: bool) -> Callable:
    """`judge(...)(name)`: a check of o, or of (dq, dk, dv), in row 0 and the last KV head."""
    G, Hkv = qkv[0].shape[2] // qkv[1].shape[2], qkv[1].shape[2]
    heads = (slice((Hkv - 1) * G, None), slice(Hkv - 1, None), slice(Hkv - 1, None))
    part = [x[:1, :, h] for x, h in zip(qkv, heads, strict=True)]
    given = do[:1, :, heads[0]]

    def answer(dtype: torch.dtype) -> tuple[Tensor, ...]:
        inputs = [x.to(dtype) for x in part]
        if backward:
            return gradients(naive, inputs, given.to(dtype), causal)()
        return (naive(*inputs, causal),)

    truth, baseline = answer(torch.float64), answer(do.dtype)

    def check_of(name: str) -> Callable[[Tensor | tuple[Tensor, ...]], str]:
        def check(got: Tensor | tuple[Tensor, ...]) -> str:
            parts = got if backward else (got,)
            for x, h, base, true in zip(parts, heads, baseline, truth, strict=False):
                ratio = {} if name == "flash_attention" else PEER_RATIO
                close = compare(x[:1, :, h], base, true, name=name, **ratio)
                if not (close.ok and x.isfinite().all()):
                    return str(close)
            return ""

        return check

    return check_of


def measure(
    direction: str,
    causal: bool,
    shape: tuple[int, ...],
    who: Sequence[str],
    widths: tuple[int, int] = (D, D),
) -> dict:
    """One row: times of all contestants, and TFLOP/s of ours. widths: D and Dv."""
    (B, Hq, Hkv, L), backward, (D, Dv) = shape, direction == "backward", widths
    make = {"dtype": torch.bfloat16, "device": device()}
    qkv = [torch.randn(B, L, h, width, **make) for h, width in ((Hq, D), (Hkv, D), (Hkv, Dv))]
    do = torch.randn(B, L, Hq, Dv, **make)
    check_of, entrants, cannot = judge(qkv, do, causal, backward), [], {}
    for name in who:
        function, _ = CONTESTANTS[name]
        try:
            call = partial(function, *qkv, causal)
            call = gradients(function, qkv, do, causal) if backward else call
        except Exception as error:
            cannot[name] = reason(error)
        else:
            entrants.append(Entrant(name, [call], check_of(name), graph=False))
    times, failed = compete(entrants, on_gpu=not INTERPRETED)
    row = {"direction": direction, "causal": causal, "B": B, "Hq": Hq, "Hkv": Hkv, "Lk": L}
    row |= {"D": D, "Dv": Dv, **times}
    if "flash_attention_ms" in row:
        rate = flops(B, Hq, L, causal, backward, widths) / row["flash_attention_ms"] / 1e9
        row["TFLOPs"] = round(rate, 4)
    return row | {"cannot": cannot | failed}


def run(session: Session) -> Record:
    """Measure all cells, as far as the session's options and budget allow."""
    wanted = [n for n in CONTESTANTS if session.wants(n, ours=n == "flash_attention")]
    who = [n for n in wanted if not CONTESTANTS[n][1]()]
    calls = [((1, 2, 1, 40), (D, D))] if session.quick else [(shape, (D, D)) for shape in SHAPES]
    calls.append(((1, 1, 1, 40) if session.quick else (2, 16, 16, 4096), MLA))

    def cell(direction: str, causal: bool, shape: tuple[int, ...], widths: tuple[int, int]) -> Cell:
        B, Hq, Hkv, L = shape
        name = f"{direction} {'causal' if causal else 'full'} B{B} {Hq}/{Hkv} {L}"
        name += f" D{widths[0]}/{widths[1]}" if widths != (D, D) else ""
        return Cell(name, who, partial(measure, direction, causal, shape, who, widths))

    ways = [(d, c) for d in ("forward", "backward") for c in (True, False)]
    cells = [cell(d, c, *call) for call in calls for d, c in ways]
    roll = {n: missing() or "here" for n, (_, missing) in CONTESTANTS.items()}
    return session.run("prefill", cells, PROTOCOL, peers=roll)


def table(rows: Sequence[dict]) -> str:
    """The rows as text."""
    names = [n for n in CONTESTANTS if any(f"{n}_ms" in row for row in rows)]
    head = f"{'cell':<34}" + "".join(f"{n:>17}" for n in names) + "   ours TFLOP/s   (times in ms)"
    lines = [head]
    for row in rows:
        times = "".join(
            f"{row[f'{n}_ms']:>17.3f}" if f"{n}_ms" in row else f"{'–':>17}" for n in names
        )
        lines.append(f"{row['cell']:<34}{times}{row.get('TFLOPs', float('nan')):>15.1f}")
    return "\n".join(lines)

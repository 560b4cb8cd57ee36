"""Two first kernels: a vector sum and a tiled matrix product.

A kernel is the program for *one tile*. It is started once for every point of a grid; `program_id`
tells it which tile is its own; pointers and masks do the rest. There is no loop over programs here:
on a GPU they run side by side, in any order.

    vector_add                              matmul
    grid (⌈n / BLOCK⌉,)                     grid (⌈M / BLOCK_M⌉, ⌈N / BLOCK_N⌉)

                                                          b  (K, N)
                                                             ┌──┬──┬──┐
    x    ├─ 0 ──┼─ 1 ──┼─ 2 ─┄┤                              │  │▒▒│  │ ↓ k
    y    ├─ 0 ──┼─ 1 ──┼─ 2 ─┄┤                              └──┴──┴──┘
    out  ├─ 0 ──┼─ 1 ──┼─ 2 ─┄┤                 a  ┌──────┐  ┌──┬──┬──┐
                     the last tile          (M, K) ├──────┤  ├──┼──┼──┤
                     is cut by a mask              │▒▒▒▒▒▒│  │  │██│  │ ← program (1, 1)
                                                   └──────┘  └──┴──┴──┘   writes this tile
                                                    k →        c  (M, N)

Source: the tiled product is found in every text on blocked linear algebra, e.g. Golub & Van Loan,
"Matrix Computations", section 1.5.
"""

import torch

from kernels.call import KernelCall
from kernels.checks import DTYPES
from kernels.primitives import dot, round_to
from kernels.runtime import INTERPRETED, device, has_tensor_cores

# isort: split
import triton
import triton.language as tl


@triton.jit
def vector_add_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr) -> None:
    """out[i] = x[i] + y[i] for the BLOCK elements of this program."""
    start = tl.program_id(0).to(tl.int64) * BLOCK  # int64: n may exceed 2^31
    offs = start + tl.arange(0, BLOCK)  # (BLOCK,)
    mask = offs < n  # the last program reaches past the end
    x = tl.load(x_ptr + offs, mask=mask)
    y = tl.load(y_ptr + offs, mask=mask)
    tl.store(out_ptr + offs, x + y, mask=mask)


@triton.jit
def matmul_kernel(
    a_ptr,
    b_ptr,
    c_ptr,
    M,
    N,
    K,
    stride_am,
    stride_ak,
    stride_bk,
    stride_bn,
    stride_cm,
    stride_cn,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """One (BLOCK_M, BLOCK_N) tile of c = a @ b, summed over K in fp32."""
    offs_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K).to(tl.int64)
    mask_m = offs_m[:, None] < M  # (BLOCK_M, 1)
    mask_n = offs_n[None, :] < N  # (1, BLOCK_N)
    a_ptrs = a_ptr + offs_m[:, None] * stride_am + offs_k[None, :] * stride_ak
    b_ptrs = b_ptr + offs_k[:, None] * stride_bk + offs_n[None, :] * stride_bn

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, K, BLOCK_K):
        mask_k = offs_k < K - k
        a = tl.load(a_ptrs, mask=mask_m & mask_k[None, :], other=0.0)  # (BLOCK_M, BLOCK_K)
        b = tl.load(b_ptrs, mask=mask_k[:, None] & mask_n, other=0.0)  # (BLOCK_K, BLOCK_N)
        acc = dot(a, b, acc)
        a_ptrs += BLOCK_K * stride_ak
        b_ptrs += BLOCK_K * stride_bk

    c_ptrs = c_ptr + offs_m[:, None] * stride_cm + offs_n[None, :] * stride_cn
    tl.store(c_ptrs, round_to(acc, c_ptr.dtype.element_ty), mask=mask_m & mask_n)


def vector_add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return x + y.

    x, y: fp32, same shape, contiguous. Moves 12 bytes per element: two reads and a write.
    Raises ValueError for different shapes, non-contiguous tensors or the wrong device, TypeError
    for other dtypes.

    >>> vector_add(torch.arange(3.0), torch.ones(3))  # doctest: +SKIP
    tensor([1., 2., 3.])

    One program was enough: its tile has 1024 elements, and the mask let three of them through.
    """
    if x.shape != y.shape:
        raise ValueError(f"x and y must have one shape; got {tuple(x.shape)}, {tuple(y.shape)}")
    _check(x=x, y=y, dtypes=(torch.float32,))
    if not (x.is_contiguous() and y.is_contiguous()):
        raise ValueError(f"x and y must be contiguous; got strides {x.stride()}, {y.stride()}")
    out = torch.empty_like(x)
    if x.numel():
        vector_add_call(x, y, out).launch(x.device)
    return out


def vector_add_call(x: torch.Tensor, y: torch.Tensor, out: torch.Tensor) -> KernelCall:
    """Return the launch that writes x + y into out; all are contiguous, fp32, of one shape."""
    n = x.numel()
    args = {"x_ptr": x, "y_ptr": y, "out_ptr": out, "n": n, "BLOCK": 1024}
    return KernelCall(vector_add_kernel, (triton.cdiv(n, 1024),), args)


def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a @ b, accumulated in fp32 and rounded once to the dtype of its inputs.

    a: (M, K), b: (K, N), any strides; fp32 (no TF32), fp16 or bf16, both the same.
    Returns (M, N), contiguous. Raises ValueError for shapes that do not fit or the wrong device,
    TypeError for other dtypes.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise ValueError(f"a, b must be (M, K), (K, N); got {tuple(a.shape)}, {tuple(b.shape)}")
    _check(a=a, b=b, dtypes=DTYPES)
    c = torch.empty(a.shape[0], b.shape[1], dtype=a.dtype, device=a.device)
    if c.numel():
        matmul_call(a, b, c, INTERPRETED or has_tensor_cores(a.device)).launch(a.device)
    return c


def matmul_call(
    a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, tensor_cores: bool
) -> KernelCall:
    """Return the launch that writes a @ b into c; shapes and dtypes as in `matmul`."""
    (M, K), N = a.shape, b.shape[1]
    tile, num_warps = _tile(tensor_cores and a.dtype != torch.float32)
    grid = (triton.cdiv(M, tile["BLOCK_M"]), triton.cdiv(N, tile["BLOCK_N"]))
    args = {
        "a_ptr": a,
        "b_ptr": b,
        "c_ptr": c,
        "M": M,
        "N": N,
        "K": K,
        "stride_am": a.stride(0),
        "stride_ak": a.stride(1),
        "stride_bk": b.stride(0),
        "stride_bn": b.stride(1),
        "stride_cm": c.stride(0),
        "stride_cn": c.stride(1),
        **tile,
    }
    return KernelCall(matmul_kernel, grid, args, num_warps)


def _tile(tensor_cores: bool) -> tuple[dict[str, int], int]:
    """Tile sizes and warps. Without tensor cores (fp32, old GPUs), operands fill registers."""
    if not tensor_cores:
        return {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 16}, 8
    return {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 64}, 4


def _check(*, dtypes: tuple[torch.dtype, ...], **tensors: torch.Tensor) -> None:
    """Raise unless all tensors share one of `dtypes` and live where kernels run."""
    first = next(iter(tensors.values()))
    for name, x in tensors.items():
        if x.dtype not in dtypes or x.dtype != first.dtype:
            raise TypeError(f"{name} must have one dtype of {dtypes}, all the same; got {x.dtype}")
        if x.device.type != device():
            mode = "interpreted" if INTERPRETED else "compiled"
            raise ValueError(f"{name} must be on {device()} ({mode} kernels); got {x.device}")

"""Triton's interpreter made to do what a GPU does, where the two differ, while a check runs.

    a masked lane without `other`     the interpreter puts 0 there, a GPU anything: here NaN, or -1
    a pointer gone astray             ends the process; here it reads NaN, and its store is noted
    a mask joined with a number       `(offs < n) & (k > 0)` compiles; Triton 3.9 interpreted
                                      refuses it, and any version if the number was loaded
    `and`, `or`, `not` of blocks      compiled entry by entry; the interpreter drops one side
    programs                          run in any order on a GPU: who stores what is noted

All of it ends with the launch.
"""

from __future__ import annotations

import ast
import linecache
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from course.check import quick_interpreter

# NaN in the formats that NumPy has no type for; the interpreter keeps their bits as integers.
_NAN_BITS = {"bf16": 0x7FC0, "fp8e4nv": 0x7F, "fp8e5": 0x7E}


class Store(NamedTuple):
    """One store of one program: the addresses of its entries."""

    program: tuple[int, int, int]
    addresses: np.ndarray


class Record(NamedTuple):
    """What was seen of launches.

    stores: all of them. unfilled: lines that left masked lanes to chance. astray: lines that store
    where no tensor is; nothing is written there. stray_loads: lines that load from there. rounded:
    lines that multiply fp32 tiles in TF32, on a GPU.
    """

    stores: list[Store]
    unfilled: list[str]
    astray: list[str]
    stray_loads: list[str]
    rounded: list[str]


@contextmanager
def as_on_a_gpu(tensors: Sequence[torch.Tensor]) -> Iterator[Record]:
    """Let interpreted kernels meet what a GPU does; yield a record of what they do.

    tensors: what they are given. Outside the memory of these, loads give NaN and stores write
    nothing: in the interpreter a stray pointer would end the process, or change what is not the
    kernel's. A tensor may be a view of more memory, such as guard zones; those can be reached.

    Where kernels are compiled, nothing is changed and nothing recorded.
    """
    from kernels.runtime import INTERPRETED  # here: exercises without a kernel don't need triton

    record = Record([], [], [], [], [])
    if not INTERPRETED:
        yield record
        return
    from triton.runtime import interpreter

    builder, function = interpreter.interpreter_builder, interpreter.InterpretedFunction
    before = function.rewritten_fn, interpreter.FunctionRewriter.ast_transformer
    quick = quick_interpreter.replacements()
    slow = [(owner, name, getattr(owner, name)) for owner, name, _ in quick]
    quick_interpreter.put(quick)
    function.rewritten_fn, interpreter.FunctionRewriter.ast_transformer = _rewriting()
    interpreter.interpreter_semantic.logical = _logical
    storages = (x.untyped_storage() for x in tensors)
    ranges = [(x.data_ptr(), x.data_ptr() + x.nbytes()) for x in storages]
    builder.create_masked_load = _loading(builder, record, ranges, [span(x) for x in tensors])
    builder.create_dot = _multiplying(builder, record)
    builder.create_masked_store = _storing(builder, record, ranges)
    builder.create_splat = _spreading(builder)
    try:
        yield record
    finally:
        for name in ("create_masked_load", "create_masked_store", "create_splat", "create_dot"):
            delattr(builder, name)  # the class's own show again
        del interpreter.interpreter_semantic.logical
        function.rewritten_fn, interpreter.FunctionRewriter.ast_transformer = before
        quick_interpreter.put(slow)
        quick_interpreter.put_back()


Ranges = Sequence[tuple[int, int]]  # of addresses: the first, and the end


def span(x: torch.Tensor) -> tuple[int, int]:
    """Return the first address of a tensor, and the first one after it."""
    last = sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1 if x.numel() else 0) * x.element_size()


def _loading(builder: Any, record: Record, ranges: Ranges, spans: Ranges) -> Callable:
    """Return the builder's masked load, made to do what a GPU does."""
    from triton.runtime.interpreter import TensorHandle

    load = builder.create_masked_load

    def masked_load(ptrs: Any, mask: Any, other: Any, *more: Any, **named: Any) -> Any:
        wanted = mask.data.astype(bool)
        if other is None:
            other = _anything(ptrs)
            if not wanted.all():
                record.unfilled.append(_line())
        there = wanted
        if not (_within(ptrs, spans) | ~wanted).all():
            record.stray_loads.append(_line())
            there = wanted & _within(ptrs, ranges)
            filled = np.where(wanted & ~there, _anything(ptrs).data, other.data)
            other = TensorHandle(filled, other.dtype)
        return load(ptrs, TensorHandle(there, mask.dtype), other, *more, **named)

    return masked_load


def _storing(builder: Any, record: Record, ranges: Ranges) -> Callable:
    """Return the builder's masked store, made to note what it does, and to stay within `ranges`."""
    from triton.runtime.interpreter import TensorHandle

    store = builder.create_masked_store

    def masked_store(ptrs: Any, value: Any, mask: Any, *more: Any) -> Any:
        wanted = mask.data.astype(bool)
        there = wanted & _within(ptrs, ranges)
        if not np.array_equal(there, wanted):
            record.astray.append(_line())
        addresses = np.broadcast_to(ptrs.data, there.shape)[there]
        record.stores.append(Store(tuple(builder.grid_idx), addresses))
        return store(ptrs, value, TensorHandle(there, mask.dtype), *more)

    return masked_store


def _multiplying(builder: Any, record: Record) -> Callable:
    """Return the builder's dot, made to note where a GPU would round fp32 to TF32 first."""
    multiply = builder.create_dot

    def dot(a: Any, b: Any, acc: Any, precision: Any, *more: Any) -> Any:
        if a.data.dtype == np.float32 and str(precision).endswith("TF32"):
            record.rounded.append(_line())
        return multiply(a, b, acc, precision, *more)

    return dot


def _spreading(builder: Any) -> Callable:
    """Return the builder's splat, a number spread over a block; a bool stays one.

    The interpreter gives a comparison the type of what was compared. So the block would be one of
    integers or floats, and joined with a mask no mask.
    """
    from triton.runtime.interpreter import TensorHandle

    spread = builder.create_splat

    def splat(*args: Any) -> Any:
        block, number = spread(*args), args[-1]
        if number.data.dtype == bool:
            return TensorHandle(block.data.astype(bool), block.dtype)
        return block

    return splat


def _line() -> str:
    """Return "line 3: …" of the running kernel: of the innermost frame that is not Triton's."""
    frame = sys._getframe(2)
    while "triton" in Path(frame.f_code.co_filename).parts:
        frame = frame.f_back
    text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    return f"line {frame.f_lineno}: {text}" if text else f"line {frame.f_lineno}"


def _within(ptrs: Any, ranges: Ranges) -> np.ndarray:
    """Say of each pointer whether its entry lies in one of the ranges of addresses."""
    addresses = ptrs.data.astype(np.uint64)
    size = max(1, ptrs.get_element_ty().primitive_bitwidth // 8)
    there = np.zeros(addresses.shape, dtype=bool)
    for first, end in ranges:
        if end - first >= size:
            there |= (addresses >= np.uint64(first)) & (addresses <= np.uint64(end - size))
    return there


def _anything(ptrs: Any) -> Any:
    """What a GPU may leave in masked lanes: nothing that a right answer could live with."""
    from triton.runtime.interpreter import TensorHandle, _get_np_dtype

    kind = ptrs.get_element_ty()
    dtype = _get_np_dtype(kind)
    if np.issubdtype(dtype, np.floating):
        fill = math.nan
    else:
        fill = _NAN_BITS.get(str(kind), -1 if dtype.kind == "i" else 1)
    return TensorHandle(np.full(ptrs.data.shape, fill, dtype=dtype), kind)


@cache
def _rewriting() -> tuple[dict, Any]:
    """Return where checked kernels are kept once rewritten, and what rewrites them."""
    from triton.runtime.interpreter import FunctionRewriter

    class Logical(ast.NodeTransformer):
        """Rewrites `a and b`, `a or b` and `not a`: Python would ask a whole block for one bool."""

        def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
            operands = [self.visit(value) for value in node.values]
            return _call("and" if isinstance(node.op, ast.And) else "or", operands, node)

        def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
            operand = self.visit(node.operand)
            if isinstance(node.op, ast.Not):
                return _call("not", [operand], node)
            return ast.copy_location(ast.UnaryOp(node.op, operand), node)

    class Both:
        """Triton's own rewriting comes second: up to 3.8 it does not look into what is assigned."""

        def visit(self, tree: ast.AST) -> ast.AST:
            return theirs.visit(Logical().visit(tree))

    theirs = FunctionRewriter.ast_transformer
    return {}, Both()


def _call(operator: str, operands: list[ast.AST], node: ast.AST) -> ast.AST:
    """Return `interpreter_semantic.logical(operator, lambda: operand, …)`."""
    none = {"posonlyargs": [], "args": [], "kwonlyargs": [], "kw_defaults": [], "defaults": []}
    later = [ast.Lambda(args=ast.arguments(**none), body=operand) for operand in operands]
    semantic = ast.Name(id="interpreter_semantic", ctx=ast.Load())
    function = ast.Attribute(value=semantic, attr="logical", ctx=ast.Load())
    call = ast.Call(func=function, args=[ast.Constant(operator), *later], keywords=[])
    return ast.copy_location(call, node)


def _logical(operator: str, *operands: Callable[[], Any]) -> Any:
    """Apply `and`, `or` or `not` as the compiler does: to tensors entry by entry."""
    import triton.language as tl
    from triton.runtime.interpreter import interpreter_semantic

    result = operands[0]()
    if operator == "not":
        return result == 0 if isinstance(result, tl.tensor) else not result
    for operand in operands[1:]:
        if not isinstance(result, tl.tensor):
            if bool(result) is (operator == "or"):
                return result
            result = operand()
            continue
        other = interpreter_semantic.to_tensor(operand(), False)
        result = result.logical_and(other) if operator == "and" else result.logical_or(other)
    return result

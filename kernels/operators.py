"""What the operators of `torch.library` share: how one is made, and how its arguments are checked.

Where a kernel cannot be launched (`kernels.call.may_launch`), a public op calls an operator: a
black box with a *fake*, a function that returns tensors of the right shapes without computing, and
a list of the arguments that are written to. The same function runs in the end, when there is memory
to run on; the graph that was captured before contains one node.

    ordinary tensors                              → the function: checks, then launches
    torch.compile, FakeTensorMode, make_fx, …     → the operator → its fake: checks, then shapes
                                                     later, on ordinary tensors → the function

A fake checks what there is to check, shapes and dtypes, by the same functions and so with the same
messages. No number is read: there is none.

Shapes may be symbols, of which only an example is known. They are checked by that example, and
nothing is concluded from it: otherwise the check for at most 65,535 rows would become a condition
of the graph, and `torch.export` would ask for the same limit on its `Dim`. The function checks
again, by the true shapes, whenever it runs.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)


def define(
    name: str,
    function: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    check: Callable[..., None],
    writes: Sequence[str] = (),
    schema: str | None = None,
) -> torch.library.CustomOpDef:
    """Define `flash_decoding_course::name`, an operator that runs a function on ordinary tensors.

    fake: returns new tensors of the right shapes. check: raises what the function raises for wrong
    shapes and dtypes. writes: the arguments that are written to. All three get the same arguments.
    schema: if the annotations of the function do not tell.
    """
    op = torch.library.custom_op(
        f"flash_decoding_course::{name}", function, mutates_args=writes, schema=schema
    )

    @op.register_fake
    def checked(*arguments: Any) -> Any:
        known = examples(arguments)
        if known is not None:
            check(*known)
        return fake(*arguments)

    @op.register_vmap
    def refused(*_: Any) -> None:
        raise NotImplementedError(
            f"{name} must not be called under vmap: its tensors have a batch dimension already; "
            "put the rows of vmap into that"
        )

    return op


def may_check(*arguments: object) -> bool:
    """Say whether to check arguments before the operator's schema does, for the better message.

    Not under `torch.compile`, where a check would become a condition, nor with symbols: there, the
    fake checks by examples.
    """
    return not torch.compiler.is_dynamo_compiling() and not is_symbolic(arguments)


def is_symbolic(arguments: Sequence[object]) -> bool:
    """Say whether a number among the arguments, or the size of a tensor, is a symbol."""
    return any(
        isinstance(x, _SYMBOLS)
        or (isinstance(x, list | tuple) and is_symbolic(x))
        or (isinstance(x, Tensor) and any(isinstance(size, torch.SymInt) for size in x.shape))
        for x in arguments
    )


def examples(arguments: Sequence[Any]) -> list[Any] | None:
    """Return the arguments with plain numbers for symbols; None if one has no example yet."""
    if not is_symbolic(arguments):
        return list(arguments)
    # Where there are symbols it is loaded; without them, importing it takes as long as triton.
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    with ExitStack() as quiet:
        for environment in _environments(arguments):
            quiet.enter_context(environment.suppress_guards())
        try:
            return [_example(x) for x in arguments]
        except GuardOnDataDependentSymNode:  # a size that depends on numbers
            return None


def _environments(arguments: Sequence[Any]) -> list[Any]:
    """The keepers of the symbols' examples: usually one."""
    found = {}
    for x in arguments:
        inside = x.shape if isinstance(x, Tensor) else x if isinstance(x, list | tuple) else (x,)
        symbols = [number for number in inside if isinstance(number, _SYMBOLS)]
        found |= {id(symbol.node.shape_env): symbol.node.shape_env for symbol in symbols}
    return list(found.values())


def _example(x: Any) -> Any:
    """X, with plain numbers for its symbols; a tensor without memory stays one."""
    if isinstance(x, list | tuple):
        return [_example(number) for number in x]
    for symbol, plain in zip(_SYMBOLS, (int, float, bool), strict=True):
        if isinstance(x, symbol):
            return plain(x)
    if not isinstance(x, Tensor) or not is_symbolic([x]) or x.layout != torch.strided:
        return x
    sizes, strides = ([int(number) for number in numbers] for numbers in (x.shape, x.stride()))
    return torch.empty_strided(sizes, strides, dtype=x.dtype, device=x.device)

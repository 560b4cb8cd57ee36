"""Right answers with one thing changed: what a slip of the pen makes of them.

Where no mistake of an exercise explains a wrong answer, the judge looks whether one of these does:
an operator, a comparison, a number or a function is another, two arguments are swapped, a keyword
or a statement is missing. `make mutants` tries all of them on the checks themselves.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from typing import NamedTuple

OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.MatMult: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
SIGNS = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%",
    ast.MatMult: "@", ast.Pow: "**", ast.BitAnd: "&", ast.BitOr: "|", ast.And: "and",
    ast.Or: "or", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==",
    ast.NotEq: "!=", ast.Is: "is", ast.IsNot: "is not", ast.USub: "-", ast.Not: "not",
    ast.Invert: "~", ast.UAdd: "+",
}  # fmt: skip
FUNCTIONS = {
    "max": "min", "min": "max", "maximum": "minimum", "minimum": "maximum", "amax": "amin",
    "exp": "exp2", "exp2": "exp", "log": "log2", "log2": "log", "sum": "max", "mean": "sum",
    "zeros": "ones", "ones": "zeros", "ceil": "floor", "floor": "ceil",
}  # fmt: skip
COMMUTATIVE = ("maximum", "minimum", "max", "min", "logaddexp")


class Variant(NamedTuple):
    """A changed answer. what: "old line → new line", unique. says: what it does, after "when"."""

    what: str
    says: str
    source: str


def of(source: str) -> list[Variant]:
    """Return every variant of the source of a function or a class, in the order of its lines."""
    tree = ast.parse(source)
    found: dict[str, Variant] = {}
    for function in _functions(tree.body[0]):
        if ast.get_docstring(function):
            function.body = function.body[1:]
        known = {argument.arg for argument in function.args.args}
        for what, says in _varied(function, known):
            while what in found:
                what += " (again)"
            found[what] = Variant(what, says, ast.unparse(tree))  # the tree is changed just now
    return list(found.values())


def _functions(answer: ast.stmt) -> list[ast.FunctionDef]:
    """The function itself, or the methods of a class."""
    inside = answer.body if isinstance(answer, ast.ClassDef) else [answer]
    return [node for node in inside if isinstance(node, ast.FunctionDef)]


def _varied(block: ast.AST, known: set[str]) -> Iterator[tuple[str, str]]:
    """Change each statement of a block in place, yield what was done, and put it back."""
    for field in ("body", "orelse"):
        body = getattr(block, field, [])
        for i, statement in enumerate(list(body) if isinstance(body, list) else []):
            old = _line(statement)
            if len(body) > 1 and (missing := _can_go(statement, known)):
                del body[i]
                yield f"{old} → nothing", missing
                body.insert(i, statement)
            for parent, name, index, node in _places(statement):
                for other, says in changed(node):
                    if isinstance(parent, ast.Subscript) and isinstance(node, ast.Tuple):
                        says = "two indices in square brackets are **in the wrong order**"
                    _put(parent, name, index, other)
                    yield f"{old} → {_line(statement)}", says
                    _put(parent, name, index, node)
            if isinstance(statement, ast.AugAssign):
                sign = statement.op
                statement.op = OPERATORS[type(sign)]()
                yield f"{old} → {_line(statement)}", _instead(type(statement.op), type(sign))
                statement.op = sign
            yield from _varied(statement, known)


def changed(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Yield every node that may stand in place of this one, and what to say of it."""
    if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in OPERATORS:
        new = OPERATORS[type(node.op)]
        yield _with(node, op=new()), _instead(new, type(node.op))
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        new = OPERATORS[type(node.ops[0])]
        yield _with(node, ops=[new(), *node.ops[1:]]), _instead(new, type(node.ops[0]))
    if isinstance(node, ast.UnaryOp):
        yield node.operand, f"a **`{SIGNS[type(node.op)]}`** is missing somewhere"
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        yield from _changed_number(node)
    if isinstance(node, ast.Call):
        yield from _changed_call(node)
    if isinstance(node, ast.Tuple) and isinstance(node.ctx, ast.Load) and len(node.elts) == 2:
        yield _with(node, elts=node.elts[::-1]), "two values come **in the wrong order**"
    if isinstance(node, ast.IfExp):
        both = "the two sides of a condition are **swapped**"
        yield _with(node, body=node.orelse, orelse=node.body), both


def _changed_number(node: ast.Constant) -> Iterator[tuple[ast.AST, str]]:
    value = node.value
    others = (
        [not value] if isinstance(value, bool) else [value + 1, *([0 * value] if value else [])]
    )
    for other in others:
        says = f"somewhere **the number {other}** takes the place of {value}"
        yield _with(node, value=other), says


def _changed_call(node: ast.Call) -> Iterator[tuple[ast.AST, str]]:
    function = node.func
    name = getattr(function, "attr", getattr(function, "id", ""))
    if name in FUNCTIONS:
        field = "attr" if isinstance(function, ast.Attribute) else "id"
        opposite = FUNCTIONS[name]
        if opposite == "max" and ast.unparse(function) != f"tl.{name}":
            opposite = "amax"  # in PyTorch, max along a dimension returns two tensors
        other = _with(node, func=_with(function, **{field: opposite}))
        yield other, f"somewhere **`{opposite}`** takes the place of `{name}`"
    if len({*map(ast.dump, node.args)}) == len(node.args) == 2 and name not in COMMUTATIVE:
        swapped = f"the two arguments of `{name}` are **swapped**"
        yield _with(node, args=node.args[::-1]), swapped
    for i, keyword in enumerate(node.keywords):
        missing = f"`{name}` is called without **`{keyword.arg}`**"
        yield _with(node, keywords=node.keywords[:i] + node.keywords[i + 1 :]), missing


def _instead(new: type, old: type) -> str:
    return f"somewhere **`{SIGNS[new]}`** takes the place of `{SIGNS[old]}`"


def _can_go(statement: ast.stmt, known: set[str]) -> str:
    """Return what to say if a statement is left out, or "" if a name would be missing then."""
    if isinstance(statement, ast.Expr):
        called = statement.value.func if isinstance(statement.value, ast.Call) else statement.value
        return f"a call of **`{ast.unparse(called)}`** is left out"
    if isinstance(statement, ast.AugAssign):
        return f"the step that changes **`{ast.unparse(statement.target)}`** is left out"
    if isinstance(statement, ast.Assign):
        targets = [x for target in statement.targets for x in ast.walk(target)]
        names = {x.id for x in targets if isinstance(x, ast.Name)}
        before = names <= known
        known |= names
        if before:
            return f"the step that changes **`{', '.join(sorted(names))}`** is left out"
    return ""


def _places(statement: ast.stmt) -> Iterator[tuple]:
    """Yield (parent, field, index or None, node) for the expressions of a statement's own lines."""
    todo: list[ast.AST] = [statement]
    while todo:
        parent = todo.pop(0)
        for name, value in ast.iter_fields(parent):
            if parent is statement and name in ("body", "orelse", "targets", "target"):
                continue
            for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if isinstance(node, ast.expr):
                    yield parent, name, index, node
                if isinstance(node, (ast.expr, ast.keyword)):
                    todo.append(node)


def _put(parent: ast.AST, name: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, name, node)
    else:
        getattr(parent, name)[index] = node


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _line(statement: ast.stmt) -> str:
    return ast.unparse(statement).splitlines()[0]

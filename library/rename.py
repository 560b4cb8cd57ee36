"""Moves a module into another package: its imports become relative, its text says the new names.

    from kernels.call import KernelCall          in kernels/plan/plan_kernel.py becomes
    from ..call import KernelCall

    `python -m kernels.compile_report`           in a docstring, a comment or a message becomes
    `python -m flash_decoding_course.kernels.compile_report`

Both are found in the syntax tree (comments: among the tokens) and replaced where they stand, so
that everything else keeps its line, and a traceback from the wheel fits the repository. In text a
name counts if it is a module's own (`kernels.merge`), or stands alone in backquotes (`reference`);
a path (kernels/merge.py) is left as it is.
"""

import ast
import io
import re
import tokenize
from collections.abc import Collection, Iterator
from pathlib import PurePath

Edit = tuple[int, int, bytes]  # from here to there, in bytes: the new text


def renamed(source: str, file: PurePath, files: Collection[PurePath], under: str) -> str:
    """Return the source of a module as it reads in the package `under`.

    source: the text of `file`. file: "kernels/plan/plan_kernel.py", relative to that package, like
    all `files`, which tell modules from other names.

    Raises ValueError for `import kernels.…`, which has no relative form.
    """
    data = source.encode()
    starts = [0]
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    names = {part.with_suffix("").parts for part in files}
    modules = {parts[:-1] if parts[-1] == "__init__" else parts for parts in names}
    tree = ast.parse(source)
    edits = [*_imports(data, tree, file, modules, starts)]
    edits += _text(data, tree, modules, under, starts)
    for begin, end, new in sorted(edits, reverse=True):
        data = data[:begin] + new + data[end:]
    return data.decode()


def _imports(
    data: bytes, tree: ast.AST, file: PurePath, modules: set, starts: list[int]
) -> Iterator[Edit]:
    """Yield the edits that make imports of our packages relative."""
    packages = {parts[0] for parts in modules if parts}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            ours = [alias.name for alias in node.names if alias.name.split(".")[0] in packages]
            if ours:
                raise ValueError(
                    f"{file}, line {node.lineno}: must import with `from`; got import {ours[0]}"
                )
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = tuple(str(node.module).split("."))
            if module[0] in packages:
                name = str(node.module).encode()
                begin = data.index(name, starts[node.lineno - 1] + node.col_offset + len(b"from"))
                yield begin, begin + len(name), relative(module, file).encode()


def relative(module: tuple[str, ...], file: PurePath) -> str:
    """Return how `file` names a module: ("kernels", "call") in kernels/plan/op.py is "..call"."""
    here = file.parent.parts
    shared = 0
    while shared < min(len(here), len(module)) and here[shared] == module[shared]:
        shared += 1
    return "." * (len(here) - shared + 1) + ".".join(module[shared:])


def _text(
    data: bytes, tree: ast.AST, modules: set, under: str, starts: list[int]
) -> Iterator[Edit]:
    """Yield the edits that put `under` before the names of modules in strings and comments."""
    packages = "|".join(sorted({parts[0] for parts in modules if parts}))
    dotted = re.compile(rf"(?<![\w./])(?:{packages})(?:\.[a-z_]\w*)+")
    alone = re.compile(rf"(?<=`)(?:{packages})(?=`)|(?<=from )(?:{packages})(?= import )")
    for begin, end in _places(data.decode(), tree, starts):
        text = data[begin:end].decode()
        for match in [*dotted.finditer(text), *alone.finditer(text)]:
            if match.re is alone or tuple(match[0].split(".")[:2]) in modules:
                place = begin + len(text[: match.start()].encode())
                yield place, place, f"{under}.".encode()


def _places(source: str, tree: ast.AST, starts: list[int]) -> Iterator[tuple[int, int]]:
    """Yield where strings and comments stand, in bytes."""
    inside: set[ast.AST] = set()  # of an f-string, which is one place as a whole
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside |= set(ast.walk(node)) - {node}
    for node in ast.walk(tree):
        text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if (text or isinstance(node, ast.JoinedStr)) and node not in inside:
            begin = starts[node.lineno - 1] + node.col_offset
            yield begin, starts[node.end_lineno - 1] + node.end_col_offset
    lines = source.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line, column = token.start
            begin = starts[line - 1] + len(lines[line - 1][:column].encode())
            yield begin, begin + len(token.string.encode())

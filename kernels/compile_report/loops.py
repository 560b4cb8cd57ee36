"""The loops of a kernel, found in its SASS: where a program spends its time.

Machine code has no loops, only branches. They are found in three steps:

    1. blocks     runs of instructions that are entered at the top and left at the bottom
    2. edges      where control may go from there: on to the next block, to a branch's target
    3. loops      an edge back to a block that every path to here has passed, its *header*; the
                  loop is the header and all blocks that lead to that edge without passing it

            ┌───────────┐
            │ 0  LDC …  │                  block 1 is on every path to block 2, and 2 leads back
            └─────┬─────┘                  to it: {1, 2} is a loop. It contains no other header,
            ┌─────▼─────┐                  so it is innermost.
       ┌──▶ │ 1  FFMA … │
       │    └─────┬─────┘                  An instruction under a predicate (@P0) is issued
       │    ┌─────▼─────┐                  whether it takes effect or not, and counts in full.
       └────┤ 2 @P0 BRA │
            └─────┬─────┘
            ┌─────▼─────┐
            │ 3  EXIT   │
            └───────────┘

Source: Aho, Lam, Sethi & Ullman, "Compilers", 9.6 (dominators, natural loops); NVIDIA, "CUDA Binary
Utilities", the instruction set reference.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

_LINE = re.compile(
    r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][\w.]*)\s*([^;]*);", re.MULTILINE
)
_JUMPS = ("BRA", "JMP", "CALL")  # ptxas leaves a loop on sm_80 by a CALL that never returns
_ENDS = ("EXIT", "RET")


class Instruction(NamedTuple):
    """One instruction: "@!P0 LDG.E.64 R2, [R4] ;" has predicate, name and operands."""

    address: int
    predicate: str
    name: str
    operands: str

    @property
    def base(self) -> str:
        """The name without options: "LDG"."""
        return self.name.split(".")[0]


class Loop(NamedTuple):
    """A natural loop. header: address of its first instruction. body: its instructions, by address.

    innermost: whether it contains no other loop.
    """

    header: int
    body: tuple[Instruction, ...]
    innermost: bool


def parse(text: str, function: str = "") -> list[Instruction]:
    """Return the instructions of a disassembly; function: how the one to read is called.

    >>> parse("/*0010*/  @!P0 LDG.E.64 R2, desc[UR4][R2.64] ; /* 0x1 */")[0].base
    'LDG'

    Raises ValueError if no function's name contains `function`.
    """
    if function:
        parts = text.split("Function : ")[1:]
        text = next((part for part in parts if function in part.split("\n")[0]), "")
        if not text:
            raise ValueError(f"the disassembly has no function called {function!r}")
    return [Instruction(int(at, 16), *rest) for at, *rest in _LINE.findall(text)]


def loops(code: Sequence[Instruction]) -> list[Loop]:
    """Return all natural loops, ordered by the address of their headers."""
    blocks = _blocks(code)
    after = _edges(code, blocks)
    before: list[list[int]] = [[] for _ in blocks]
    for block, targets in enumerate(after):
        for target in targets:
            before[target].append(block)
    passed = _dominators(after, before)
    bodies: dict[int, set[int]] = {}
    for block in passed:
        for header in set(after[block]) & passed[block]:
            bodies.setdefault(header, {header}).update(_leading_to(block, header, before, passed))
    return [
        Loop(
            code[blocks[header][0]].address,
            tuple(code[i] for block in sorted(body) for i in range(*blocks[block])),
            not (body - {header}) & set(bodies),
        )
        for header, body in sorted(bodies.items())
    ]


def _target(instruction: Instruction) -> int | None:
    """Return the address that a jump goes to: the last one it names."""
    named = re.findall(r"0x([0-9a-f]+)", instruction.operands)
    return int(named[-1], 16) if instruction.base in _JUMPS and named else None


def _blocks(code: Sequence[Instruction]) -> list[tuple[int, int]]:
    """Cut before each target of a jump and after each jump or end: (first, one past the last)."""
    at = {instruction.address: i for i, instruction in enumerate(code)}
    cuts = {0, len(code)}
    for i, instruction in enumerate(code):
        if instruction.base in _JUMPS + _ENDS:
            cuts |= {i + 1, at.get(_target(instruction), 0)}
    ordered = sorted(cuts)
    return list(pairwise(ordered))


def _edges(code: Sequence[Instruction], blocks: list[tuple[int, int]]) -> list[list[int]]:
    """For each block, the blocks that may come next."""
    starts = {code[first].address: block for block, (first, _) in enumerate(blocks)}
    found = []
    for block, (_, end) in enumerate(blocks):
        last = code[end - 1]
        target = starts.get(_target(last))
        follows = [] if target is None else [target]
        if not _always_leaves(last) and block + 1 < len(blocks):
            follows.append(block + 1)
        found.append(follows)
    return found


def _always_leaves(last: Instruction) -> bool:
    """Say whether control never falls through: a jump or an end that depends on nothing."""
    if last.base not in ("BRA", "JMP", *_ENDS):  # a CALL may return
        return False
    conditional = last.predicate or re.match(r"!?U?P\d", last.operands)
    return not conditional and not re.search(r"\.(DIV|CONV)\b", last.name)


def _dominators(after: list[list[int]], before: list[list[int]]) -> dict[int, set[int]]:
    """For each block that can be reached, the blocks that every path to it has passed."""
    reached, todo = {0}, [0]
    while todo:
        new = set(after[todo.pop()]) - reached
        reached |= new
        todo += new
    passed = {block: set(reached) for block in reached} | {0: {0}}
    changed = True
    while changed:
        changed = False
        for block in sorted(reached - {0}):
            paths = [passed[other] for other in before[block] if other in reached]
            found = set.intersection(*paths) | {block}
            changed = changed or found != passed[block]
            passed[block] = found
    return passed


def _leading_to(
    block: int, header: int, before: list[list[int]], reached: dict[int, set[int]]
) -> set[int]:
    """Return the blocks from which `block` is reached without passing the header."""
    found, todo = set(), [block]
    while todo:
        here = todo.pop()
        if here != header and here not in found:
            found.add(here)
            todo += [other for other in before[here] if other in reached]
    return found

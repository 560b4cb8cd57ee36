"""The header of a GGUF file: its fields, and where its tensors are.

    "GGUF", version, counts │ fields: name, type, value │ tensors: name, shape, type, place │ data

The package `gguf` has a reader as well. It makes several arrays of each of SmolLM2's 100,000 words
and merges, which takes 3 s and 170 MB; as strings they take a fraction of a second and 11 MB.

Source: the GGUF specification, github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

VERSIONS = (2, 3)  # 1 had shorter counts
ALIGNMENT = 32  # of the data, in bytes, where no field says another
STRING, ARRAY = 8, 9
NUMBERS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
"""The types of a field that are numbers, as `struct` calls them."""


class Stored(NamedTuple):
    """Where a tensor is in the file, and how it is stored.

    shape: in numbers, rows before columns. kind: how its blocks are packed. start, size: bytes from
    the beginning of the file, and in all.
    """

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    start: int
    size: int


class Header(NamedTuple):
    """What `read_header` returns. fields: numbers, strings, and lists of them, by name."""

    fields: dict[str, Any]
    tensors: list[Stored]


def read_header(file: BinaryIO) -> Header:
    """Read the header of a file that is open for reading bytes, from its start.

    Raises ValueError for what is no GGUF file, for one of another version, and for one that is
    damaged: a field that comes twice, or anything that reaches beyond the end of the file.
    """
    source = _Source(file)
    if source.bytes(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    version = source.number("I")
    if version not in VERSIONS:
        raise ValueError(f"its version must be 2 or 3; got {version}")
    tensors, count = source.number("Q"), source.number("Q")
    fields: dict[str, Any] = {}
    for _ in range(count):
        name = source.string()
        if name in fields:
            raise ValueError(f"{name} comes twice")
        fields[name] = source.value(source.number("I"))
    infos = [source.tensor() for _ in range(tensors)]
    alignment = fields.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"general.alignment must be at least 1; got {alignment!r}")
    begin = -(-source.at // alignment) * alignment
    found = [info._replace(start=begin + info.start) for info in infos]
    for info in found:
        if info.start + info.size > source.end:
            raise ValueError(f"{info.name} reaches beyond the end of the file")
    return Header(fields, found)


class _Source:
    """A file from which one thing after the other is taken. at, end: in bytes from its start."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.end = file, file.seek(0, 2)
        self.at = file.seek(0)

    def bytes(self, count: int) -> bytes:
        """The next bytes. Raises ValueError if so many are not left."""
        if count > self.end - self.at:
            left = self.end - self.at
            raise ValueError(f"{count:,} bytes must follow byte {self.at:,}; got {left:,}")
        self.at += count
        return self.file.read(count)

    def numbers(self, code: str, count: int) -> tuple:
        """The next numbers, of the type that `struct` calls `code`."""
        return struct.unpack(f"<{count}{code}", self.bytes(count * struct.calcsize(f"<{code}")))

    def number(self, code: str) -> Any:
        """The next number."""
        return self.numbers(code, 1)[0]

    def string(self) -> str:
        """The next string: its length in bytes, then those."""
        return self.bytes(self.number("Q")).decode("utf-8")

    def value(self, kind: int) -> Any:
        """The value of a field: a number, a string, or a list of either."""
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            raise ValueError(f"the type of a field must be 0 to 12; got {kind}")
        kind, count = self.number("I"), self.number("Q")
        if kind in NUMBERS:
            return [*self.numbers(NUMBERS[kind], count)]
        if kind != STRING:
            raise ValueError(f"a list must hold numbers or strings; got type {kind}")
        return [self.string() for _ in range(count)]

    def tensor(self) -> Stored:
        """What is said of a tensor; start counts from where the data begin."""
        from gguf import GGMLQuantizationType
        from gguf.constants import GGML_QUANT_SIZES

        name, dimensions = self.string(), self.number("I")
        if not 1 <= dimensions <= 4:
            raise ValueError(f"{name} must have 1 to 4 dimensions; got {dimensions}")
        shape = self.numbers("Q", dimensions)[::-1]  # the file has columns first
        kind, start = GGMLQuantizationType(self.number("I")), self.number("Q")
        numbers, size = GGML_QUANT_SIZES[kind]  # of a block
        if not all(shape) or shape[-1] % numbers:
            raise ValueError(f"{name} must have rows of whole blocks of {numbers}; got {shape}")
        return Stored(name, shape, kind, start, math.prod(shape) // numbers * size)

"""The header of a GGUF file: what the package gguf reads in it, in less time and memory."""

import io
import struct

import pytest
from llamas import UNTIED, llama, write_gguf

from reference.pretrained import SMOLLM2
from reference.pretrained.gguf_header import read_header
from reference.transformer import Config

gguf = pytest.importorskip("gguf")


def check_against_the_package(path):
    reader = gguf.GGUFReader(path)
    with path.open("rb") as file:
        header = read_header(file)
    theirs = {name: x.contents() for name, x in reader.fields.items() if name[:5] != "GGUF."}
    assert header.fields == theirs
    for ours, x in zip(header.tensors, reader.tensors, strict=True):
        assert (ours.name, ours.shape) == (x.name, tuple(x.shape.tolist()[::-1]))
        assert (ours.kind, ours.start, ours.size) == (x.tensor_type, x.data_offset, x.n_bytes)


def test_it_reads_what_the_package_reads(tmp_path):
    config = Config(**{**vars(UNTIED), "width": 64})  # blocks have 32 numbers
    write_gguf(tmp_path / "a.gguf", llama(config), ("token_embd.weight",))
    check_against_the_package(tmp_path / "a.gguf")


@pytest.mark.skipif(not SMOLLM2.exists(), reason="SmolLM2 is not here: `make model` fetches it")
def test_it_reads_the_real_one():
    check_against_the_package(SMOLLM2)


def test_every_type_of_a_field(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "any")
    kinds = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
    for i, kind in enumerate(kinds):
        getattr(writer, f"add_{kind}")(kind, 100 + i)
    writer.add_float32("float32", 0.5)
    writer.add_float64("float64", 0.1)
    writer.add_bool("bool", True)
    writer.add_array("strings", ["", "ä", "b c"])
    writer.add_array("numbers", [-1, 2**31 - 1])
    writer.add_custom_alignment(64)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    check_against_the_package(tmp_path / "a.gguf")


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def file(*parts, version=3, tensors=0, fields=0):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, fields) + b"".join(parts)


def field(name, kind, value):
    return string(name) + struct.pack("<I", kind) + value


def tensor(*shape, kind=0, start=0):
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return string("w") + sizes + struct.pack("<IQ", kind, start)


ONE = struct.pack("<I", 1)
DAMAGED = {
    "empty": (b"", "4 bytes must follow byte 0; got 0"),
    "magic": (b"GGML" + file()[4:], "does not begin with GGUF"),
    "version": (file(version=1), "must be 2 or 3; got 1"),
    "cut": (file()[:-1], "8 bytes must follow byte 16; got 7"),
    "twice": (file(*2 * [field("a", 4, ONE)], fields=2), "a comes twice"),
    "type": (file(field("a", 13, ONE), fields=1), "0 to 12; got 13"),
    "nested": (file(field("a", 9, struct.pack("<IQ", 9, 1)), fields=1), "or strings; got type 9"),
    "long list": (file(field("a", 9, struct.pack("<IQ", 4, 2**60)), fields=1), "bytes must follow"),
    "not text": (file(struct.pack("<Q", 1) + b"\xff", fields=1), "invalid start byte"),
    "alignment": (
        file(field("general.alignment", 8, string("x")), fields=1),
        "at least 1; got 'x'",
    ),
    "dimensions": (file(tensor(), tensors=1), "w must have 1 to 4 dimensions; got 0"),
    "blocks": (file(tensor(33, 2, kind=3), tensors=1), r"whole blocks of 32; got \(2, 33\)"),
    "kind": (file(tensor(32, kind=999), tensors=1), "999 is not a valid GGMLQuantizationType"),
    "beyond": (file(tensor(4), bytes(16), tensors=1), "w reaches beyond the end of the file"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_damaged_is_refused(case):
    content, message = DAMAGED[case]
    with pytest.raises(ValueError, match=message):
        read_header(io.BytesIO(content))

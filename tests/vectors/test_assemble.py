"""The assembler against the definition of the formats it writes."""

from __future__ import annotations

import io
import pickletools
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.vectors.assemble import VectorError, encode, parse, read_vector
from tests.vectors.opcode_table import OPCODES
from tests.vectors.packing import Member, pack_tar, pack_zip

HERE = Path(__file__).resolve().parent
HEADER = "attack: V1\nexpect: opens\nwhy: a test\nsource: here\n"


def assemble(tmp_path: Path, body: str, more: str = "") -> bytes:
    path = tmp_path / "x.vec"
    path.write_text(HEADER + more + "\n" + body)
    return read_vector(path).assemble()


def test_the_opcode_table_is_that_of_pickletools():
    """Same names, same bytes, none missing."""
    known = {op.name: ord(op.code) for op in pickletools.opcodes}
    assert {name: code for name, (code, _) in OPCODES.items()} == known


@pytest.mark.parametrize("name", OPCODES)
def test_an_opcode_disassembles_to_itself(name):
    """pickletools reads back the name and the operand that were assembled."""
    operands = {
        "none": [],
        "line": ["'a'" if name == "STRING" else "7"],
        "pair": ["mod", "name"],
        "f8": [1.5],
    }
    kind = OPCODES[name][1]
    given = operands.get(kind, [5] if kind[0] in "uil" else ["abc"])
    code = encode(name, given)
    end = b"" if name == "STOP" else b"."
    read = list(pickletools.genops(io.BytesIO(code + end)))

    assert read[0][0].name == name
    assert len(read) == 1 + len(end)
    wanted = {"none": None, "pair": "mod name", "f8": 1.5}.get(kind, given[:1] or None)
    value = read[0][1]
    if kind == "line":
        assert str(value) in ("7", "7.0", "a")
    elif isinstance(wanted, list):
        value = value.decode() if isinstance(value, bytes | bytearray) else value
        assert value == wanted[0]
    else:
        assert value == wanted


def test_operands_and_blocks_assemble_as_written(tmp_path):
    """Strings, repetition, numbers of the repetition, overridden lengths."""
    body = """PROTO 2   # a comment
repeat 2 { NONE ; POP }
repeat 3 { BININT1 $i ; BININT1 $i*2 ; BININT1 $i+7 }
BINUNICODE "a;b}" length=9
"""
    assert assemble(tmp_path, body) == (
        b"\x80\x02N0N0" + b"K\0K\0K\7" + b"K\1K\2K\x08" + b"K\2K\4K\x09"
        b"X\x09\0\0\0a;b}"
    )  # fmt: skip


@pytest.mark.parametrize(
    "body",
    ["NOSUCH", "NONE 5", "BININT1", "repeat 2 { NONE", "BININT1 $j", "member x oops=1"],
)
def test_what_is_not_understood_is_an_error(body, tmp_path):
    """An unknown opcode, operand or option never assembles to something else."""
    with pytest.raises(VectorError):
        assemble(tmp_path, body + "\n")


@pytest.mark.parametrize(
    "header", ["attack: V1\n\nNONE\n", HEADER + "container: floppy\n\nNONE\n"]
)
def test_a_header_is_complete_and_known(header, tmp_path):
    """A missing key or an unknown container is an error."""
    path = tmp_path / "x.vec"
    path.write_text(header)
    with pytest.raises(VectorError):
        read_vector(path)


def test_statements_keep_their_quoted_text():
    """Escapes are Python's; semicolons and braces inside quotes are text."""
    words = parse('bytes "a\\x00;{" 5').statements[0][0]
    assert words == ["bytes", "a\0;{", 5]


def test_a_zip_without_lies_is_a_zip():
    """Another reader finds the same members, stored and deflated."""
    members = [
        Member("a/data.pkl", content=bytearray(b"one")),
        Member("a/b", {"method": 8}, bytearray(b"two" * 50)),
        Member("a/c", {"descriptor": 1}, bytearray(b"three")),
    ]
    with zipfile.ZipFile(io.BytesIO(pack_zip(members, {"comment": "hi"}))) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == {
            member.name: bytes(member.content) for member in members
        }
        assert archive.comment == b"hi"


def test_a_tar_without_lies_is_a_tar():
    """Another reader finds the same members."""
    content = pack_tar([Member("pickle", content=bytearray(b"x" * 700))])
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        member = archive.getmember("pickle")
        assert member.isreg()
        assert archive.extractfile(member).read() == b"x" * 700


def test_the_command_line_writes_the_file(tmp_path):
    """`python tests/vectors/assemble.py FILE.vec OUT`."""
    vector = HERE / "v45_empty_stack.vec"
    out = tmp_path / "out.pkl"
    subprocess.run(
        [sys.executable, str(HERE / "assemble.py"), str(vector), str(out)],
        check=True,
        cwd=tmp_path,
    )
    assert out.read_bytes() == b"\x80\x02."

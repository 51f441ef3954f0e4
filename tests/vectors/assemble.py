"""Assemble a `.vec` file (an attack as text) to the bytes of a model file.

    python tests/vectors/assemble.py FILE.vec OUT

The format is described in README.md. An unknown header key, opcode, directive or
option is an error: a vector that silently assembled to something else would prove
nothing.
"""

from __future__ import annotations

import ast
import bz2
import gzip
import lzma
import re
import struct
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.vectors import builders
from tests.vectors.opcode_table import INTEGERS, LENGTHS, OPCODES
from tests.vectors.packing import (
    ARCHIVE_OPTIONS,
    MEMBER_OPTIONS,
    Member,
    pack_tar,
    pack_zip,
)

HEADER_KEYS = frozenset(
    """attack expect opaque at limit globals reason what result opaque-result why source
    container build heavy name storage-bytes load
    scan unseen then environment""".split()
)
REQUIRED_KEYS = ("attack", "expect", "why", "source")
CONTAINERS = ("pickle", "torch_zip", "zip", "tar", "raw")
COMPRESSORS = {
    "zlib": zlib.compress,
    "gzip": lambda content: gzip.compress(content, mtime=0),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda content: lzma.compress(content, lzma.FORMAT_ALONE),
}
ARRAYS = {
    "f32": "<f",
    "f64": "<d",
    "i32": "<i",
    "i64": "<q",
    "u8": "<B",
    "u16": "<H",
    "u32": "<I",
    "u64": "<Q",
}
_TOKEN = re.compile(
    r"""\s*(?:(?P<comment>\#[^\n]*)|(?P<text>"(?:[^"\\]|\\.)*")|(?P<punct>[{};])
    |(?P<word>[^\s{};"]+(?:(?<==)"(?:[^"\\]|\\.)*")?))""",
    re.VERBOSE,
)

Word = str | int | float | bytes
Statement = tuple[list[Word], "Block | None"]


class VectorError(Exception):
    """The text of a vector is wrong."""


class Text(str):
    """A quoted operand, as opposed to a bare word."""

    __slots__ = ()


@dataclass
class Block:
    """Statements between braces."""

    statements: list[Statement] = field(default_factory=list)
    varies: bool = False


@dataclass
class Vector:
    """One attack: its header and its body."""

    path: Path
    header: dict[str, str]
    body: str

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def attacks(self) -> list[str]:
        return self.header["attack"].split()

    @property
    def file_name(self) -> str:
        return self.header.get("name", "model.pt")

    def assemble(self) -> bytes:
        """Return the bytes of the file."""
        if "build" in self.header:
            built: bytes = getattr(builders, self.header["build"])()
            return built
        return _Assembler(self.header.get("container", "pickle")).file(self.body)


def read_vector(path: Path) -> Vector:
    """Return the vector in a `.vec` file, its header checked."""
    head, _, body = path.read_text("utf-8").partition("\n\n")
    header: dict[str, str] = {}
    for line in head.splitlines():
        if line.startswith("  "):
            last = next(reversed(header))
            header[last] += " " + line.strip()
            continue
        key, colon, value = line.partition(":")
        if not colon or key not in HEADER_KEYS or key in header:
            raise VectorError(f"{path.name}: not a header line: {line!r}")
        header[key] = value.strip()
    for key in REQUIRED_KEYS:
        if not header.get(key):
            raise VectorError(f"{path.name}: {key} is missing")
    if header.get("container", "pickle") not in CONTAINERS:
        raise VectorError(f"{path.name}: unknown container {header['container']}")
    return Vector(path, header, body)


def parse(body: str) -> Block:
    """Return the statements of a body."""
    root = Block()
    open_blocks = [root]
    words: list[Word] = []
    for number, line in enumerate(body.splitlines(), 1):
        position = 0
        while position < len(line.rstrip()):
            match = _TOKEN.match(line, position)
            if not match:
                raise VectorError(f"line {number}: {line[position:]!r}")
            position = match.end()
            token = match.group(match.lastgroup or 0)
            if match.lastgroup == "comment":
                break
            if match.lastgroup == "text":
                words.append(Text(ast.literal_eval(token)))
            elif match.lastgroup == "word":
                words.append(_word(token))
                if "$" in token:
                    for block in open_blocks:
                        block.varies = True
            elif token == "{":
                block = Block()
                open_blocks[-1].statements.append((words, block))
                open_blocks.append(block)
                words = []
            else:
                if words:
                    open_blocks[-1].statements.append((words, None))
                    words = []
                if token == "}":
                    open_blocks.pop()
        if words:
            open_blocks[-1].statements.append((words, None))
            words = []
    if len(open_blocks) != 1:
        raise VectorError("braces do not match")
    return root


def _word(token: str) -> Word:
    try:
        return int(token, 0)
    except ValueError:
        pass
    try:
        return float(token) if token[0] in "-+.0123456789" else token
    except ValueError:
        return token


class _Assembler:
    """Turns statements into bytes; the current sink is where they go."""

    def __init__(self, container: str) -> None:
        self.container = container
        self.members: list[Member] = []
        self.options: dict[str, object] = {}
        self.main = bytearray()
        self.sink = self.main
        self.labels: dict[str, int] = {}
        self.count = 0

    def file(self, body: str) -> bytes:
        self.block(parse(body))
        if self.container in ("pickle", "raw"):
            return bytes(self.main)
        if self.container == "zip":
            return pack_zip(self.members, self.options)
        if self.container == "tar":
            return pack_tar(self.members)
        return self.torch_zip()

    def torch_zip(self) -> bytes:
        root = str(self.options.get("root", "archive"))
        before = [Member(f"{root}/data.pkl", content=self.main)]
        after = [
            Member(f"{root}/{name}", content=bytearray(content))
            for name, content in (("byteorder", b"little"), ("version", b"3\n"))
        ]
        for member in self.members:
            if member.name.startswith("="):
                member.name = member.name[1:]
            else:
                member.name = f"{root}/{member.name}"
            other = member.options.get("offset")
            if isinstance(other, str):
                member.options["offset"] = f"{root}/{other}"
        known = {member.name for member in self.members}
        chosen = [m for m in before if m.name not in known and m.content]
        chosen += self.members
        chosen += [m for m in after if m.name not in known]
        present = [m for m in chosen if m.number("absent", 0) < 2]
        return pack_zip(present, self.options)

    def block(self, block: Block) -> None:
        for words, inner in block.statements:
            self.statement(words, inner)

    def nested(self, block: Block | None) -> bytes:
        """Return what a block assembles to."""
        if block is None:
            raise VectorError("a block is missing")
        outer, self.sink = self.sink, bytearray()
        self.block(block)
        inner, self.sink = self.sink, outer
        return bytes(inner)

    def statement(self, words: list[Word], block: Block | None) -> None:
        words = [self.value(word) for word in words]
        head, operands = words[0], words[1:]
        if not isinstance(head, str):
            raise VectorError(f"not a statement: {words}")
        if head in OPCODES:
            self.sink += encode(head, operands)
        elif head in ARRAYS:
            for value in operands:
                self.sink += struct.pack(ARRAYS[head], value)
        else:
            method = getattr(self, "do_" + head.replace("-", "_"), None)
            if method is None:
                raise VectorError(f"unknown opcode or directive {head}")
            plain = [word for word in operands if not _is_option(word)]
            options = dict(_option(word) for word in operands if _is_option(word))
            if block is not None:
                options["block"] = block
            method(*plain, **options)

    def value(self, word: Word) -> Word:
        """Replace `$i`, `$i*7`, `$i+7` by the number of the repetition."""
        if isinstance(word, Text) or not isinstance(word, str) or "$" not in word:
            return word
        match = re.fullmatch(r"\$i(?:([*+])(\d+))?", word)
        if not match:
            raise VectorError(f"not an expression: {word}")
        operator, number = match.group(1), int(match.group(2) or 0)
        if operator == "*":
            return self.count * number
        return self.count + number

    # Directives. Each writes to the current sink.

    def do_repeat(self, times: int, *, block: Block) -> None:
        if not block.varies:
            self.sink += self.nested(block) * times
            return
        for self.count in range(times):
            self.block(block)

    def do_bytes(self, text: str) -> None:
        self.sink += text.encode("latin-1")

    def do_hex(self, *digits: object) -> None:
        self.sink += bytes.fromhex("".join(str(part) for part in digits))

    def do_fill(self, times: int, value: int = 0) -> None:
        self.sink += bytes([value]) * times

    def do_compress(self, method: str, *, block: Block) -> None:
        self.sink += COMPRESSORS[method](self.nested(block))

    def do_sized(self, kind: str, *, block: Block) -> None:
        inner = self.nested(block)
        self.sink += struct.pack(ARRAYS[kind], len(inner)) + inner

    def do_frame(self, *, block: Block) -> None:
        inner = self.nested(block)
        self.sink += b"\x95" + struct.pack("<Q", len(inner)) + inner

    def do_binbytes(self, *, block: Block) -> None:
        inner = self.nested(block)
        self.sink += b"B" + struct.pack("<I", len(inner)) + inner

    def do_include(self, name: str) -> None:
        self.sink += read_vector(Path(__file__).parent / f"{name}.vec").assemble()

    def do_member(self, name: str, **options: object) -> None:
        unknown = options.keys() - MEMBER_OPTIONS
        if unknown:
            raise VectorError(f"unknown member options {sorted(unknown)}")
        member = Member(name, options)
        self.members.append(member)
        self.sink = member.content

    def do_archive(self, **options: object) -> None:
        unknown = options.keys() - ARCHIVE_OPTIONS
        if unknown:
            raise VectorError(f"unknown archive options {sorted(unknown)}")
        self.options.update(options)

    def do_put(self, label: str) -> None:
        index = self.labels.setdefault(label, len(self.labels))
        self.sink += encode("LONG_BINPUT", [index])

    def do_get(self, label: str) -> None:
        self.sink += encode("LONG_BINGET", [self.labels[label]])

    def do_str(self, text: str) -> None:
        self.sink += encode("BINUNICODE", [Text(text)])

    def do_int(self, value: int) -> None:
        if 0 <= value < 256:
            self.sink += encode("BININT1", [value])
        elif -(1 << 31) <= value < 1 << 31:
            self.sink += encode("BININT", [value])
        else:
            self.sink += encode("LONG1", [value])

    def do_ints(self, *values: int) -> None:
        self.sink += b"("
        for value in values:
            self.do_int(value)
        self.sink += b"t"

    def do_ordered(self) -> None:
        """Push an empty `collections.OrderedDict`."""
        self.sink += b"ccollections\nOrderedDict\n)R"

    def do_storage(self, kind: str, key: str | int, numel: int, *rest: str) -> None:
        """Push a storage by its persistent id."""
        self.sink += b"("
        self.do_str("storage")
        self.sink += encode("GLOBAL", ["torch", f"{kind}Storage"])
        self.do_str(str(key))
        self.do_str(rest[0] if rest else "cpu")
        self.do_int(numel)
        self.sink += b"tQ"

    def do_tensor(
        self,
        kind: str,
        key: str | int,
        numel: int,
        *,
        shape: object,
        stride: object,
        offset: int = 0,
    ) -> None:
        """Push `torch._utils._rebuild_tensor_v2` applied to a view of a storage."""
        self.sink += encode("GLOBAL", ["torch._utils", "_rebuild_tensor_v2"]) + b"("
        self.do_storage(kind, key, numel)
        self.do_int(offset)
        self.do_ints(*_axes(shape))
        self.do_ints(*_axes(stride))
        self.sink += b"\x89"
        self.do_ordered()
        self.sink += b"tR"

    def do_trip(self) -> None:
        """Push the call of the canary: what an unsafe loader would run."""
        self.sink += encode("GLOBAL", ["safemodel.testing", "trip"])
        self.do_str("a pickle ran")
        self.sink += b"\x85R"

    def do_legacy(self) -> None:
        """Write the first three pickles of a pre-1.6 stream."""
        self.sink += b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
        self.sink += b"\x80\x02M\xe9\x03."
        self.sink += b"\x80\x02}("
        for name, value in (("protocol_version", 1001), ("little_endian", None)):
            self.do_str(name)
            self.sink += b"\x88" if value is None else b"M\xe9\x03"
        self.do_str("type_sizes")
        self.sink += b"}("
        for name, size in (("short", 2), ("int", 4), ("long", 4)):
            self.do_str(name)
            self.do_int(size)
        self.sink += b"uu."

    def do_npy(self, header: str, *, version: int = 1) -> None:
        """Write the magic, version and header of a `.npy` file."""
        length = "<H" if version == 1 else "<I"
        text = header.encode("latin-1")
        prefix = 8 + struct.calcsize(length)
        text += b" " * (-(prefix + len(text) + 1) % 64) + b"\n"
        self.sink += b"\x93NUMPY" + bytes([version, 0])
        self.sink += struct.pack(length, len(text)) + text

    def do_safetensors(self, header: str) -> None:
        """Write the length and the JSON header of a `.safetensors` file."""
        text = header.encode("utf-8")
        text += b" " * (-len(text) % 8)
        self.sink += struct.pack("<Q", len(text)) + text


def _is_option(word: Word) -> bool:
    return (
        isinstance(word, str)
        and not isinstance(word, Text)
        and re.match(r"[a-z_]+=", word) is not None
    )


def _option(word: Word) -> tuple[str, object]:
    key, _, value = str(word).partition("=")
    if value.startswith('"'):
        return key, str(ast.literal_eval(value))
    return key, _word(value)


def _axes(text: object) -> list[int]:
    if isinstance(text, int):
        return [text]
    return [int(part, 0) for part in str(text).split(",") if part != "none"]


def encode(name: str, operands: list[Word]) -> bytes:
    """Return one opcode; a trailing `length=N` overrides the length it announces."""
    code, kind = OPCODES[name]
    length: int | None = None
    if operands and _is_option(operands[-1]):
        _, given = _option(operands[-1])
        assert isinstance(given, int)
        length, operands = given, operands[:-1]
    wanted = {"none": 0, "pair": 2}.get(kind, 1)
    if len(operands) != wanted:
        raise VectorError(f"{name} takes {wanted} operands, not {operands}")
    return bytes([code]) + _operand(kind, operands, length)


def _operand(kind: str, operands: list[Word], length: int | None) -> bytes:
    if kind in INTEGERS:
        return struct.pack(INTEGERS[kind], operands[0])
    if kind == "f8":
        return struct.pack(">d", operands[0])
    if kind in ("line", "pair"):
        return b"".join(
            str(word).encode("utf-8", "surrogatepass") + b"\n" for word in operands
        )
    if kind == "none":
        return b""
    value = operands[0]
    if isinstance(value, int):
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    elif kind.startswith("text"):
        raw = str(value).encode("utf-8", "surrogatepass")
    else:
        raw = str(value).encode("latin-1")
    announced = len(raw) if length is None else length
    return struct.pack(LENGTHS[kind], announced) + raw


def main() -> int:
    """Assemble one file."""
    if len(sys.argv) != 3:
        print("usage: python tests/vectors/assemble.py FILE.vec OUT", file=sys.stderr)
        return 2
    content = read_vector(Path(sys.argv[1])).assemble()
    Path(sys.argv[2]).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())

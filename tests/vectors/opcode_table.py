"""The pickle opcodes and how the assembler encodes their operands.

Written from the opcode list in Python's documentation of `pickletools`; names and
operand kinds are its names. `test_assemble.py` compares the two.
"""

from __future__ import annotations

# Operand kinds:
#   none                      no operand
#   line                      text up to a newline, written as it stands
#   pair                      two such lines
#   u1 u2 u4 u8 i4            an integer, little-endian
#   f8                        a double, big-endian
#   raw1 raw4 raw8            a length and bytes (raw4s: the length is signed)
#   text1 text4 text8         a length and UTF-8
#   long1 long4               a length and a two's complement integer
OPCODES: dict[str, tuple[int, str]] = {
    "MARK": (0x28, "none"),
    "EMPTY_TUPLE": (0x29, "none"),
    "STOP": (0x2E, "none"),
    "POP": (0x30, "none"),
    "POP_MARK": (0x31, "none"),
    "DUP": (0x32, "none"),
    "BINBYTES": (0x42, "raw4"),
    "SHORT_BINBYTES": (0x43, "raw1"),
    "FLOAT": (0x46, "line"),
    "BINFLOAT": (0x47, "f8"),
    "INT": (0x49, "line"),
    "BININT": (0x4A, "i4"),
    "BININT1": (0x4B, "u1"),
    "LONG": (0x4C, "line"),
    "BININT2": (0x4D, "u2"),
    "NONE": (0x4E, "none"),
    "PERSID": (0x50, "line"),
    "BINPERSID": (0x51, "none"),
    "REDUCE": (0x52, "none"),
    "STRING": (0x53, "line"),
    "BINSTRING": (0x54, "raw4s"),
    "SHORT_BINSTRING": (0x55, "raw1"),
    "UNICODE": (0x56, "line"),
    "BINUNICODE": (0x58, "text4"),
    "EMPTY_LIST": (0x5D, "none"),
    "APPEND": (0x61, "none"),
    "BUILD": (0x62, "none"),
    "GLOBAL": (0x63, "pair"),
    "DICT": (0x64, "none"),
    "APPENDS": (0x65, "none"),
    "GET": (0x67, "line"),
    "BINGET": (0x68, "u1"),
    "INST": (0x69, "pair"),
    "LONG_BINGET": (0x6A, "u4"),
    "LIST": (0x6C, "none"),
    "OBJ": (0x6F, "none"),
    "PUT": (0x70, "line"),
    "BINPUT": (0x71, "u1"),
    "LONG_BINPUT": (0x72, "u4"),
    "SETITEM": (0x73, "none"),
    "TUPLE": (0x74, "none"),
    "SETITEMS": (0x75, "none"),
    "EMPTY_DICT": (0x7D, "none"),
    "PROTO": (0x80, "u1"),
    "NEWOBJ": (0x81, "none"),
    "EXT1": (0x82, "u1"),
    "EXT2": (0x83, "u2"),
    "EXT4": (0x84, "i4"),
    "TUPLE1": (0x85, "none"),
    "TUPLE2": (0x86, "none"),
    "TUPLE3": (0x87, "none"),
    "NEWTRUE": (0x88, "none"),
    "NEWFALSE": (0x89, "none"),
    "LONG1": (0x8A, "long1"),
    "LONG4": (0x8B, "long4"),
    "SHORT_BINUNICODE": (0x8C, "text1"),
    "BINUNICODE8": (0x8D, "text8"),
    "BINBYTES8": (0x8E, "raw8"),
    "EMPTY_SET": (0x8F, "none"),
    "ADDITEMS": (0x90, "none"),
    "FROZENSET": (0x91, "none"),
    "NEWOBJ_EX": (0x92, "none"),
    "STACK_GLOBAL": (0x93, "none"),
    "MEMOIZE": (0x94, "none"),
    "FRAME": (0x95, "u8"),
    "BYTEARRAY8": (0x96, "raw8"),
    "NEXT_BUFFER": (0x97, "none"),
    "READONLY_BUFFER": (0x98, "none"),
}

INTEGERS = {"u1": "<B", "u2": "<H", "u4": "<I", "u8": "<Q", "i4": "<i"}
LENGTHS = {
    "raw1": "<B",
    "raw4": "<I",
    "raw4s": "<i",
    "raw8": "<Q",
    "text1": "<B",
    "text4": "<I",
    "text8": "<Q",
    "long1": "<B",
    "long4": "<i",
}

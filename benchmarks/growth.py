"""How the time of a load grows with the file, for each way to make it expensive.

    python benchmarks/growth.py    # a few minutes; writes GROWTH.md beside this file

Each family of attacks is a function from a size to a file, measured at n, 2n and 4n:
the processor time of `safe_load` (`weights_only=False`, from memory) and of a scan, the
best of several runs. Linear growth shows as factors of about two; what is refused early
as less. Exits 1 where a factor says that more than linear work is done.
"""

from __future__ import annotations

import base64
import gc
import json
import math
import platform
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))

import numpy as np
import torch

from safemodel import SafeModelError, safe_load
from safemodel.policy import STRICT
from safemodel.scanning import inspect_file
from tests.vectors.packing import Member, pack_zip

PRIME = 2**61 - 1
RUNS = 3
# A factor for twice the size that only more than linear work explains.
TOO_MUCH = 3.0
# Below this a factor says more about the machine than about the file.
SHORTEST_S = 0.01

Family = tuple[str, str, Callable[[int], bytes], int]


def text(content: str) -> bytes:
    """Return the opcode that pushes a text."""
    data = content.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    """Return the opcode that pushes an integer of up to 255 bytes."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def pickled(*parts: bytes) -> bytes:
    """Return a pickle of these opcodes."""
    return b"\x80\x04" + b"".join(parts) + b"."


def listed(items: list[bytes]) -> bytes:
    """Return a pickle of a list."""
    return pickled(b"](", *items, b"e")


def keyed(keys: list[bytes]) -> bytes:
    """Return a pickle of a dictionary with these keys."""
    return pickled(b"}(", b"N".join([*keys, b""]), b"u")


def archive(pickle: bytes, records: dict[str, bytes], **options: object) -> bytes:
    """Return a torch archive; the options are those of every other record."""
    members = [Member("a/data.pkl", content=bytearray(pickle))]
    members += [
        Member(f"a/{name}", dict(options), bytearray(content))
        for name, content in records.items()
    ]
    fixed = {"byteorder": b"little", "version": b"3\n"}
    members += [Member(f"a/{k}", content=bytearray(v)) for k, v in fixed.items()]
    return pack_zip(members, {})


def tensor(key: int, numel: int) -> bytes:
    """Return the opcodes of a tensor over a storage of its own."""
    storage = text("storage") + b"ctorch\nFloatStorage\n" + text(str(key))
    storage += text("cpu") + integer(numel)
    view = b"(" + integer(numel) + b"tK\x01\x85\x89ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage + b"tQK\x00" + view + b"tR"
    )


def deflated(n: int) -> bytes:
    """Return an archive whose storage inflates 60-fold, within the limit."""
    block = np.random.default_rng(0).bytes(1000) + bytes(95_000)
    content = block * (n // 96_000 + 1)
    content = content[: len(content) // 4 * 4]
    pickle = pickled(tensor(0, len(content) // 4))
    return archive(pickle, {"data/0": content}, method=8)


def safetensors_header(n: int) -> bytes:
    """Return a safetensors file of n empty tensors."""
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"t{i}": entry for i in range(n)}).encode()
    return struct.pack("<Q", len(header)) + header


def agent(n: int) -> bytes:
    """Return a zip of JSON with n pickles in base64, beside a checkpoint."""
    field = base64.b64encode(listed([b"cevil\nThing\n"])).decode()
    data = json.dumps({f"f{i}": {":serialized:": field} for i in range(n)}).encode()
    inner = archive(pickled(b"}"), {})
    members = {"data": data, "policy.pth": inner}
    return pack_zip([Member(k, {}, bytearray(v)) for k, v in members.items()], {})


def nests(n: int) -> bytes:
    """Return a list of lists 200 deep, n deep ones."""
    return listed([b"]" * 200 + b"a" * 199] * n)


FAMILIES: list[Family] = [
    ("A1", "a deflated storage that inflates 60-fold", deflated, 4_000_000),
    (
        *("A1", "the same a thousandfold"),
        lambda n: archive(pickled(tensor(0, n // 4)), {"data/0": bytes(n)}, method=8),
        8_000_000,
    ),
    (
        *("A2", "one list of 1,000, listed n times"),
        lambda n: pickled(b"](" + b"N" * 1000 + b"eq\x000](", b"h\x00" * n, b"e"),
        100_000,
    ),
    ("A2", "n empty sets", lambda n: listed([b"\x8f"] * n), 100_000),
    (
        *("A2", "n lists, each of the one before twice"),
        lambda n: pickled(b"]", b"q\x000](h\x00h\x00e" * n),
        100_000,
    ),
    (
        *("A3", "n keys that are tuples of tuples"),
        lambda n: keyed([integer(i) + b"2\x862\x862\x86" for i in range(n)]),
        10_000,
    ),
    (
        *("A3", "a key of tuples that double, n deep"),
        lambda n: keyed([b")" + b"2\x86" * n]),
        500_000,
    ),
    ("A4", "n lists, 200 deep each", nests, 500),
    ("A4", "lists n deep", lambda n: pickled(b"]" * n, b"a" * (n - 1)), 200_000),
    (
        *("A4", "a key n deep"),
        lambda n: keyed([b")" + b"\x85" * n]),
        500_000,
    ),
    (
        *("A4", "the result of a call is called, n times"),
        lambda n: pickled(b"cevil\nThing\n", b")R" * n),
        100_000,
    ),
    (
        *("A5", "integers of one hash, as keys"),
        lambda n: keyed([integer(i * PRIME) for i in range(n)]),
        50_000,
    ),
    (
        *("A5", "the same, one by one"),
        lambda n: pickled(b"}", *(integer(i * PRIME) + b"Ns" for i in range(n))),
        50_000,
    ),
    (
        *("A5", "the same, in a set"),
        lambda n: pickled(b"\x8f(", *(integer(i * PRIME) for i in range(n)), b"\x90"),
        50_000,
    ),
    (
        *("A5", "integers that share their low 40 bits, as keys"),
        lambda n: keyed([integer(i << 40) for i in range(n)]),
        50_000,
    ),
    (
        *("A5", "15 keys of one hash, in each of n dictionaries"),
        lambda n: listed([keyed([integer(i * PRIME) for i in range(15)])[2:-1]] * n),
        3_000,
    ),
    (
        *("A6", "n slots of the memo, and n references"),
        lambda n: pickled(
            b"](", *(b"Nr" + struct.pack("<I", i) for i in range(n)), b"e"
        ),
        100_000,
    ),
    (
        *("A7", "n texts with a length of eight bytes"),
        lambda n: listed([b"\x8d" + struct.pack("<Q", 3) + b"abc"] * n),
        100_000,
    ),
    (
        *("A7", "one text of n bytes, which announces more"),
        lambda n: pickled(b"\x8d" + struct.pack("<Q", n + 9) + b"a" * n),
        10_000_000,
    ),
    (
        *("A8", "n integers of 1,000 bytes"),
        lambda n: listed([b"\x8b" + struct.pack("<I", 1000) + b"\x7f" * 1000] * n),
        10_000,
    ),
    (
        *("A8", "n decimal integers of 2,400 digits"),
        lambda n: listed([b"L" + b"7" * 2400 + b"L\n"] * n),
        1_000,
    ),
    ("A8", "a decimal integer of n digits", lambda n: b"I" + b"7" * n + b"\n.", 10**6),
    (
        *("A9", "n members beside the pickle"),
        lambda n: archive(pickled(b"}"), {f"x/{i}": b"" for i in range(n)}),
        10_000,
    ),
    (
        *("A10", "n tensors of one number"),
        lambda n: archive(
            listed([tensor(i, 1) for i in range(n)]),
            {f"data/{i}": bytes(4) for i in range(n)},
        ),
        4_000,
    ),
    (
        *("A11", "n texts encoded as Latin-1"),
        lambda n: listed(
            [b"c_codecs\nencode\n" + text("abc") + text("latin1") + b"\x86R"] * n
        ),
        20_000,
    ),
    (
        *("A11", "n characters encoded as punycode"),
        lambda n: pickled(
            b"c_codecs\nencode\n",
            text("".join(chr(0x4E00 + i % 20_000) for i in range(n))),
            text("punycode") + b"\x86R",
        ),
        500_000,
    ),
    (
        *("A12", "n members with long extra fields"),
        lambda n: archive(
            pickled(b"}"),
            {f"x/{i}": b"" for i in range(n)},
            extra="FB\xe8\x03" + "Z" * 1000,
        ),
        2_000,
    ),
    ("A12", "a safetensors header of n tensors", safetensors_header, 20_000),
    (
        *("A12", "a safetensors header n brackets deep"),
        lambda n: struct.pack("<Q", n + 8) + b'{"a":   ' + b"[" * n,
        1_000_000,
    ),
    (
        *("A12", "an npy header n brackets deep"),
        lambda n: b"\x93NUMPY\x02\x00" + struct.pack("<I", n) + b"(" * n,
        1_000_000,
    ),
    (
        *("V1", "n globals that are refused"),
        lambda n: listed([b"cevil\nname" + b"%d\n" % i for i in range(n)]),
        20_000,
    ),
    ("V13", "n pickles behind the first", lambda n: pickled(b"}") * n, 5_000),
    ("C11", "n pickles in base64 in JSON", agent, 2_000),
]


def load(content: bytes) -> str:
    """Load a file; return "opens" or the class of the error."""
    try:
        safe_load(content, weights_only=False)
    except SafeModelError as error:
        return type(error).__name__
    return "opens"


def scan(content: bytes) -> str:
    """Scan a file, which answers for whatever it is."""
    inspect_file(content, policy=STRICT)
    return ""


def best(action: Callable[[bytes], str], files: list[bytes]) -> list[float]:
    """Return the least processor time for each file, in seconds.

    The files take turns, and take more of them while they seem to grow too fast, so
    that a busy minute of the machine is not taken for a property of the file.
    """
    least = [math.inf] * len(files)
    for turn in range(RUNS * 5):
        if turn >= RUNS and not too_fast(least):
            break
        for index, content in enumerate(files):
            gc.collect()
            start = time.process_time()
            action(content)
            least[index] = min(least[index], time.process_time() - start)
    return least


def too_fast(times: list[float]) -> bool:
    """Tell whether the last doubling took more than linear work explains."""
    return times[-2] > SHORTEST_S and times[-1] > TOO_MUCH * times[-2]


def measure(family: Family) -> tuple[str, bool]:
    """Return the row of a family, and whether it grows too fast."""
    key, what, build, n = family
    files = [build(size) for size in (n, 2 * n, 4 * n)]
    outcome = load(files[-1])
    cells = [key, what, f"{n:,}", f"{len(files[0]):,}"]
    cells.append(outcome if outcome == "opens" else f"`{outcome}`")
    bad = False
    for action in (load, scan):
        times = best(action, files)
        first, second, third = times
        cells += [f"{1000 * first:.1f}", f"{1000 * third:.1f}"]
        cells += [f"{second / first:.1f}", f"{third / second:.1f}"]
        bad = bad or too_fast(times)
    return f"| {' | '.join(cells)} |", bad


def main() -> int:
    """Measure every family; print the table and write the page."""
    torch.set_num_threads(1)
    load(deflated(1000))
    rows, slow = [], []
    for family in FAMILIES:
        row, bad = measure(family)
        print(row, "<- too much" if bad else "", flush=True)
        rows.append(row)
        slow += [family[1]] * bad
    page = HERE / "GROWTH.md"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    page.write_text(
        PAGE.format(rows="\n".join(rows), versions=versions, runs=RUNS), "utf-8"
    )
    print(f"{len(slow)} grow faster than their file", *slow, sep="\n  ")
    return 1 if slow else 0


PAGE = """# How time grows with the file

Written by `make growth` (`benchmarks/growth.py`); do not edit. Processor time for files
of size n, 2n and 4n, best of {runs} runs or more, {versions}. Each row is a
way to make a file expensive: the ids are those of [attacks](../docs/attacks.md). A factor
is the time for twice the size: 2 is linear, 1 means that the file is refused before its
size matters. Times of a few milliseconds have factors that say little.

| id | file | n | bytes at n | outcome | load n, ms | load 4n, ms | 2n / n | 4n / 2n | scan n, ms | scan 4n, ms | 2n / n | 4n / 2n |
|---|---|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|
{rows}
"""  # noqa: E501 - a table's head is one line

if __name__ == "__main__":
    sys.exit(main())

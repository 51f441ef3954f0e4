"""What is mutated: the vectors, and small checkpoints of every format we read."""

from __future__ import annotations

import argparse
import base64
import collections
import contextlib
import datetime
import decimal
import fractions
import io
import json
import pickle
import pickletools
import tarfile
import uuid
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from tests.differential.torch_tar import Old, tar
from tests.vectors.assemble import read_vector
from tests.vectors.packing import Member, pack_zip

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
LARGEST_SEED = 20_000


@dataclass
class Seed:
    """One file to mutate, and its parts where it has known ones.

    Attributes:
        name: Where it comes from.
        content: The file.
        generated: A checkpoint written for this, not a vector.
        members: Name and content of each member of a zip or tar archive.
        opcodes: The opcodes of bare pickles, as bytes each, and what is around them.
    """

    name: str
    content: bytes
    generated: bool = False
    members: list[tuple[str, bytes]] | None = None
    opcodes: list[bytes] | None = None


def split_opcodes(content: bytes) -> list[bytes] | None:
    """Return the opcodes of the pickles at the start, frames left out, and the rest.

    None if not even one pickle can be read.
    """
    stream = io.BytesIO(content)
    parts: list[bytes] = []
    end = 0
    while True:
        starts: list[int] = []
        try:
            for opcode, _, position in pickletools.genops(stream):
                starts.append(position or 0)
                if opcode.name == "FRAME":
                    starts.pop()
        # pickletools raises whatever it runs into; then there is no more to split.
        except Exception:  # noqa: BLE001
            break
        end = stream.tell()
        ends = [*starts[1:], end]
        parts += [content[a:b] for a, b in zip(starts, ends, strict=True)]
    if not parts:
        return None
    # A frame's header trails the opcode before it.
    parts = [p[:-9] if len(p) > 9 and p[-9:-8] == b"\x95" else p for p in parts]
    return [*parts, content[end:]] if end < len(content) else parts


def as_seed(name: str, content: bytes, *, generated: bool = False) -> Seed:
    """Return a seed with its parts."""
    seed = Seed(name, content, generated)
    # A vector that zipfile or tarfile cannot read is mutated as bytes only.
    if content.startswith(b"PK\x03\x04"):
        with contextlib.suppress(Exception):
            seed.members = zip_members(content)
    elif content[257:262] == b"ustar":
        with contextlib.suppress(Exception):
            seed.members = _tar_members(content)
    elif content.startswith(b"\x93NUMPY"):
        start = 10 + int.from_bytes(content[8:10], "little")
        opcodes = split_opcodes(content[start:])
        seed.opcodes = opcodes and [content[:start], *opcodes]
    else:
        seed.opcodes = split_opcodes(content)
    return seed


def zip_members(content: bytes) -> list[tuple[str, bytes]]:
    """Return name and content of each member of a zip archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(item.filename, archive.read(item)) for item in archive.infolist()]


def _tar_members(content: bytes) -> list[tuple[str, bytes]]:
    """Return name and content of each file of a tar archive."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        files = [(info.name, archive.extractfile(info)) for info in archive]
        return [(name, file.read()) for name, file in files if file]


def _objects() -> dict[str, object]:
    """Return objects that, saved by torch, use every rebuild function there is."""
    weight = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    dtypes = [torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.complex64]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = torch.sparse_coo_tensor([[0, 1], [1, 2]], [1.0, 2.0], (3, 3))
        csr = weight.to_sparse_csr()
        blocks = torch.arange(16.0).reshape(4, 4)
        compressed = [weight.to_sparse_csc(), *(
            blocks.to_sparse_bsr((2, 2)), blocks.to_sparse_bsc((2, 2)),
        )]  # fmt: skip
        nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)])
        quantised = torch.quantize_per_tensor(weight, 0.5, 2, torch.qint8)
        channel = torch.quantize_per_channel(
            weight, torch.tensor([0.5, 1.0]), torch.tensor([0, 1]), 0, torch.quint8
        )
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    adam = torch.optim.Adam(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()
    adam.step()
    return {
        "state": model.state_dict(),
        "optimiser": {"optimiser": adam.state_dict(), "epoch": 3, "lr": 0.1},
        "module": model,
        "tied": {"a": weight, "b": weight, "row": weight[1], "t": weight.t()},
        "kinds": [torch.ones(2).to(dtype) for dtype in dtypes],
        "sparse": [sparse, csr],
        "quantised": [quantised, channel],
        "compressed": compressed,
        "nested": nested,
        # Enough of them for the shortcuts, which start at the 256th value.
        "many": [torch.ones(2, 2) * number for number in range(60)],
        "float8": torch.ones(3).to(torch.float8_e4m3fn),
        "parameter": torch.nn.Parameter(weight),
        "storages": [weight.untyped_storage(), torch.Size([2, 3]), torch.float32],
        "empty": torch.zeros(0, 3),
        "meta": torch.zeros(3, device="meta"),
        "plain": _plain(),
    }


def _plain() -> object:
    """Return plain data of every kind."""
    data: dict[object, object] = {
        "text": "é\ud800",
        "bytes": [b"x" * 3, bytearray(b"yz")],
        "numbers": [1, -1, 2**40, -(2**70), 1.5, True, None, 1 + 2j],
        "sets": [{1, 2}, frozenset({"a"})],
        "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "mappings": [
            collections.OrderedDict(a=1),
            collections.defaultdict(list, b=[2]),
            collections.Counter("ab"),
            collections.deque([1, 2], 5),
        ],
        "values": [
            slice(1, 2),
            range(3),
            datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC),
            datetime.timedelta(3),
            fractions.Fraction(1, 3),
            decimal.Decimal("1.5"),
            uuid.UUID(int=5),
            torch.Size([2]),
            Path("a/b"),
            argparse.Namespace(lr=0.1, name="x"),
        ],
        "arrays": [
            np.arange(4, dtype="<f4").reshape(2, 2),
            np.float64(1.5),
            np.array([(1, 2.0)], dtype=[("a", "<i4"), ("b", "<f8")]),
            np.array(["ab", "c"]),
            np.array([{"x": 1}, None], dtype=object),
            np.dtype("<i8"),
        ],
    }
    data["again"] = data["tuples"]
    data["keys"] = {
        decimal.Decimal(1): 0, fractions.Fraction(1, 3): 1, np.int64(5): 2,
        (np.float32(1), "a"): 3, frozenset({2}): 4, torch.Size([2]): 5, None: 6,
    }  # fmt: skip
    return data


def build_corpus() -> list[Seed]:
    """Return every seed, in a fixed order."""
    seeds = []
    for path in sorted(VECTORS.glob("*.vec")):
        vector = read_vector(path)
        if "heavy" in vector.header or "build" in vector.header:
            continue
        content = vector.assemble()
        if len(content) <= LARGEST_SEED:
            seeds.append(as_seed(vector.name, content))
    for name, value in _objects().items():
        for new in (True, False):
            buffer = io.BytesIO()
            if name == "meta" and not new:
                continue
            torch.save(value, buffer, _use_new_zipfile_serialization=new)
            kind = "zip" if new else "legacy"
            seeds.append(as_seed(f"{kind}-{name}", buffer.getvalue(), generated=True))
    for protocol in range(6):
        content = pickle.dumps(_plain(), protocol)
        seeds.append(as_seed(f"pickle-{protocol}", content, generated=True))
    files = _arrays() | _archives()
    return seeds + [
        as_seed(name, content, generated=True) for name, content in files.items()
    ]


def _archives() -> dict[str, bytes]:
    """Return archives that torch no longer writes, or that hold other files."""
    numbers, script = torch.arange(6.0), io.BytesIO()
    view = (21, 11, "Float", (2, 3), (3, 1), 0)
    value = {"a": Old(21), "again": Old(21), "storage": Old(11), "view": Old(13)}
    old = tar(value, [(11, "Float", numbers)], [view], [(13, 11, 1, 2)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit wants to be rid of itself
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), script)
    return {
        "tar": old,
        "torchscript": script.getvalue(),
        "sb3": _stable_baselines(),
        "big-endian": _big_endian(),
    }


def _stable_baselines() -> bytes:
    """Return the zip of a trained agent: JSON with pickles in it, and checkpoints."""
    policy, archive = io.BytesIO(), io.BytesIO()
    torch.save(torch.nn.Linear(2, 2).state_dict(), policy)
    field = base64.b64encode(pickle.dumps({"n": slice(1, 2)})).decode()
    data = {"policy_class": {":type:": "type", ":serialized:": field}, "gamma": 0.99}
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("data", json.dumps(data))
        members.writestr("policy.pth", policy.getvalue())
        members.writestr("_stable_baselines3_version", "2.3.2")
    return archive.getvalue()


def _big_endian() -> bytes:
    """Return a checkpoint as a machine with the other byte order writes it."""
    saved = io.BytesIO()
    torch.save({"w": torch.arange(3.0), "n": torch.arange(2)}, saved)
    with zipfile.ZipFile(saved) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    members = []
    for name, data in content.items():
        raw = bytearray(b"big" if name.endswith("/byteorder") else data)
        if "/data/" in name:
            width = 4 if name.endswith("/0") else 8
            raw = bytearray(np.frombuffer(raw, f"<u{width}").byteswap().tobytes())
        members.append(Member(name, content=raw))
    return pack_zip(members, {})


def _arrays() -> dict[str, bytes]:
    """Return `.npy`, `.npz`, `.safetensors` files and an index of shards."""
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    files: dict[str, bytes] = {}
    for name, value in {
        "npy": array,
        "npy-fortran": np.asfortranarray(array),
        "npy-fields": np.zeros(2, dtype=[("a", "<i4"), ("b", "<f8", (2,))]),
        "npy-objects": np.array([1, "x", None], dtype=object),
    }.items():
        buffer = io.BytesIO()
        np.save(buffer, value, allow_pickle=True)
        files[name] = buffer.getvalue()
    for name, save in {"npz": np.savez, "npz-deflated": np.savez_compressed}.items():
        buffer = io.BytesIO()
        save(buffer, a=array, b=np.float32(1))
        files[name] = buffer.getvalue()
    tensors = {"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.int8)}
    files["safetensors"] = safetensors.torch.save(tensors, {"made": "here"})
    files["index"] = index_of_shards()
    return files


def index_of_shards() -> bytes:
    """Return the index of a checkpoint in two shards."""
    weight_map = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    return json.dumps({"metadata": {}, "weight_map": weight_map}).encode()


def shards() -> dict[str, bytes]:
    """Return the shards of that checkpoint, by file name."""
    a, b = {"a": torch.ones(2, 3)}, {"b": torch.zeros(4, dtype=torch.int8)}
    return {
        "model-1.safetensors": safetensors.torch.save(a),
        "model-2.safetensors": safetensors.torch.save(b),
    }

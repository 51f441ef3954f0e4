"""What is mutated: the vectors, and small checkpoints of every format we read."""

from __future__ import annotations

import argparse
import collections
import datetime
import fractions
import io
import json
import pickle
import pickletools
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from tests.vectors.assemble import read_vector

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
LARGEST_SEED = 20_000


@dataclass
class Seed:
    """One file to mutate, and its parts where it has known ones.

    Attributes:
        name: Where it comes from.
        content: The file.
        members: Name and content of each member of a zip archive.
        opcodes: The opcodes of a bare pickle, as bytes each.
    """

    name: str
    content: bytes
    members: list[tuple[str, bytes]] | None = None
    opcodes: list[bytes] | None = None


def split_opcodes(content: bytes) -> list[bytes] | None:
    """Return the opcodes of a pickle, frames left out; None if it is none."""
    stream = io.BytesIO(content)
    starts: list[int] = []
    try:
        for opcode, _, position in pickletools.genops(stream):
            starts.append(position or 0)
            if opcode.name == "FRAME":
                starts.pop()
    # pickletools raises whatever it runs into; then there is nothing to split.
    except Exception:  # noqa: BLE001
        return None
    ends = [*starts[1:], stream.tell()]
    parts = [content[a:b] for a, b in zip(starts, ends, strict=True)]
    # A frame's header trails the opcode before it.
    return [p[:-9] if len(p) > 9 and p[-9:-8] == b"\x95" else p for p in parts]


def as_seed(name: str, content: bytes) -> Seed:
    """Return a seed with its parts."""
    seed = Seed(name, content)
    if content.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                seed.members = [
                    (item.filename, archive.read(item)) for item in archive.infolist()
                ]
        # A vector that zipfile cannot read is mutated as bytes only.
        except Exception:  # noqa: BLE001
            seed.members = None
    else:
        seed.opcodes = split_opcodes(content)
    return seed


def _objects() -> dict[str, object]:
    """Return objects that, saved by torch, use every rebuild function there is."""
    weight = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    dtypes = [torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.complex64]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = torch.sparse_coo_tensor([[0, 1], [1, 2]], [1.0, 2.0], (3, 3))
        csr = weight.to_sparse_csr()
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
            seeds.append(as_seed(f"{kind}-{name}", buffer.getvalue()))
    for protocol in range(6):
        content = pickle.dumps(_plain(), protocol)
        seeds.append(as_seed(f"pickle-{protocol}", content))
    return seeds + _arrays()


def _arrays() -> list[Seed]:
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
    index = {"metadata": {}, "weight_map": {"a": "model-1.safetensors"}}
    files["index"] = json.dumps(index).encode()
    return [as_seed(name, content) for name, content in files.items()]

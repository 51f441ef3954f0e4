"""Damaged containers raise errors of ours, or are read; nothing else escapes."""

from __future__ import annotations

import io
import random
import tarfile
import zipfile
from collections.abc import Callable

import numpy as np
import pytest

from safemodel._containers.npy_header import read_npy_header
from safemodel._containers.safetensors_file import read_safetensors
from safemodel._containers.shard_index import read_shard_index
from safemodel._containers.sniff import classify_zip, describe_unknown, sniff
from safemodel._containers.source import open_source
from safemodel._containers.tar_archive import read_tar_archive
from safemodel._containers.zip_archive import read_zip
from safemodel.errors import SafeModelError
from safemodel.limits import DEFAULT_LIMITS as LIMITS
from tests.unit.containers.helpers_containers import (
    plain_zip,
    safetensors,
    streamed_zip,
    tar,
    torch_zip,
)

MEMBERS = {"t/data.pkl": b"\x80\x02}.", "t/data/0": b"zero" * 9, "t/v": b"3\n"}
MUTANTS = 3000


def npz() -> bytes:
    out = io.BytesIO()
    np.savez(out, a=np.zeros(3), b=np.arange(4))
    return out.getvalue()


def read_all(records) -> None:
    for record in records.values():
        record.read(limits=LIMITS)


def strict(data: bytes) -> None:
    records = read_zip(open_source(data), limits=LIMITS).records
    classify_zip(records)
    read_all(records)


def soft(data: bytes) -> None:
    for record in read_zip(
        open_source(data), limits=LIMITS, strict=False
    ).records.values():
        try:
            record.read(limits=LIMITS)
        except SafeModelError:
            continue


def look(data: bytes) -> None:
    describe_unknown(data[:4096], len(data))
    sniff(open_source(data))


HEADER = {
    "__metadata__": {"a": "b"},
    "w": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
}
INDEX = b'{"metadata":{},"weight_map":{"a":"m-1.bin","b":"m-2.bin"}}'
NPY = npz()
SEEDS: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "torch zip": (torch_zip(MEMBERS), strict),
    "torch zip, soft": (torch_zip(MEMBERS), soft),
    "zip": (plain_zip(MEMBERS), strict),
    "zip, soft": (plain_zip(MEMBERS, zipfile.ZIP_DEFLATED), soft),
    "deflated zip": (plain_zip(MEMBERS, zipfile.ZIP_DEFLATED), strict),
    "streamed zip": (streamed_zip(MEMBERS, zip64=True), strict),
    "streamed zip, soft": (streamed_zip(MEMBERS, zip64=True), soft),
    "npz": (NPY, strict),
    "npy": (
        (
            b"\x93NUMPY\1\0\x40\0{'descr': [('a', '<i4'), ('b', 'f8', (2,))], "
            b"'fortran_order': False, 'shape': (2,)}"
        ),
        lambda data: read_npy_header(open_source(data), limits=LIMITS),
    ),
    "safetensors": (
        safetensors(HEADER, bytes(8)),
        lambda data: read_safetensors(open_source(data), limits=LIMITS),
    ),
    "tar": (
        tar(MEMBERS, tarfile.GNU_FORMAT)[:3072],
        lambda data: read_all(read_tar_archive(open_source(data), limits=LIMITS)),
    ),
    "pax tar": (
        tar({"ü" * 60: b"1"}, tarfile.PAX_FORMAT)[:2560],
        lambda data: read_all(read_tar_archive(open_source(data), limits=LIMITS)),
    ),
    "index": (INDEX, lambda data: read_shard_index(data, limits=LIMITS)),
    "look": (safetensors(HEADER, bytes(8)), look),
}


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Return the data with one to three flips, cuts, splices or interesting numbers."""
    mutant = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(mutant) + 1)
        choice = rng.randrange(6)
        if choice == 0 and at < len(mutant):
            mutant[at] ^= 1 << rng.randrange(8)
        elif choice == 1:
            del mutant[at:]
        elif choice == 2:
            del mutant[at : at + rng.randint(1, 8)]
        elif choice == 3:
            start = rng.randrange(len(data))
            mutant[at:at] = data[start : start + rng.randint(1, 64)]
        elif choice == 4:
            size = rng.choice([1, 2, 4, 8])
            mutant[at : at + size] = rng.choice([b"\0", b"\xff", b"\x7f"]) * size
        elif at < len(mutant):
            mutant[at] = rng.randrange(256)
    return bytes(mutant)


@pytest.mark.parametrize("seed", SEEDS)
def test_only_our_errors_escape(seed):
    """Seeded mutants of each container; some must be refused, the original is not."""
    data, read = SEEDS[seed]
    rng = random.Random(f"containers {seed}")  # noqa: S311 - reproducible mutants
    refused = 0
    if seed != "npy":
        read(data)
    for number in range(MUTANTS):
        mutant = mutate(rng, data)
        try:
            read(mutant)
        except SafeModelError:
            refused += 1
        except Exception as error:  # noqa: BLE001 - which is what is tested
            pytest.fail(f"{seed} mutant {number}: {error!r} from {mutant!r}")
    assert refused or "soft" in seed or seed == "look"

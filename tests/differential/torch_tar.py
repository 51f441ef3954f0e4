"""Writes the tar archive of torch 0.1, as that version wrote it."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile

from tests.differential.pickles import Global, assemble


class Old:
    """What the pickle of an old file names by persistent id."""

    def __init__(self, key):
        self.key = key


class OldPickler(pickle.Pickler):
    """Writes tensors and storages by their keys, as torch 0.1 did."""

    def persistent_id(self, obj):
        return obj.key if isinstance(obj, Old) else None


def storages(parts, views=()):
    """Return the member that holds storages: key, class, and numbers of each."""
    data = pickle.dumps(len(parts), 2)
    for key, kind, numbers in parts:
        data += assemble((key, "cpu", Global(f"torch.{kind}Storage")))
        raw = numbers.numpy().tobytes()
        data += struct.pack("<q", numbers.numel()) + raw
    return data + pickle.dumps(list(views), 2)


def tensors(parts):
    """Return the member that holds tensors: key, storage, class, view of each."""
    data = pickle.dumps(len(parts), 2)
    for key, storage, kind, shape, stride, offset in parts:
        data += assemble((key, storage, Global(f"torch.{kind}Tensor")))
        data += struct.pack("<i4x", len(shape))
        data += struct.pack(f"<{2 * len(shape) + 1}q", *shape, *stride, offset)
    return data


def tar(value, storage_parts, tensor_parts, views=()):
    """Return an archive."""
    body = io.BytesIO()
    OldPickler(body, 2).dump(value)
    members = {
        "sys_info": pickle.dumps({"protocol_version": 1000, "little_endian": True}, 2),
        "pickle": body.getvalue(),
        "storages": storages(storage_parts, views),
        "tensors": tensors(tensor_parts),
    }
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()

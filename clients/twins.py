"""Hostile twins: the same file, and one call more.

The call is that of the canary, at the start of the pickle; what it gives is dropped, so
the twin loads as the file does for whoever runs it. Nothing else is changed.
"""

from __future__ import annotations

import base64
import json
import pickle
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_CALL = b"csafemodel.testing\ntrip\n)R0"  # GLOBAL, EMPTY_TUPLE, REDUCE, POP


def poisoned(stream: bytes) -> bytes:
    """Return a pickle that calls the canary before it is what it was."""
    head = 2 if stream[:1] == pickle.PROTO else 0
    return stream[:head] + _CALL + stream[head:]


def poison_pickle(path: Path) -> None:
    """Make a file that is one pickle, or begins with one, hostile."""
    path.write_bytes(poisoned(path.read_bytes()))


def poison_torch(path: Path) -> None:
    """Make a file of `torch.save` hostile."""
    if poison_members(path, lambda name: name.endswith("data.pkl"), poisoned) != 1:
        raise ValueError(f"{path} has no data.pkl")


def poison_agent(path: Path, item: str) -> None:
    """Make a value hostile that stable-baselines3 pickled into its JSON."""

    def change(text: bytes) -> bytes:
        data = json.loads(text)
        stream = base64.b64decode(data[item][":serialized:"])
        data[item][":serialized:"] = base64.b64encode(poisoned(stream)).decode()
        return json.dumps(data).encode()

    if poison_members(path, lambda name: name == "data", change) != 1:
        raise ValueError(f"{path} has no data")


def poisoned_archive(content: bytes) -> bytes:
    """Return a file of `torch.save`, hostile."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file.pt")
        path.write_bytes(content)
        poison_torch(path)
        return path.read_bytes()


def poison_members(
    path: Path, chosen: Callable[[str], bool], change: Callable[[bytes], bytes]
) -> int:
    """Change members of an archive; return how many."""
    with zipfile.ZipFile(path) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    count = 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for info, content in members:
            if chosen(info.filename):
                count += 1
                content = change(content)  # noqa: PLW2901 - it is the member's now
            archive.writestr(info.filename, content)
    return count

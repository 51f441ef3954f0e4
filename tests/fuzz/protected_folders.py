"""Protected folders, tampered with: files of other folders, epochs, modes; bits.

    python -m tests.fuzz.protected_folders --count 2000 --seed 1 [--jobs 2]

A mutant is what lies in a folder: bytes by path, or None for a link. It is read by
every verb, as a single file is (`protected`).
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from safemodel import protect, restore, rotate, safe_load, verify
from safemodel._formats.protected import SEAL_NAME
from tests.fuzz.protected import MEMORY_BYTES, refusal_of
from tests.fuzz.protected_files import (
    EPOCH,
    KEY,
    NOTE,
    OTHER,
    Seed,
    repeatable,
    seed_of,
)
from tests.fuzz.run import Target, main
from tests.fuzz.tamper import WAYS, flip_in_tensor
from tests.unit.protect.helpers_protect import PUBLIC, SIGNER

Rand = random.Random
Files = dict[str, "bytes | None"]
SHARDS = ("model-1.safetensors", "model-2.safetensors")


class Folder(NamedTuple):
    """A protected folder and its relatives.

    Attributes:
        files: What lies in it.
        shards: Its shards, to be tampered with as files are.
        relatives: What lies in other folders, by their role.
    """

    files: dict[str, bytes]
    shards: dict[str, Seed]
    relatives: dict[str, dict[str, bytes]]


def files_of(folder: Path) -> dict[str, bytes]:
    """Return what lies in a folder, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def build_folder(*, confidential: bool) -> Folder:
    """Return a protected folder in its third epoch."""
    made = torch.Generator().manual_seed(7)
    with repeatable(5), tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "plain").mkdir()
        weights = {}
        for number, shard in enumerate(SHARDS):
            tensors = {f"zq-{number}.weight": torch.randn(40, 30, generator=made)}
            save_file(tensors, root / "plain" / shard)
            weights |= dict.fromkeys(tensors, shard)
        index = json.dumps({"metadata": {}, "weight_map": weights})
        (root / "plain" / "model.safetensors.index.json").write_text(index)
        (root / "plain" / "config.json").write_text(json.dumps({"note": NOTE}))

        how = {"key": KEY, "signer": SIGNER, "confidential": confidential}
        protect(root / "plain", root / "oldest", epoch=EPOCH - 2, **how)
        for old, new in (("oldest", "older"), ("older", "folder"), ("folder", "newer")):
            rotate(root / old, root / new, key=KEY, signer=SIGNER)
        protect(root / "plain", root / "again", epoch=EPOCH, **how)
        rotate(root / "older", root / "twin", key=KEY, signer=SIGNER)
        rotate(root / "older", root / "rekeyed", key=KEY, new_key=OTHER, signer=SIGNER)
        found = {path.name: files_of(path) for path in sorted(root.iterdir())}
    files = found.pop("folder")
    shards = {}
    for shard in SHARDS:
        shards[shard] = seed_of(shard, "safetensors", files[shard])
        of = {role: theirs[shard] for role, theirs in found.items()}
        of |= {"expired": of["older"], "other key": of["rekeyed"]}
        of |= {"unsigned": of["twin"], "other mode": of["twin"]}
        shards[shard].relatives = of
    return Folder(files, shards, found)


def change_shard(rand: Rand, folder: Folder) -> Files:
    """Change a shard in one of the ways there are for files."""
    name = rand.choice(SHARDS)
    way = rand.choice(WAYS)
    content = way(rand, folder.shards[name])
    return {**folder.files, name: content or flip_in_tensor(rand, folder.shards[name])}


def change_seal(rand: Rand, folder: Folder) -> Files:
    """Flip bits of the seal, cut it or append to it."""
    seal = bytearray(folder.files[SEAL_NAME])
    change = rand.randrange(4)
    if change == 0:
        del seal[rand.randrange(len(seal)) :]
    elif change == 1:
        seal += rand.randbytes(rand.randrange(1, 99))
    else:
        for _ in range(change - 1):
            seal[rand.randrange(len(seal))] ^= 1 << rand.randrange(8)
    return {**folder.files, SEAL_NAME: bytes(seal)}


def shards_of_relative(rand: Rand, folder: Folder) -> Files:
    """Take a shard, or all of them, from another folder, epoch, key, or the plain."""
    other = folder.relatives[rand.choice(sorted(folder.relatives))]
    names = rand.choice((SHARDS[:1], SHARDS[1:], SHARDS))
    return {**folder.files, **{name: other[name] for name in names}}


def seal_of_relative(rand: Rand, folder: Folder) -> Files:
    """Take the seal from another folder, epoch or key; or a shard for it."""
    others = [one[SEAL_NAME] for one in folder.relatives.values() if SEAL_NAME in one]
    seal = rand.choice([*others, folder.shards[SHARDS[0]].seal, b""])
    return {**folder.files, SEAL_NAME: seal}


def replay(rand: Rand, folder: Folder) -> Files:
    """Give the folder as it was in an older epoch."""
    return dict(folder.relatives[rand.choice(("oldest", "older"))])


def plain(rand: Rand, folder: Folder) -> Files:
    """Give the plain folder."""
    del rand
    return dict(folder.relatives["plain"])


def swap(rand: Rand, folder: Folder) -> Files:
    """Let the shards change names, or one be there twice."""
    one, two = (folder.files[name] for name in SHARDS)
    swapped = rand.choice(((two, one), (one, one), (two, two)))
    return {**folder.files, **dict(zip(SHARDS, swapped, strict=True))}


def drop(rand: Rand, folder: Folder) -> Files:
    """Take a file away."""
    gone = rand.choice(sorted(folder.files))
    return {name: data for name, data in folder.files.items() if name != gone}


def rename(rand: Rand, folder: Folder) -> Files:
    """Give a file another name."""
    old = rand.choice(sorted(folder.files))
    new = rand.choice((f"{old}.bak", f"sub/{old}", old.upper(), f".{old}", f"{old} "))
    files: Files = dict(folder.files)
    files[new] = files.pop(old)
    return files


def add(rand: Rand, folder: Folder) -> Files:
    """Add a file that was sealed, code, a shard, a hidden one."""
    name = rand.choice(("config.json", "modeling.py", "model-3.safetensors", ".x",
                        "sub/x", "sub/safemodel.seal", "model.safetensors.index.json",
                        "\x1b[2J"))  # fmt: skip
    data = rand.choice((b"", b"{}", folder.files[SHARDS[0]], folder.files[SEAL_NAME]))
    return {**folder.files, name: data}


def link(rand: Rand, folder: Folder) -> Files:
    """Put a link in the place of a file, to the same bytes; or beside the files."""
    return {**folder.files, rand.choice((*SHARDS, SEAL_NAME, "more")): None}


FOLDER_WAYS: tuple[Callable[[Rand, Folder], Files], ...] = (
    change_shard, change_shard, change_seal, shards_of_relative, seal_of_relative,
    replay, plain, swap, drop, rename, add, link,
)  # fmt: skip


def tampered_folder(folder: Folder, number: int, index: int) -> tuple[str, Files]:
    """Return what was done, and what lies in the folder then: not what lay in it."""
    rand = random.Random(f"{number}:{index}")  # noqa: S311 - repeatable, not secret
    while True:
        way = rand.choice(FOLDER_WAYS)
        files = way(rand, folder)
        if files != folder.files:
            return way.__name__, files


def write_files(folder: Path, files: Files, whole: dict[str, bytes]) -> None:
    """Write what lies in a folder; a link leads to the file it replaces."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is not None:
            path.write_bytes(data)
            continue
        target = folder.parent / "outside"
        target.write_bytes(whole.get(name, b"x"))
        path.symlink_to(target)


def try_folder(way: str, files: Files, folder: Folder, root: Path) -> str:
    """Return what is wrong with how a folder is read; "" if nothing is."""
    place, out = root / "tampered", root / "out" / "out"
    place.mkdir()
    write_files(place, files, folder.files)
    verbs: dict[str, Callable[[], Any]] = {
        "verify": lambda: verify(place, key=KEY, min_epoch=EPOCH),
        "verify by signature": lambda: verify(
            place, public_key=PUBLIC, min_epoch=EPOCH
        ),
        "safe_load": lambda: safe_load(place, key=KEY, min_epoch=EPOCH),
        "restore": lambda: restore(place, out, key=KEY, min_epoch=EPOCH),
        "rotate": lambda: rotate(place, out, key=KEY, min_epoch=EPOCH, unsigned=True),
    }
    shown = b"".join(data or b"" for data in files.values())
    try:
        for name, call in verbs.items():
            out.parent.mkdir()
            problem, _ = refusal_of(call, shown)
            left = [path.name for path in out.parent.iterdir()]
            shutil.rmtree(out.parent)
            if problem:
                return f"{way}, {name}: {problem}"
            if left:
                return f"{way}, {name}: left {left}"
    finally:
        shutil.rmtree(place)
        (root / "outside").unlink(missing_ok=True)
    return ""


def attempt(seeds: Sequence[Folder], seed: int, index: int) -> str:
    """Return what is wrong with how a mutant is read; "" if nothing is."""
    folder = seeds[index % len(seeds)]
    way, files = tampered_folder(folder, seed, index)
    with tempfile.TemporaryDirectory(prefix="safemodel-tamper-") as root:
        return try_folder(way, files, folder, Path(root))


def _both() -> list[Folder]:
    return [build_folder(confidential=confidential) for confidential in (False, True)]


FOLDERS = Target(
    _both,
    lambda seeds, seed, index: repr(
        tampered_folder(seeds[index % len(seeds)], seed, index)
    ).encode(),
    attempt,
    MEMORY_BYTES,
)


if __name__ == "__main__":
    sys.exit(main(FOLDERS, __doc__))

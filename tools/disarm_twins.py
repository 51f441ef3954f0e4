"""Hostile twins of real model files: the same weights, and a payload beside them.

A host is what ``torch.load(weights_only=True)`` returned for a file of the zoo, saved
again by torch: no file of the zoo is ever opened unrestricted, as its README asks. A
payload calls the canary and nothing else. With ``dangerous`` it names ``os.system``
instead, for scanners that go by names; such files are scanned and never opened.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
ZOO = ROOT.parent / "shared" / "zoo" / "files"
SB3 = "DLR-RM+rl-trained-agents/trpo/Acrobot-v1_1/Acrobot-v1.zip"
FACE = "Linzaer+Ultra-Light-Fast-Generic-Face-Detector-1MB"
HOSTS = {
    "face": f"{FACE}/models/pretrained/version-RFB-320.pth",
    "masked": f"{FACE}/masked_face/pretrained/RFB-320-masked_face-v2.pth",
    "yunet": "ShiqiYu+libfacedetection.train/weights/yunet_s.pth",
    "gtcrn": "Xiaobin-Rong+gtcrn/checkpoints/model_trained_on_dns3.tar",
    "resnet": "akamaster+pytorch_resnet_cifar10/pretrained_models/resnet20-12fca82f.th",
    "wnet": "agaldran+lwnet/experiments/wnet_drive/model_checkpoint.pth",
}
ZIPPED = ("masked", "yunet", "gtcrn")
LEGACY = ("face", "resnet", "wnet")
_SAID = "a twin ran"


class Names(NamedTuple):
    """What payloads call: a function, a class by being made, source text."""

    call: tuple[str, str]
    make: tuple[str, str]
    source: str


CANARY = Names(
    ("safemodel.testing", "trip"),
    ("tests.canaries", "Made"),
    f"__import__('safemodel.testing').testing.trip({_SAID!r})",
)
DANGEROUS = Names(
    ("os", "system"),
    ("subprocess", "Popen"),
    f"__import__('os').system({_SAID!r})",
)


def text(value: str) -> bytes:
    """Push a text."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def name(module: str, attribute: str) -> bytes:
    """Push what GLOBAL finds."""
    return f"c{module}\n{attribute}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    """Push the result of a call."""
    return function + b"(" + b"".join(arguments) + b"tR"


def _stack_global(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def _made(class_name: str) -> bytes:
    return name("tests.canaries", class_name) + b")\x81"


def _module(n: Names) -> bytes:
    return call(name("importlib", "import_module"), text(n.call[0]))


def _torch_file(n: Names) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + PAYLOADS["reduce"](n) + b".")
        archive.writestr("archive/version", "3\n")
    return out.getvalue()


def _binary(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


SAID = text(_SAID)
PAYLOADS: dict[str, Callable[[Names], bytes]] = {
    "reduce": lambda n: call(name(*n.call), SAID),
    "stack_global": lambda n: call(_stack_global(*n.call), SAID),
    "dotted": lambda n: (
        b"\x80\x04" + call(_stack_global(n.call[0].split(".")[0], _dotted(n)), SAID)
    ),
    "inst": lambda n: b"(" + SAID + f"i{n.call[0]}\n{n.call[1]}\n".encode(),
    "obj": lambda n: b"(" + name(*n.call) + SAID + b"o",
    "newobj": lambda n: name(*n.make) + SAID + b"\x85\x81",
    "newobj_ex": lambda n: name(*n.make) + SAID + b"\x85}\x92",
    "class": lambda n: call(name(*n.make), SAID),
    "build": lambda _: _made("State") + b"}" + SAID + b"Nsb",
    "append": lambda _: _made("Items") + b"Na",
    "setitem": lambda _: _made("Items") + SAID + b"Ns",
    "extension": lambda _: call(b"\x82\x01", SAID),
    "import": lambda _: name("tests.canary_on_import", "nothing"),
    "persistent": lambda n: (
        b"("
        + text("storage")
        + call(name(*n.call), SAID)
        + text("0cpu") * 2
        + b"K\x01tQ"
    ),
    "torch_in_bytes": lambda n: call(
        name("torch.storage", "_load_from_bytes"), _binary(_torch_file(n))
    ),
    "pickle_in_bytes": lambda n: call(
        name("_pickle", "loads"),
        _binary(b"\x80\x02" + call(name(*n.call), SAID) + b"."),
    ),
    "resolver": lambda n: call(
        call(name("pkgutil", "resolve_name"), text(":".join(n.call))), SAID
    ),
    "getter": lambda n: call(
        call(call(name("operator", "attrgetter"), text(n.call[1])), _module(n)), SAID
    ),
    "eval": lambda n: call(name("builtins", "eval"), text(n.source)),
    "exec": lambda n: call(name("builtins", "exec"), text(n.source)),
    "old_name": lambda n: call(name("__builtin__", "eval"), text(n.source)),
    "partial": lambda n: call(call(name("functools", "partial"), name(*n.call), SAID)),
    "map": lambda n: call(
        name("builtins", "list"),
        call(name("builtins", "map"), name(*n.call), b"(" + SAID + b"t"),
    ),
}


def _dotted(n: Names) -> str:
    """Return a name with a dot: of the function, from its package, or of its method."""
    rest = n.call[0].split(".")[1:]
    return ".".join([*rest, n.call[1]]) if rest else f"{n.call[1]}.__call__"


# Where it stands in a pickle: before, behind, beside or instead of the root, under a
# key of it, or in a pickle of its own behind the end.
PLACES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "first": lambda whole, payload: whole[:2] + payload + b"0" + whole[2:],
    "last": lambda whole, payload: whole[:-1] + payload + b"0.",
    "beside": lambda whole, payload: whole[:-1] + payload + b"\x86.",
    "item": lambda whole, payload: whole[:-1] + text("more") + payload + b"s.",
    "root": lambda whole, payload: whole[:-1] + b"0" + payload + b".",
    "cut": lambda whole, payload: whole[:2] + payload + whole[2 : len(whole) // 2],
}


def host(key: str) -> object:
    """Return the value of a file of the zoo."""
    return torch.load(ZOO / HOSTS[key], weights_only=True, map_location="cpu")


def saved(value: object, *, legacy: bool = False) -> bytes:
    """Return the bytes of a file of torch's."""
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=not legacy)
    return out.getvalue()


def in_zip(whole: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Return a torch archive with another pickle."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(whole)) as source,
        zipfile.ZipFile(out, "w") as made,
    ):
        for member in source.namelist():
            data = source.read(member)
            made.writestr(member, change(data) if member.endswith("data.pkl") else data)
    return out.getvalue()


def in_stream(whole: bytes, change: Callable[[bytes], bytes], which: int = 3) -> bytes:
    """Return a pre-1.6 stream with another pickle in the place of one of its five."""
    ends, file = [0], io.BytesIO(whole)
    for _ in range(which + 1):
        for _ in pickletools.genops(file):
            pass
        ends.append(file.tell())
    start, end = ends[-2:]
    return whole[:start] + change(whole[start:end]) + whole[end:]


def _bundle(change: Callable[[bytes], bytes]) -> bytes:
    """Return an archive of Stable-Baselines3 whose first model has another pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(ZOO / SB3) as source, zipfile.ZipFile(out, "w") as made:
        turn = 0
        for member in source.namelist():
            data = source.read(member)
            if member.endswith(".pth"):
                value = torch.load(io.BytesIO(data), weights_only=True)
                data = in_zip(saved(value), change if not turn else lambda same: same)
                turn += 1
            made.writestr(member, data)
    return out.getvalue()


def _bare(change: Callable[[bytes], bytes]) -> bytes:
    """Return a bare pickle of arrays."""
    value = host("masked")
    arrays = {key: item.numpy() for key, item in list(value.items())[:20]}
    return change(pickle.dumps(arrays, protocol=2))


def hosted(key: str, change: Callable[[bytes], bytes]) -> tuple[str, bytes]:
    """Return the suffix and the bytes of a host with another pickle."""
    if key in ZIPPED:
        return ".pt", in_zip(saved(host(key)), change)
    if key in LEGACY:
        return ".pt", in_stream(saved(host(key), legacy=True), change)
    return (".zip", _bundle(change)) if key == "bundle" else (".pkl", _bare(change))


EVERY = (*ZIPPED, *LEGACY, "bundle", "bare")


def plan() -> dict[str, tuple[str, str, str]]:
    """Return name → host, payload, place: every payload at every place, hosts in turn.

    And the plainest payload at every place of every host.
    """
    found: dict[str, tuple[str, str, str]] = {}
    turn = 0
    for payload in PAYLOADS:
        for place in PLACES:
            key = EVERY[turn % len(EVERY)]
            found[f"{key}-{payload}-{place}"] = (key, payload, place)
            turn += 1
        turn += 1  # six places, eight hosts: every pair comes by
    for key in EVERY:
        for place in PLACES:
            found[f"{key}-reduce-{place}"] = (key, "reduce", place)
    return found


def twin(key: str, payload: str, place: str, n: Names) -> tuple[str, bytes]:
    """Return the suffix and the bytes of one twin."""
    return hosted(key, lambda whole: PLACES[place](whole, PAYLOADS[payload](n)))


def _alone(n: Names) -> bytes:
    return b"\x80\x02" + PAYLOADS["reduce"](n) + b"."


def _with_member(n: Names, member: str, *, before: bool = False) -> bytes:
    """Return a host with one more record: a pickle that calls."""
    whole = saved(host("masked"))
    root = zipfile.ZipFile(io.BytesIO(whole)).namelist()[0].split("/")[0]
    more = (member.format(root=root), _alone(n))
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as source:
        records = [(item, source.read(item)) for item in source.namelist()]
    with zipfile.ZipFile(out, "w") as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one name that is there twice
        for item, data in [more, *records] if before else [*records, more]:
            made.writestr(item, data)
    return out.getvalue()


def _first(n: Names) -> Callable[[bytes], bytes]:
    return lambda whole: PLACES["first"](whole, PAYLOADS["reduce"](n))


def _bad_checksum(n: Names) -> bytes:
    """Return a twin whose pickle has another CRC-32: zipfile refuses to read it."""
    whole = bytearray(in_zip(saved(host("masked")), _first(n)))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        info = next(i for i in archive.infolist() if i.filename.endswith("data.pkl"))
    checksum = struct.pack("<I", info.CRC)
    return bytes(whole).replace(checksum, bytes(4))


def _flagged(n: Names) -> bytes:
    """Return a twin whose directory says that its pickle is encrypted."""
    whole = bytearray(in_zip(saved(host("masked")), _first(n)))
    at = whole.index(b"PK\x01\x02")
    while not whole[at + 46 :].startswith(b"archive/data.pkl"):
        at = whole.index(b"PK\x01\x02", at + 1)
    whole[at + 8] |= 1
    return bytes(whole)


def _deflated(n: Names) -> bytes:
    whole = saved(host("masked"))
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(whole)) as source,
        zipfile.ZipFile(out, "w") as made,
    ):
        for item in source.namelist():
            data = source.read(item)
            pickled = item.endswith("data.pkl")
            way = zipfile.ZIP_DEFLATED if pickled else zipfile.ZIP_STORED
            made.writestr(item, _first(n)(data) if pickled else data, way)
    return out.getvalue()


def _zipped(inner: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("model.pth", inner)
    return out.getvalue()


def _array(n: Names, *, archive: bool) -> bytes:
    """Return an array of objects whose pickle calls."""
    out = io.BytesIO()
    np.save(out, np.array([None]), allow_pickle=True)
    start = out.getvalue().index(b"\n") + 1
    raw = out.getvalue()[:start] + _alone(n)
    if not archive:
        return raw
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as made:
        made.writestr("weights.npy", raw)
    return whole.getvalue()


CONTAINERS: dict[str, Callable[[Names], tuple[str, bytes]]] = {
    "pickle-before-zip": lambda n: (".pt", _alone(n) + saved(host("masked"))),
    "pickle-behind-zip": lambda n: (".pt", saved(host("masked")) + _alone(n)),
    "pickle-behind-pickle": lambda n: (".pkl", _bare(lambda same: same + _alone(n))),
    "pickle-behind-stream": lambda n: (
        ".pt", saved(host("face"), legacy=True) + _alone(n)
    ),
    "two-pickles-first": lambda n: (
        ".pt", _with_member(n, "{root}/data.pkl", before=True)
    ),
    "two-pickles-last": lambda n: (".pt", _with_member(n, "{root}/data.pkl")),
    "stray-pickle": lambda n: (".pt", _with_member(n, "{root}/extra.pkl")),
    "pickle-as-storage": lambda n: (".pt", _with_member(n, "{root}/data/9999")),
    "constants": lambda n: (".pt", _with_member(n, "{root}/constants.pkl")),
    "bad-checksum": lambda n: (".pt", _bad_checksum(n)),
    "flagged-encrypted": lambda n: (".pt", _flagged(n)),
    "deflated": lambda n: (".pt", _deflated(n)),
    "inside-zip": lambda n: (
        ".zip", _zipped(in_zip(saved(host("masked")), _first(n)))
    ),
    "inside-two-zips": lambda n: (
        ".zip", _zipped(_zipped(in_zip(saved(host("masked")), _first(n))))
    ),
    "named-safetensors": lambda n: (
        ".safetensors", in_zip(saved(host("masked")), _first(n))
    ),
    "named-bin": lambda n: (".bin", _bare(_first(n))),
    "named-pt": lambda n: (".pt", _bare(_first(n))),
    "named-npy": lambda n: (".npy", _bare(_first(n))),
    "stream-first": lambda n: (
        ".pt", in_stream(saved(host("face"), legacy=True), _first(n), 0)
    ),
    "stream-second": lambda n: (
        ".pt", in_stream(saved(host("face"), legacy=True), _first(n), 1)
    ),
    "stream-third": lambda n: (
        ".pt", in_stream(saved(host("face"), legacy=True), _first(n), 2)
    ),
    "stream-fifth": lambda n: (
        ".pt", in_stream(saved(host("face"), legacy=True), _first(n), 4)
    ),
    "array": lambda n: (".npy", _array(n, archive=False)),
    "array-in-archive": lambda n: (".npz", _array(n, archive=True)),
}  # fmt: skip


def names() -> list[str]:
    """Return the names of all twins."""
    return [*plan(), *CONTAINERS]


def make(which: str, *, dangerous: bool) -> tuple[str, bytes]:
    """Return the suffix and the bytes of a twin."""
    n = DANGEROUS if dangerous else CANARY
    if which in CONTAINERS:
        return CONTAINERS[which](n)
    return twin(*plan()[which], n)

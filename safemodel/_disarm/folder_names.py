"""What a file of a folder may be, and what it is called afterwards: by names alone.

Rules:

1. A name decides what a file may be; its content has to agree later, or the file is
   left behind. A name never makes us believe anything about the content.
2. Names that would not survive a copy to another system are left behind: characters
   that are not printable, separators of other systems, names that Windows reserves.
3. A file that changes its format gets the name that loaders look for.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from safemodel._rewrite.writers import Form

Kind = Literal["model", "other", "json", "text", "index", "left"]

_MAX_NAME = 200
"""Bytes of a name: 255 less what the name of a temporary file adds."""
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)

_MODELS: dict[str, Form] = {
    ".safetensors": "safetensors", ".npz": "npz", ".npy": "npz",
    ".bin": "pt", ".pt": "pt", ".pth": "pt", ".ckpt": "pt", ".pkl": "pt",
    ".pickle": "pt", ".th": "pt", ".chkpt": "pt", ".ptl": "pt", ".jit": "pt",
    ".tar": "pt", ".joblib": "pt",
}  # fmt: skip
SUFFIXES = {
    "safetensors": ".safetensors",
    "npz": ".npz",
    "pt": ".bin",
    "pt-1.13": ".bin",
}
"""Format that all models of a folder may get → what their names end in then."""
_TEXTS = (".txt", ".md", ".rst", ".csv", ".tsv", ".vocab", ".bpe")
_TEXT_NAMES = frozenset(
    "license licence notice readme copying authors changelog version citation".split()
)
_INDEX = re.compile(r"(.+)(\.index(?:\.[\w-]+)?\.json)", re.IGNORECASE)
_SOURCE, _NATIVE = "source code", "a native library or program"
_TEMPLATE = "a template: a program that loaders run"
_SETTINGS = "settings that safemodel does not parse, and loaders may run"
_ARCHIVE = "an archive of code"
_LEFT = {
    **dict.fromkeys(
        ".py .pyc .pyo .pyw .pyx .ipynb .sh .bash .zsh .bat .cmd .ps1 .js .mjs .ts .rb"
        " .pl .php .lua .r .jl .c .cc .cpp .h .hpp .cu .cuh .rs .go .java .html .htm"
        " .svg".split(),
        _SOURCE,
    ),
    **dict.fromkeys(".so .dll .dylib .pyd .exe .o .a .com .msi .wasm".split(), _NATIVE),
    **dict.fromkeys(".jinja .jinja2 .j2 .tmpl".split(), _TEMPLATE),
    **dict.fromkeys(".yaml .yml .toml .cfg .ini .conf .gin .pbtxt".split(), _SETTINGS),
    **dict.fromkeys(".whl .egg .jar .pyz .apk .mar .class".split(), _ARCHIVE),
}
_PACKAGES = re.compile(
    r"(?:requirements|constraints)[\w.-]*\.txt|cmakelists\.txt|conanfile\.txt"
    r"|(?:package|composer|bower|deno|nx|turbo|devcontainer|tasks|launch)\.json",
    re.IGNORECASE,
)


class Naming(NamedTuple):
    """What a name says.

    Attributes:
        kind: What the file may be.
        out: The name of the new file; "" where there is none.
        form: The format it gets, if it is a model.
        why: Why it is left behind, if it is.
    """

    kind: Kind
    out: str
    form: Form | None = None
    why: str = ""


def bad_name(name: str) -> str:
    """Return what is wrong with a name (rule 2); "" if nothing is."""
    if not name.isprintable() or not name.strip():
        return "its name has characters that cannot be printed"
    if name.startswith("-"):
        return "its name is an option of programs"
    if "\\" in name or ":" in name:
        return "its name is a path on some systems"
    if _RESERVED.fullmatch(name):
        return "its name is a device on some systems"
    if len(name.encode()) > _MAX_NAME:
        return f"its name has more than {_MAX_NAME} bytes"
    return ""


def folded(path: str) -> str:
    """Return what two paths have in common that are one file on some systems.

    >>> folded("Models./W.PT ")
    'models/w.pt'
    """
    text = unicodedata.normalize("NFC", path).casefold()
    parts = (part.rstrip(". ") for part in text.split("/"))
    return unicodedata.normalize("NFC", "/".join(parts))


def naming(name: str, form: Form | None) -> Naming:
    """Return what a file of that name may be, and becomes (rules 1 and 3).

    Args:
        name: Its name, without folders.
        form: The format that all models get; None if each keeps its own.

    >>> naming("pytorch_model-00001-of-00002.bin", "safetensors").out
    'model-00001-of-00002.safetensors'
    >>> naming("model.safetensors.index.fp16.json", "pt").out
    'pytorch_model.bin.index.fp16.json'
    """
    stem, dot, last = name.rpartition(".")
    suffix = (dot + last).lower() if stem else ""
    if suffix in _LEFT:
        return Naming("left", "", why=_LEFT[suffix])
    if _PACKAGES.fullmatch(name):
        return Naming("left", "", why="packages and commands that other programs run")
    index = _INDEX.fullmatch(name)
    if index:
        weights = naming(index[1], form)
        out = weights.out if weights.kind == "model" else index[1]
        return Naming("index", out + index[2])
    if suffix == ".json":
        return Naming("json", name)
    if suffix in _TEXTS or name.lower() in _TEXT_NAMES:
        return Naming("text", name)
    return _model_naming(name, stem if suffix in _MODELS else name, suffix, form)


def _model_naming(name: str, stem: str, suffix: str, form: Form | None) -> Naming:
    """Return the same of what may be a model."""
    if suffix == ".zip":
        # An archive of models is a format of its own; no other one has its names.
        return Naming("model", name, "zip")
    own = _MODELS.get(suffix)
    kind: Kind = "other" if own is None else "model"
    torch = form in ("pt", "pt-1.13")
    if form is None or own == form or (torch and own == "pt"):
        out = f"{stem}.npz" if suffix == ".npy" else name
        return Naming(kind, out, form or own or "pt")
    if form == "safetensors":
        stem = re.sub(r"\Apytorch_model(?=[.-]|\Z)", "model", stem)
    elif torch and own == "safetensors":
        stem = re.sub(r"\Amodel(?=[.-]|\Z)", "pytorch_model", stem)
    return Naming(kind, stem + SUFFIXES[form], form)

"""What the tests of shortcuts share: pickles, and parses that can be compared."""

from __future__ import annotations

import io
import struct
import zipfile

import torch

from safemodel._unpickle.machine import unpickle
from safemodel._unpickle.nodes import (
    UNCHECKED,
    Call,
    GlobalRef,
    PersistentRef,
    TensorCall,
)
from safemodel._unpickle.parsed import Pickle
from tests.conftest import Rand


def spelled_out(value: object, inside: tuple[int, ...] = ()) -> object:
    """Return plain data that tells two parses apart, nodes spelled out.

    A value within itself, as mutants make them, is written as its distance.
    """
    if id(value) in inside:
        return f"<{len(inside) - inside.index(id(value))} up>"

    def inner(part: object) -> object:
        return spelled_out(part, (*inside, id(value)))

    if isinstance(value, TensorCall):
        form = value.form
        pid = (
            "storage", inner(form.storage_class), value.key, form.location, form.numel,
        )  # fmt: skip
        hooks = ("collections.OrderedDict", (), None, None, None)
        args = (
            ("pid", pid), form.offset, form.shape, form.stride, form.requires_grad,
            hooks,
        )  # fmt: skip
        return (inner(form.target), args, None, None, None)
    if isinstance(value, GlobalRef):
        return f"{value.module}.{value.name}"
    if isinstance(value, PersistentRef):
        return ("pid", inner(value.pid))
    if isinstance(value, Call):
        state = None if value.state is UNCHECKED else inner(value.state)
        parts = (value.target, value.args, value.pairs, value.elements)
        target, args, pairs, elements = map(inner, parts)
        return (target, args, state, pairs, elements)
    if isinstance(value, (list, tuple)):
        return type(value)(inner(item) for item in value)
    if isinstance(value, dict):
        return [(inner(k), inner(v)) for k, v in value.items()]
    return value


def both(data: bytes) -> tuple[Pickle, Pickle]:
    """Parse with and without shortcuts, and compare."""
    quick, slow = unpickle(data), unpickle(data, shortcuts=False)

    assert repr(spelled_out(quick.root)) == repr(spelled_out(slow.root))
    assert [spelled_out(ref) for ref in quick.globals] == [
        spelled_out(ref) for ref in slow.globals
    ]
    assert quick.end == slow.end
    return quick, slow


def data_pkl(value: object, protocol: int = 2) -> bytes:
    """Return the pickle of a torch archive."""
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_protocol=protocol)
    with zipfile.ZipFile(buffer) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("data.pkl")]
        return archive.read(name)


def tensors(rand: Rand, count: int) -> dict[str, torch.Tensor]:
    """Return tensors of every layout the shortcut can meet."""
    made = {}
    for index in range(count):
        shape = rand.shape(axes=rand.randint(0, 5), largest=3)
        tensor = torch.zeros(shape, dtype=rand.choice([torch.float32, torch.int64]))
        if tensor.is_floating_point() and rand.random() < 0.3:
            tensor.requires_grad_()
        if tensor.dim() >= 2 and rand.random() < 0.3:
            tensor = tensor.detach().transpose(0, 1)
        made[f"layer.{index}"] = tensor
    large = torch.zeros(70_000)
    made |= {
        "large": large,
        "part": large[66_000:],
        "tied": large,
        "wide": large[::300],
    }
    return made


def put(slot: int) -> bytes:
    """Return LONG_BINPUT."""
    return b"r" + struct.pack("<I", slot)


def short_put(slot: int) -> bytes:
    """Return the put that picklers of protocol 1 to 3 write for a slot."""
    return bytes((0x71, slot)) if slot < 256 else put(slot)

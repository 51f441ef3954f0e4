"""What people save: one of everything `torch.save` can write."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import fractions
import functools
import types
import uuid
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

DTYPES = (
    "float64", "float32", "float16", "bfloat16", "complex128", "complex64",
    "complex32", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16",
    "uint8", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz",
    "float8_e8m0fnu",
)  # fmt: skip


def bits(dtype: str, count: int = 12) -> torch.Tensor:
    """Return a tensor of arbitrary bit patterns, NaN payloads among them."""
    made = getattr(torch, dtype)
    raw = np.random.RandomState(7).bytes(count * made.itemsize)
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(made).clone()


def quiet(make: Callable[[], Any]) -> Callable[[], Any]:
    """Return a maker without the warnings torch gives for what it calls prototypes."""

    def made() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make()

    return made


def per_tensor(dtype: str) -> torch.Tensor:
    kind = getattr(torch, dtype)
    return torch.quantize_per_tensor(torch.linspace(-1, 1, 12).view(3, 4), 0.1, 3, kind)


def per_channel(axis: int) -> torch.Tensor:
    values = torch.linspace(-1, 1, 12).view(3, 4)
    count = values.shape[axis]
    scales = torch.linspace(0.1, 0.4, count, dtype=torch.float64)
    return torch.quantize_per_channel(
        values, scales, torch.arange(count), axis, torch.qint8
    )


def per_channel_float() -> torch.Tensor:
    values = torch.linspace(-1, 1, 12).view(3, 4)
    return torch.quantize_per_channel(
        values, torch.linspace(0.1, 0.4, 3), torch.zeros(3), 0, torch.quint8
    )


def coo(*, coalesced: bool, requires_grad: bool = False) -> torch.Tensor:
    made = torch.sparse_coo_tensor(
        torch.tensor([[0, 1, 1], [2, 0, 0]]),
        torch.tensor([1.0, 2.0, 3.0]),
        (2, 3),
        check_invariants=True,
    )
    made = made.coalesce() if coalesced else made
    return made.requires_grad_() if requires_grad else made


def dense() -> torch.Tensor:
    return torch.tensor([[0.0, 1.0, 0.0, 2.0], [3.0, 0.0, 0.0, 4.0]])


def nested() -> torch.Tensor:
    return torch.nested.nested_tensor([torch.ones(2, 3), torch.zeros(1, 3)])


def jagged() -> dict[str, torch.Tensor]:
    """Jagged tensors; two of one shape have their offsets in common."""
    parts = [torch.arange(6.0).view(2, 3), torch.zeros(1, 3)]
    made = torch.nested.nested_tensor(parts, layout=torch.jagged)
    holes = torch.nested.narrow(
        torch.arange(12).view(3, 4), 1, torch.tensor([0, 1, 2]),
        torch.tensor([2, 3, 1]), layout=torch.jagged,
    )  # fmt: skip
    return {
        "a": made,
        "twice": made * 2,
        "transposed": made.transpose(1, 2),
        "holes": holes,
        "grad": made.detach().clone().requires_grad_(),
    }


def tied() -> dict[str, torch.Tensor]:
    weight = torch.arange(6.0)
    return {"a": weight, "b": weight, "c": weight.view(2, 3), "d": weight.clone()}


def overlapping() -> list[torch.Tensor]:
    base = torch.arange(12.0)
    return [base[:8], base[4:], base[::2], base.view(3, 4).t(), base[3]]


def typed(tensor: torch.Tensor) -> Any:
    return torch.storage.TypedStorage(
        wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype, _internal=True
    )


def around(parameter: torch.nn.Parameter) -> list[torch.Tensor]:
    return [parameter, parameter.detach(), parameter]


def storages() -> dict[str, Any]:
    base = torch.arange(6.0)
    return {
        "typed": typed(base),
        "tensor": base,
        "half": typed(torch.ones(3).half()),
    }


class Net(torch.nn.Module):
    """A module with everything a state dict can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(3, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.second = torch.nn.Linear(4, 4)
        self.tied = torch.nn.Linear(4, 4)
        self.tied.weight = self.second.weight
        self.register_buffer("mask", torch.ones(2))
        self.register_buffer("cache", torch.zeros(2), persistent=False)
        self.register_parameter("absent", None)
        self.scale = torch.nn.Parameter(torch.ones(()))


def optimiser(kind: str) -> Any:
    net = Net()
    made = {
        "sgd": lambda: torch.optim.SGD(net.parameters(), 0.1, momentum=0.9),
        "adam": lambda: torch.optim.Adam(net.parameters(), amsgrad=True),
    }[kind]()
    net.norm(net.second(net.first(torch.ones(2, 3)))).sum().backward()
    made.step()
    return made.state_dict()


def checkpoint() -> Any:
    net = Net()
    used = torch.optim.SGD(net.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.StepLR(used, 3)
    return {
        "epoch": 3,
        "model": net.state_dict(),
        "optimizer": used.state_dict(),
        "schedule": schedule.state_dict(),
        "rng": torch.get_rng_state(),
        "loss": [0.5, float("nan"), -0.0],
        "version": str(torch.__version__),
    }


def metadata() -> Any:
    made = collections.OrderedDict(a=torch.ones(2))
    made._metadata = collections.OrderedDict([("", {"version": 1})])
    return made


def shared() -> Any:
    inner: dict[str, Any] = {"x": [1, 2]}
    return [inner, inner, inner["x"], (inner, "x")]


def cyclic() -> Any:
    made: dict[str, Any] = {"list": [1]}
    made["self"] = made
    made["list"].append(made["list"])
    return made


TORCH: dict[str, Callable[[], Any]] = {
    **{f"dtype {name}": quiet(lambda name=name: bits(name)) for name in DTYPES},
    "bool": lambda: torch.tensor([True, False, True]),
    "0-dim": lambda: torch.tensor(3.5),
    "empty": lambda: torch.empty(0),
    "empty 2-d": lambda: torch.empty(0, 3, dtype=torch.int64),
    "empty strided": lambda: torch.empty(3, 0, 2).permute(2, 0, 1),
    "expanded": lambda: torch.ones(1, 1).expand(3, 4),
    "transposed": lambda: torch.arange(6.0).view(2, 3).t(),
    "channels last": lambda: (
        torch.arange(24.0)
        .view(1, 2, 3, 4)
        .contiguous(memory_format=torch.channels_last)
    ),
    "large": lambda: torch.arange(300_000, dtype=torch.int32),
    "requires grad": lambda: torch.ones(2, requires_grad=True),
    "conjugate": lambda: torch.tensor([1 + 2j]).conj(),
    "negative": lambda: torch.tensor([1 + 2j]).conj().imag,
    "parameter": lambda: torch.nn.Parameter(torch.arange(4.0)),
    "frozen parameter": lambda: torch.nn.Parameter(torch.ones(2), requires_grad=False),
    "integer parameter": lambda: torch.nn.Parameter(
        torch.arange(3), requires_grad=False
    ),
    "buffer": lambda: torch.nn.Buffer(torch.ones(2)),
    "tied": tied,
    "overlapping": overlapping,
    "parameter and data": lambda: around(torch.nn.Parameter(torch.ones(3))),
    "storages": storages,
    "meta": lambda: torch.empty(2, 3, device="meta"),
    "meta parameter": lambda: torch.nn.Parameter(torch.empty(2, device="meta")),
    **{
        f"quantised {name}": quiet(lambda name=name: per_tensor(name))
        for name in ("qint8", "quint8", "qint32")
    },
    "quantised per channel 0": quiet(lambda: per_channel(0)),
    "quantised per channel 1": quiet(lambda: per_channel(1)),
    "quantised per channel float": quiet(per_channel_float),
    "sparse coo": lambda: coo(coalesced=False),
    "sparse coo coalesced": lambda: coo(coalesced=True),
    "sparse csr": quiet(lambda: dense().to_sparse_csr()),
    "sparse csc": quiet(lambda: dense().to_sparse_csc()),
    "sparse bsr": quiet(lambda: dense().to_sparse_bsr((1, 2))),
    "sparse bsc": quiet(lambda: dense().to_sparse_bsc((2, 1))),
    "nested": quiet(nested),
    "jagged": quiet(jagged),
    "size": lambda: torch.Size([1, 2]),
    "dtypes": lambda: [getattr(torch, name) for name in DTYPES],
    "devices": lambda: [torch.device("cpu"), torch.device("cuda", 1)],
    "layouts": lambda: [torch.strided, torch.sparse_coo, torch.sparse_csr],
    "schemes": lambda: [torch.per_tensor_affine, torch.per_channel_symmetric],
    "containers": lambda: {
        "list": [1, [2.5, (None, True)]], "tuple": ((), (1,), (1, 2), (1, 2, 3, 4)),
        "set": {1, "a", (2, 3)}, "text": "\u20ac\0\U0001f600", "bytes": b"\0\xff",
        "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
        1: 2, 2.5: 3, None: 4, (1, "a"): 5, b"k": 6, False: 7,
        "big": 1 << 70, "negative": -(1 << 40), "floats": [float("inf"), -0.0, 1e-310],
        "bytearray": bytearray(b"xy"), "complex": complex(1, -0.0),
    },
    "counter": lambda: collections.Counter("abca"),
    "metadata": metadata,
    "shared containers": shared,
    "cyclic": cyclic,
    "state dict": lambda: Net().state_dict(),
    "sgd": lambda: optimiser("sgd"),
    "adam": lambda: optimiser("adam"),
    "checkpoint": checkpoint,
}  # fmt: skip
"""Values that torch itself writes, and most of which it loads with weights only."""

PYTHON: dict[str, Callable[[], Any]] = {
    "defaultdict": lambda: collections.defaultdict(list, a=[1]),
    "defaultdict without": lambda: collections.defaultdict(None, a=[1]),
    "defaultdict of containers": lambda: [
        collections.defaultdict(kind, a=1)
        for kind in (
            collections.OrderedDict,
            collections.Counter,
            collections.deque,
            collections.defaultdict,
            complex,
            frozenset,
        )
    ],
    "deque": lambda: collections.deque([1, [2]], 5),
    "frozenset": lambda: frozenset({1, "a"}),
    "slices": lambda: [slice(1, None, 2), range(1, 9, 3)],
    "ellipsis": lambda: [..., None, NotImplemented, {NotImplemented: 1}],
    "namespace": lambda: argparse.Namespace(lr=0.1, layers=[1, 2]),
    "simple namespace": lambda: types.SimpleNamespace(a=1),
    "dates": lambda: [
        datetime.date(2024, 2, 29),
        datetime.datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC),
        datetime.datetime(2024, 1, 2),  # noqa: DTZ001 - one without a zone
        datetime.time(1, 2, 3),
        datetime.timedelta(-1, 2, 3),
        datetime.timezone(datetime.timedelta(hours=2), "here"),
    ],
    "exact numbers": lambda: [decimal.Decimal("1.50"), decimal.Decimal("-0E+3")],
    "fractions": lambda: {"f": fractions.Fraction(1, 3)}["f"],
    "uuid": lambda: uuid.UUID(int=5),
}
"""Values of the standard library, compared with what was saved."""


def patterns(name: str) -> np.ndarray:
    """Return a few elements of all kinds of bytes; text is made of characters."""
    if name[1] == "U":
        return np.array(["a\u20ac", "b", "\U0001f600"], dtype=name)
    raw = bytearray(range(3 * np.dtype(name).itemsize))
    return np.frombuffer(raw, dtype=name).copy()


def structured() -> np.ndarray:
    made = np.zeros(3, dtype=[("a", "<i4"), ("b", "<f8", (2,)), ("c", "S3")])
    made["a"] = [1, 2, 3]
    made["b"][1] = [0.5, float("nan")]
    return made


def objects() -> np.ndarray:
    made = np.empty((2, 2), dtype=object)
    made[0] = ["a", [1, 2]]
    made[1] = [None, np.float32(1)]
    return made


NUMPY: dict[str, Callable[[], Any]] = {
    **{
        f"array {name}": functools.partial(patterns, name)
        for name in (
            "<f8", ">f8", "<f4", "<f2", "<c16", "<c8", "<i8", ">i2", "|i1", "<u4",
            "|u1", "S5", "<U2", ">U2", "<M8[ns]", "<m8[D]", "|V7",
        )
    },
    "array bool": lambda: np.array([True, False]),
    "array longdouble": lambda: np.array([1, 2], dtype=np.longdouble),
    "array fortran": lambda: np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "array 0-dim": lambda: np.array(1.5),
    "array empty": lambda: np.zeros((0, 3)),
    "array structured": structured,
    "array aligned": lambda: np.zeros(2, np.dtype("i1,f8", align=True)),
    "array objects": objects,
    "scalars": lambda: [
        np.float64(1.5), np.float32("nan"), np.int64(3), np.uint8(4), np.bool_(True),
        np.complex64(1j), np.str_("ab"), np.bytes_(b"cd"), np.datetime64("2024-01-01"),
        np.timedelta64(3, "s"), np.float16(2),
    ],
    "numpy dtypes": lambda: [
        np.dtype("<f4"), np.dtype(">i8"), np.dtype("U3"), np.dtype("M8[us]"),
        np.dtype([("a", "i4"), ("b", "f4", (2, 3))]), np.dtype("O"),
    ],
    "shared array": lambda: [made := np.arange(3), made, {"a": made}],
    "random state": np.random.RandomState(3).get_state,
}  # fmt: skip
"""Values of numpy, compared with what was saved."""

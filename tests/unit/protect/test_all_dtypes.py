"""Every dtype and kind of tensor through every verb: what went in comes back."""

from __future__ import annotations

import io
import warnings

import pytest
import safetensors
import safetensors.torch
import torch

from safemodel import protect, restore, rotate, safe_load, verify
from tests.differential.same import assert_same
from tests.unit.protect.helpers_protect import KEY, OTHER

QUANTISED = ("qint8", "quint8", "qint32", "quint4x2", "quint2x4")
NOT_SAVED = {f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)}
"""Dtypes of which torch itself saves no tensor."""

DTYPES = sorted(
    {
        str(found).removeprefix("torch.")
        for found in vars(torch).values()
        if isinstance(found, torch.dtype)
    }
)


def of_dtype(name: str) -> torch.Tensor:
    """Return a tensor of a dtype, of bytes that are all others."""
    dtype = getattr(torch, name)
    if name in QUANTISED:
        return torch.quantize_per_tensor(torch.arange(6.0), 0.5, 0, dtype)
    raw = torch.arange(1, 97, dtype=torch.uint8)
    return (raw % 2 if name == "bool" else raw).view(dtype)


def saved(value: object) -> bytes:
    """Return what torch saves."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def through_all_verbs(tmp_path, plain: bytes, *, confidential: bool) -> None:
    """Assert that a file comes back byte for byte, and loads as before in between."""
    kind = "pt" if plain[:2] == b"PK" else "safetensors"
    made, turned, back = (tmp_path / f"{name}.{kind}" for name in "mtb")
    protect(plain, made, key=KEY, confidential=confidential, overwrite=True)
    verify(made, key=KEY)
    rotate(made, turned, key=KEY, new_key=OTHER, overwrite=True)
    restore(turned, back, key=OTHER, overwrite=True)
    assert back.read_bytes() == plain
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "pt":
            stock = torch.load(made, weights_only=True)
        else:
            stock = safetensors.torch.load_file(made)
        assert all(tensor.dim() == 1 for tensor in stock.values())
        assert_same(safe_load(plain), safe_load(turned, key=OTHER))


@pytest.mark.filterwarnings("ignore")
def test_every_dtype_of_torch(tmp_path):
    """Alone, in both modes; together; and none that torch saves is left out."""
    held = {}
    for name in DTYPES:
        try:
            plain = saved({"t": of_dtype(name)})
        except KeyError:
            assert name in NOT_SAVED
            continue
        held[name] = of_dtype(name)
        for confidential in (False, True):
            through_all_verbs(tmp_path, plain, confidential=confidential)
    assert held.keys() == set(DTYPES) - NOT_SAVED
    assert len(held) >= 30
    for confidential in (False, True):
        through_all_verbs(tmp_path, saved(held), confidential=confidential)


def odd_tensors() -> dict[str, object]:
    """Return a value for each kind of tensor that is odd in its own way."""
    weight = torch.arange(12.0).reshape(3, 4)
    coo = torch.sparse_coo_tensor([[0, 1], [1, 2]], [1.0, 2.0], (3, 3))
    blocks = torch.arange(16.0).reshape(4, 4)
    channel = torch.quantize_per_channel(
        weight, torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0, 1, 2]), 0, torch.quint8
    )
    patterns = [0x7FC00001, 0x7F800001, -1, -0x3FFFFF, 0x7FFFFFFF, -(1 << 31)]
    tied = torch.randn(9)
    return {
        "empty": [torch.zeros(0), torch.zeros(0, 3), torch.zeros(3, 0, 2)],
        "0-dim": [torch.tensor(1.5), torch.tensor(True), torch.tensor(3)],
        "not contiguous": [weight.t(), weight[:, 1:3], weight[::2], weight[1:, 2]],
        "expanded": weight[:1].expand(5, 4),
        "tied": {"a": tied, "b": tied, "view": tied.view(3, 3), "part": tied[3:]},
        "conjugate": torch.view_as_complex(torch.randn(4, 2)).conj(),
        "negative": torch.view_as_complex(torch.randn(4, 2)).conj().imag,
        "nan payloads": torch.tensor(patterns, dtype=torch.int32).view(torch.float32),
        "half nan": torch.arange(0x7C00, 0x7C40).to(torch.int16).view(torch.float16),
        "sparse": coo,
        "uncoalesced": torch.sparse_coo_tensor([[0, 0]], [1.0, 2.0], (3,)),
        "compressed": [weight.to_sparse_csr(), weight.to_sparse_csc(),
                       blocks.to_sparse_bsr((2, 2)), blocks.to_sparse_bsc((2, 2))],
        "nested": torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)]),
        "per channel": channel,
        "parameter": torch.nn.Parameter(weight),
        "buffer": torch.nn.BatchNorm1d(4).state_dict(),
        "storages": [torch.ones(5).untyped_storage(), tied.storage()],
        "meta": torch.zeros(3, device="meta"),
        "no tensors": {"lr": 0.1, "names": ["a", "b"]},
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("confidential", [False, True])
def test_every_kind_of_tensor(tmp_path, confidential):
    """Views, sparse, nested, quantised; together in one file, too."""
    held = odd_tensors()
    for value in held.values():
        through_all_verbs(tmp_path, saved({"v": value}), confidential=confidential)
    through_all_verbs(tmp_path, saved(held), confidential=confidential)


@pytest.mark.parametrize("confidential", [False, True])
def test_every_dtype_of_safetensors(tmp_path, confidential):
    """Those that its writer takes, an empty and a 0-dim one among them."""
    taken = {}
    for name in DTYPES:
        if name in NOT_SAVED or name in QUANTISED:
            continue
        try:
            safetensors.torch.save({"t": of_dtype(name)})
        except (KeyError, ValueError, safetensors.SafetensorError):
            continue
        if name.startswith("float4"):  # two numbers a byte: not one alone
            continue
        taken[name] = of_dtype(name)
        taken[f"{name} 0"] = of_dtype(name)[:0].clone()
        taken[f"{name} 1"] = of_dtype(name)[0].clone()
    assert {"float32", "bfloat16", "float8_e4m3fn", "bool", "int64"} <= taken.keys()
    through_all_verbs(
        tmp_path, safetensors.torch.save(taken), confidential=confidential
    )


def test_modules_and_mappings(tmp_path):
    """What `protect` writes of them is their state: every bit, ties included."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)).half()
    model.add_module("again", model[0])
    for given in (model, model.state_dict(), dict(model.state_dict())):
        path, turned = tmp_path / "p.pt", tmp_path / "t.pt"
        protect(given, path, key=KEY, overwrite=True)
        rotate(path, turned, key=KEY, overwrite=True)
        found = safe_load(turned, key=KEY)
        assert list(found) == list(model.state_dict())
        for name, tensor in model.state_dict().items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)
        assert found["again.weight"].data_ptr() == found["0.weight"].data_ptr()

"""Which spans of which files are tensors, what they are called, and what is refused."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch

from safemodel import disarm, safe_load
from safemodel._containers.source import open_source
from safemodel._graph.reconstructors.torch_values import DTYPE_ITEMSIZE, QUANTIZED
from safemodel._protect.anatomy import Anatomy, Part, dissect
from safemodel._protect.layout import Pool
from safemodel.errors import (
    ChecksumError,
    ForbiddenCallError,
    LimitExceededError,
    StorageBoundsError,
    UnsupportedFormatError,
)
from safemodel.limits import Limits
from tests.differential.same import assert_same
from tests.fuzz.corpus import build_corpus
from tests.fuzz.mutate import mutant
from tests.unit.protect.helpers_anatomy import (
    anatomy_of,
    loaded,
    pools_of,
    put_together,
    refusal_by_dissect,
    refusal_by_load,
    saved,
)

SEEDS = build_corpus()
MUTANTS = 1_000
MIB = 1 << 20
MODULES = {"zip-module", "legacy-module"}
"""Whole modules, which `safe_load` refuses under `STRICT`."""
MADE = {
    seed.name: seed.content
    for seed in SEEDS
    if seed.generated and seed.name not in MODULES
}
WITHIN_PICKLES = {name for name in MADE if name.startswith(("pickle-", "npy-objects"))}
REFUSED = {
    **dict.fromkeys(WITHIN_PICKLES, "a pickle holds its tensors itself"),
    "npz-deflated": "compressed, or within a pickle",
    "index": "the index of a sharded checkpoint",
}
del REFUSED["npy-objects"]
WEIGHT = torch.arange(6.0).reshape(2, 3)


def named(data: bytes) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Return dtype, shape and length of each part, by name."""
    parts = anatomy_of(data).parts
    return {part.name: (part.dtype, part.shape, part.length) for part in parts}


def deflated(data: bytes) -> bytes:
    """Return a zip archive with its records deflated."""
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return packed.getvalue()


@pytest.mark.parametrize("name", sorted(MADE.keys() - REFUSED.keys()))
def test_a_file_of_any_format_can_be_put_together_again(name):
    """Byte for byte, and what is loaded cannot be told from what the file gives."""
    data = MADE[name]
    source = put_together(data)
    assert source.read(0, source.size) == data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same(safe_load(data), loaded(source))


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_no_span_of_the_file_is_refused_by_name(name):
    """The error says what to do, where there is something to do."""
    error = refusal_by_dissect(MADE[name])
    assert type(error) is UnsupportedFormatError
    assert REFUSED[name] in str(error)
    assert ("safemodel disarm" in str(error)) == (name != "index")


def test_every_format_of_the_corpus_has_parts():
    """The round trip above is not one of files without tensors."""
    with_tensors = MADE.keys() - REFUSED.keys() - {"npy-objects"}
    without = {name for name in with_tensors if not anatomy_of(MADE[name]).parts}
    assert without == {"zip-plain", "legacy-plain", "zip-meta"}


def test_safe_load_and_dissect_refuse_alike(rand):
    """Every attack, and mutants of all files: the same error, word for word."""
    seed = rand.randrange(1 << 32)
    contents = [one.content for one in SEEDS]
    contents += [mutant(SEEDS, seed, index) for index in range(MUTANTS)]
    refused = taken = 0
    for number, content in enumerate(contents):
        error, ours = refusal_by_load(content), refusal_by_dissect(content)
        if error is not None:
            assert (type(ours), str(ours)) == (type(error), str(error)), number
            refused += 1
        elif ours is None:
            source = put_together(content)
            assert source.read(0, source.size) == content, number
            taken += 1
        else:
            assert type(ours) is UnsupportedFormatError, number
            assert "safemodel disarm" in str(ours), number
    assert refused > 500
    assert taken > 70


def test_a_storage_has_the_name_and_shape_of_the_tensor_that_covers_it():
    """Wherever that stands; ties and views are in no part of their own."""
    base = WEIGHT.clone()
    value = {"row": base[1], "model": {"w": base, "tied": base}, "t": base.t()}
    assert named(saved(value)) == {"model.w": ("float32", (2, 3), 24)}


def test_a_storage_that_no_tensor_covers_is_flat_and_named_after_the_first():
    """Bytes that no tensor reaches are bytes of the part."""
    base = torch.arange(10.0)
    assert named(saved({"a": base[2:4], "b": base[6:]})) == {
        "a": ("float32", (10,), 40)
    }


def test_a_transposed_tensor_covers_its_storage():
    """The order of axes does not matter: each byte is there once."""
    assert named(saved({"a": WEIGHT[0], "t": WEIGHT.t()})) == {
        "t": ("float32", (3, 2), 24)
    }


def test_an_expanded_tensor_covers_nothing():
    """It has as many elements as the storage, of which it shows one."""
    base = torch.arange(4.0)
    value = {"a": base[:1].expand(4), "b": base.as_strided((2, 2), (1, 1))}
    assert named(saved(value)) == {"a": ("float32", (4,), 16)}


def test_numbers_and_none_at_all():
    """0-dim tensors, empty ones, and storages by themselves."""
    value = {
        "scale": torch.tensor(2.0),
        "none": torch.zeros(0, 3, dtype=torch.int64),
        "raw": torch.arange(3, dtype=torch.int16).untyped_storage(),
    }
    assert named(saved(value)) == {
        "scale": ("float32", (), 4),
        "none": ("int64", (0, 3), 0),
        "raw": ("uint8", (6,), 6),
    }


def test_tensors_made_of_tensors_have_parts_with_names():
    """A sparse tensor's indices, a quantised one's scales."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scales, zeros = torch.tensor([0.5, 1.0]).double(), torch.tensor([0, 1])
        channel = torch.quantize_per_channel(WEIGHT, scales, zeros, 0, torch.quint8)
        rows, columns = torch.tensor([0, 1, 2]), torch.tensor([0, 1])
        csr = torch.sparse_csr_tensor(rows, columns, torch.ones(2), (2, 2))
        value = [torch.eye(2).to_sparse(), csr, channel]
        found = named(saved(value))
    assert found == {
        "[0].indices": ("int64", (2, 2), 32),
        "[0].values": ("float32", (2,), 8),
        "[1].compressed": ("int64", (3,), 24),
        "[1].plain": ("int64", (2,), 16),
        "[1].values": ("float32", (2,), 8),
        "[2]": ("quint8", (2, 3), 6),
        "[2].scale": ("float64", (2,), 16),
        "[2].zero_point": ("int64", (2,), 16),
    }


def test_names_are_unique_and_can_be_encoded():
    """Paths that read alike get a number, a surrogate an escape, the root a name."""
    value = OrderedDict(
        [("a.b", torch.ones(1)), ("a", {"b": torch.ones(2)}), ("\udc80é", WEIGHT)]
    )
    assert list(named(saved(value))) == ["a.b", "a.b~2", "\\udc80é"]
    assert list(named(saved(WEIGHT))) == ["tensor"]
    longs = {"x" * 600: torch.ones(1), "x" * 600 + "y": torch.ones(1)}
    names = list(named(saved(longs)))
    assert [len(name) for name in names] == [512, 514]
    assert names[1] == names[0] + "~2"


def test_a_storage_nothing_uses_is_a_part_all_the_same():
    """A persistent id that the object drops again."""
    content = MADE["zip-tied"]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name for name in archive.namelist() if name.endswith("data.pkl")]
        pickle = archive.read(names[0])
        root = names[0].removesuffix("data.pkl")
        data = archive.read(f"{root}data/0")
    # The value is dropped, and an empty dictionary is the result.
    changed = pickle[:-1] + b"0}."
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(f"{root}data.pkl", changed)
        archive.writestr(f"{root}data/0", data)
    found = named(packed.getvalue())
    assert found == {f"storage {root}data/0": ("float32", (6,), 24)}
    assert safe_load(packed.getvalue()) == {}


NOT_SAVED = {f"{sign}int{width}" for sign in ("u", "") for width in range(1, 8)}
"""Dtypes that `torch.save` does not know."""


@pytest.mark.parametrize("dtype", sorted(DTYPE_ITEMSIZE.keys() - QUANTIZED - NOT_SAVED))
def test_every_dtype_of_torch_is_taken_apart(dtype):
    """By its own name and size, whatever storage class the file gives."""
    kind = getattr(torch, dtype)
    itemsize = DTYPE_ITEMSIZE[dtype]
    tensor = torch.arange(16 * itemsize, dtype=torch.uint8) % 2
    data = saved({"w": tensor.view(kind)})
    assert named(data) == {"w": (dtype, (16,), 16 * itemsize)}
    assert anatomy_of(data).parts[0].itemsize == itemsize
    assert pools_of(data, anatomy_of(data)) == [tensor.numpy().tobytes()]


def test_an_array_is_a_part_if_it_is_a_span():
    """Of a dtype that torch has, or else of bytes."""
    array = np.arange(6, dtype=">f4").reshape(2, 3)
    fields = np.zeros(2, dtype=[("a", "<i4"), ("b", "u1")])
    file = io.BytesIO()
    np.savez(file, w=array, f=fields, text=np.array(["ab", "c"]))
    found = anatomy_of(file.getvalue())
    assert found.format == "torch"
    assert named(file.getvalue()) == {
        "w": ("float32", (2, 3), 24),
        "f": ("uint8", (10,), 10),
        "text": ("uint8", (16,), 16),
    }


def test_parts_of_one_dtype_are_one_pool():
    """In the order of the file, and as a manifest describes it."""
    value = {"a": torch.ones(3), "b": torch.ones(2).long(), "c": torch.ones(2, 2)}
    data = saved(value)
    pools = anatomy_of(data).pools()
    assert [(pool.dtype, pool.itemsize, pool.length) for pool in pools] == [
        ("float32", 4, 28),
        ("int64", 8, 16),
    ]
    assert [[extent.name for extent in pool.extents] for pool in pools] == [
        ["a", "c"],
        ["b"],
    ]
    for pool in pools:
        Pool(
            dtype=pool.dtype,
            itemsize=pool.itemsize,
            length=pool.length,
            stored=pool.extents,
            plain=pool.extents,
        )
    whole = pools_of(data, anatomy_of(data))
    assert whole[0] == torch.ones(7).numpy().tobytes()


def test_the_format_is_that_of_the_protected_file():
    """Only a safetensors file stays one."""
    tensors = {"w": WEIGHT}
    assert anatomy_of(safetensors.torch.save(tensors)).format == "safetensors"
    assert anatomy_of(saved(tensors)).format == "torch"
    old = saved(tensors, _use_new_zipfile_serialization=False)
    assert anatomy_of(old).format == "torch"


def test_a_deflated_storage_is_refused_until_it_was_disarmed(tmp_path):
    """The hint helps: what `disarm` writes is taken apart."""
    packed, clean = tmp_path / "packed.pt", tmp_path / "clean.pt"
    packed.write_bytes(deflated(saved({"w": torch.zeros(100)})))
    with (
        open_source(packed) as source,
        pytest.raises(UnsupportedFormatError, match="safemodel disarm"),
    ):
        dissect(source)
    disarm(packed, clean)
    assert named(clean.read_bytes()) == {"w": ("float32", (100,), 400)}


def test_a_deflated_pickle_beside_stored_tensors_is_no_hindrance():
    """It is all in the skeleton, as it stands in the file."""
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved({"w": WEIGHT}))) as old,
        zipfile.ZipFile(packed, "w") as new,
    ):
        for name in old.namelist():
            kind = zipfile.ZIP_DEFLATED if name.endswith(".pkl") else None
            new.writestr(name, old.read(name), compress_type=kind)
    source = put_together(packed.getvalue())
    assert_same(safe_load(packed.getvalue()), loaded(source))
    assert named(packed.getvalue()) == {"w": ("float32", (2, 3), 24)}


def test_a_model_in_a_deflated_member_is_refused():
    """Its bytes are not in the file."""
    error = refusal_by_dissect(deflated(MADE["sb3"]))
    assert type(error) is UnsupportedFormatError
    assert "safemodel disarm" in str(error)


def test_a_changed_byte_is_found_by_its_checksum():
    """As `safe_load` finds it, though no tensor is built."""
    data = bytearray(saved({"w": WEIGHT}))
    at = bytes(data).index(WEIGHT.numpy().tobytes())
    data[at + 5] ^= 1
    error, ours = refusal_by_load(bytes(data)), refusal_by_dissect(bytes(data))
    assert type(ours) is ChecksumError
    assert str(ours) == str(error)


@pytest.mark.parametrize("bad", [(0,), (3,), (1, 4), (4, 2)])
def test_the_first_changed_byte_is_named_whichever_thread_finds_it(bad, rand):
    """Of large records, which threads share, and small ones between them."""
    sizes = (300_000, 7, 400_000, 270_000, 5)
    tensors = {f"t{k}": torch.randn(size) for k, size in enumerate(sizes)}
    data = bytearray(saved(tensors))
    for k in bad:
        at = bytes(data).index(tensors[f"t{k}"].numpy().tobytes())
        data[at + rand.randrange(4 * sizes[k])] ^= 1
    ours = refusal_by_dissect(bytes(data))
    assert type(ours) is ChecksumError
    assert f"data/{min(bad)}" in str(ours)
    assert type(refusal_by_load(bytes(data))) is ChecksumError


def test_an_index_that_leads_out_of_a_sparse_tensor_is_found():
    """Only the numbers tell, so such a tensor is built."""
    sparse = torch.eye(2).to_sparse()
    old = saved([sparse], _use_new_zipfile_serialization=False)
    good = sparse.indices().numpy().tobytes()
    assert old.count(good) == 1
    bad = old.replace(good, np.array([[0, 1], [0, 9]], np.int64).tobytes())
    error, ours = refusal_by_load(bad), refusal_by_dissect(bad)
    assert type(ours) is StorageBoundsError
    assert str(ours) == str(error)


def test_the_index_of_a_folder_is_refused(tmp_path):
    """Its tensors are in other files."""
    (tmp_path / "a.safetensors").write_bytes(safetensors.torch.save({"w": WEIGHT}))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "a.safetensors"}}))
    with (
        open_source(index) as source,
        pytest.raises(UnsupportedFormatError, match="an index of shards"),
    ):
        dissect(source)


def test_the_number_of_storages_is_bounded():
    """Those that no tensor uses count, too."""
    data = saved({"raw": torch.ones(2).untyped_storage(), "w": torch.ones(1)})
    with open_source(data) as source:
        assert len(dissect(source, limits=Limits(max_tensors=2)).parts) == 2
        with pytest.raises(LimitExceededError) as caught:
            dissect(source, limits=Limits(max_tensors=1))
    assert caught.value.limit == "max_tensors"


def test_a_span_of_a_file_is_a_file_of_its_own(tmp_path):
    """Starts count from the first byte of what was given."""
    data = saved({"w": WEIGHT})
    (tmp_path / "f").write_bytes(b"x" * 100 + data + b"y" * 50)
    with open_source(tmp_path / "f") as source:
        assert dissect(source.part(100, len(data))) == anatomy_of(data)


def test_no_torch_is_needed_for_ordinary_files(tmp_path):
    """A fresh interpreter takes one apart without importing it."""
    from tests.test_architecture import heavy_modules_after

    path = tmp_path / "m.pt"
    path.write_bytes(saved({"w": torch.nn.Parameter(WEIGHT), "n": WEIGHT[0]}))
    found = heavy_modules_after(
        "from safemodel._containers.source import open_source\n"
        "from safemodel._protect.anatomy import dissect\n"
        f"assert len(dissect(open_source({str(path)!r})).parts) == 1"
    )
    assert "torch" not in found


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(0, 4), (3, 1)], "overlap"),
        ([(4, 4), (0, 4)], "order of the file"),
        ([(0, 4), (4, 5)], "behind the file"),
    ],
)
def test_parts_lie_one_behind_the_other(spans, message):
    """Anything else would give a byte to two tensors."""

    def part(start: int, length: int) -> Part:
        return Part(f"{start}", "uint8", 1, (length,), start, length)

    Anatomy(format="torch", size=8, parts=(part(0, 4), part(4, 0), part(4, 4)))
    with pytest.raises(ValueError, match=message):
        Anatomy(format="torch", size=8, parts=tuple(part(*span) for span in spans))


def test_names_of_many_deep_tensors_are_bounded(monkeypatch):
    """From then on they are numbers: one long key may be in every path."""
    from safemodel._protect import uses

    value = {"k" * 400: [torch.ones(1) for _ in range(5)]}
    data = saved(value)
    assert [len(name) for name in named(data)] == [403] * 5
    monkeypatch.setattr(uses, "_MOST_NAMES", 2 * 403)
    long = "k" * 400
    assert list(named(data)) == [
        f"{long}[0]", f"{long}[1]", "tensor", "tensor~2", "tensor~3",
    ]  # fmt: skip


def test_a_member_of_an_archive_is_not_read_into_memory(tmp_path):
    """A stored one is a span of the file, however large."""
    inner = saved({"w": torch.zeros(10 * MIB)})
    path = tmp_path / "agent.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("policy.pth", inner)
    with open_source(path) as source:
        tracemalloc.start()
        try:
            anatomy = dissect(source)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert [part.length for part in anatomy.parts] == [40 * MIB]
    assert peak < 8 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel says how much it was")
@pytest.mark.parametrize("channels", [False, True])
def test_quantised_numbers_are_not_read_into_memory(tmp_path, channels):
    """Their scales are looked at; a model may be larger than memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if channels:
            numbers = torch._empty_per_channel_affine_quantized(
                (1, 120 * MIB),
                scales=torch.ones(1),
                zero_points=torch.zeros(1).long(),
                axis=0,
                dtype=torch.qint8,
            )
        else:
            numbers = torch._empty_affine_quantized(
                (120 * MIB, 1), scale=0.5, zero_point=0, dtype=torch.qint8
            )
        path = tmp_path / "old.pt"
        path.write_bytes(saved([numbers], _use_new_zipfile_serialization=False))
    program = f"""
import warnings
warnings.simplefilter("ignore")
import safemodel._build.objects
from safemodel._containers.source import open_source
from safemodel._protect.anatomy import dissect
def peak():
    # Unlike `ru_maxrss`, it is not that of the process that started this one.
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
before = peak()
lengths = [part.length for part in dissect(open_source({str(path)!r})).parts]
print(max(lengths), peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    length, grown = map(int, done.stdout.split())
    assert length == 120 * MIB
    assert grown < 32 << 10


@pytest.mark.parametrize("scale", [b"-1", b"nan"])
def test_a_scale_that_is_none_is_refused_all_the_same(scale):
    """As `safe_load` refuses it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = torch.quantize_per_tensor(torch.ones(2, 2), 0.5, 0, torch.qint8)
        old = saved([value], _use_new_zipfile_serialization=False)
    half = struct.pack(">d", 0.5)
    assert old.count(half) == 1
    bad = old.replace(half, struct.pack(">d", float(scale)))
    error, ours = refusal_by_load(bad), refusal_by_dissect(bad)
    assert type(ours) is ForbiddenCallError
    assert str(ours) == str(error)

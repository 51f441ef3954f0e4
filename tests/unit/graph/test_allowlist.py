import re
from pathlib import Path

import pytest

from safemodel._graph.allowlist import (
    ALLOWED_ARGUMENTS,
    ALLOWED_CALLS,
    ALLOWED_VALUES,
    STORAGE_DTYPES,
    describe,
    value_of_global,
)
from safemodel._graph.composite_specs import OpaqueSpec
from safemodel._graph.reconstructors.aliases import canonical

ALL = [*ALLOWED_CALLS, *ALLOWED_VALUES, *ALLOWED_ARGUMENTS]
DOCUMENT = Path(__file__).parents[3] / "docs" / "allowlist.md"


def test_every_entry_is_described():
    """One line each: its name, what it becomes, what is checked."""
    lines = describe()

    assert {name for name, _, _ in lines} == {f"{m}.{n}" for m, n in ALL}
    assert all(becomes and checks for _, becomes, checks in lines)


def test_the_document_says_what_the_code_does():
    """docs/allowlist.md has exactly the lines of describe()."""
    rows = re.findall(
        r"^\| `(.+)` \| (.+) \| (.+) \|$", DOCUMENT.read_text(), re.MULTILINE
    )

    assert rows == describe()


def test_the_allowlist_holds_canonical_spellings_only():
    """A name in another spelling would never be found."""
    assert [name for name in ALL if canonical(*name) != name] == []


@pytest.mark.parametrize(
    "name",
    [
        "os.system", "builtins.eval", "builtins.getattr", "functools.partial",
        "torch.load", "torch.cuda.device", "torch.hub.load", "numpy.load",
        "numpy.memmap", "torch._utils._import_dotted_name", "pickle.loads",
        "_pickle.loads", "operator.attrgetter", "copyreg.add_extension", "typing.Any",
        "builtins.type", "collections.namedtuple", "torch.nn.modules.conv.Conv2d",
        "zoneinfo.ZoneInfo", "torch.storage.UntypedStorage.from_file",
        "collections.OrderedDict.fromkeys",
    ],
)  # fmt: skip
def test_names_that_run_code_or_are_not_data_are_not_allowed(name):
    """Exact pairs: no prefixes, no twins, no attribute walks."""
    module, _, last = name.rpartition(".")

    assert value_of_global(module, last) is None
    head, _, middle = module.rpartition(".")
    assert value_of_global(head, f"{middle}.{last}") is None


@pytest.mark.parametrize(
    ("spelling", "wanted"),
    [
        ("torch.cuda.FloatStorage", ("torch", "FloatStorage")),
        ("torch.FloatStorage", ("torch", "FloatStorage")),
        ("torch.UntypedStorage", ("torch.storage", "UntypedStorage")),
        ("torch.storage._UntypedStorage", ("torch.storage", "UntypedStorage")),
    ],
)
def test_storage_classes_have_one_spelling(spelling, wanted):
    """The device is in the name of old ones, and only a location."""
    module, _, name = spelling.rpartition(".")

    assert canonical(module, name) == wanted
    assert wanted in STORAGE_DTYPES


def test_a_value_is_new_for_each_file():
    """What `_build` keeps in a spec may not reach another file."""
    first, second = (value_of_global("torch", "float32") for _ in range(2))

    assert first is not second
    assert (first.kind, first.value) == ("dtype", "float32")
    assert value_of_global("builtins", "Ellipsis") is ...


def test_a_class_alone_is_its_name():
    """Callable names and argument classes are inert where nothing uses them."""
    for module, name in (("torch", "FloatStorage"), ("collections", "OrderedDict")):
        value = value_of_global(module, name)
        assert type(value) is OpaqueSpec
        assert value.name == f"{module}.{name}"

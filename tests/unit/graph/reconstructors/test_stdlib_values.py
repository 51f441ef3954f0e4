import datetime as dt
import decimal
import fractions
import uuid

import pytest

from safemodel.errors import (
    ForbiddenCallError,
    ForbiddenGlobalError,
    LimitExceededError,
)

NAMESPACE = "argparse.Namespace"


def test_dates_and_times(file):
    """From the bytes pickle writes, and from Python 2's text of them."""
    zone = file.made("datetime.timezone", file.made("datetime.timedelta", 0, 3600))
    moment = b"\x07\xe8\x02\x1d\x0c\x1e\x0f\x00\x00\x07"
    # Naive on purpose: the file names no zone.
    wanted = dt.datetime(2024, 2, 29, 12, 30, 15, 7)  # noqa: DTZ001

    assert file.check("datetime.datetime", moment) == wanted
    assert file.check("datetime.datetime", moment.decode("latin-1")) == wanted
    tz = dt.timezone(dt.timedelta(hours=1))
    assert file.check("datetime.datetime", moment, zone) == wanted.replace(tzinfo=tz)
    folded = moment[:2] + b"\x82" + moment[3:]
    assert file.check("datetime.datetime", folded).fold == 1
    assert file.check("datetime.date", b"\x07\xe8\x02\x1d") == dt.date(2024, 2, 29)
    assert file.check("datetime.time", b"\x81\x02\x03\x00\x00\x04") == dt.time(
        1, 2, 3, 4, fold=1
    )
    assert file.check("datetime.timedelta", -1, 2, 3) == dt.timedelta(-1, 2, 3)
    assert file.check(
        "datetime.timezone", file.made("datetime.timedelta", 0), "Zulu"
    ) == dt.timezone(dt.timedelta(0), "Zulu")


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("datetime", (b"\x07\xe7\x02\x1d\x0c\x1e\x0f\x00\x00\x07",)),
        ("datetime", (b"\x07\xe8\x02\x1d\x18\x1e\x0f\x00\x00\x07",)),
        ("datetime", (b"\x07\xe8\x02\x1d\x0c\x1e\x0f\xff\xff\xff",)),
        ("datetime", (bytes(9),)),
        ("datetime", (2024, 2)),
        ("date", (bytes(4),)),
        ("date", (b"\x07\xe8\x02\x1d", "zone")),
        ("time", (b"\x19\x00\x00\x00\x00\x00",)),
        ("timedelta", (999_999_999, 999_999_999)),
        ("timedelta", (10**9,)),
        ("timedelta", (0.5,)),
        ("timezone", (3600,)),
    ],
)
def test_dates_that_do_not_exist_are_refused(file, name, args):
    """With an error of ours, not datetime's."""
    with pytest.raises(ForbiddenCallError) as caught:
        file.check(f"datetime.{name}", *args)

    assert caught.value.name == f"datetime.{name}"


def test_an_offset_of_a_day_is_refused(file):
    """Just below is accepted."""
    below = file.made("datetime.timedelta", 0, 86_399)
    day = file.made("datetime.timedelta", 1)

    file.check("datetime.timezone", below)
    with pytest.raises(ForbiddenCallError):
        file.check("datetime.timezone", day)


def test_a_foreign_time_zone_is_refused(file):
    """A zone is a datetime.timezone; others are code of their own."""
    zone = file.made("collections.OrderedDict")

    for name, size in (("datetime.datetime", 10), ("datetime.time", 6)):
        with pytest.raises(ForbiddenGlobalError):
            file.check(name, bytes([7, 232, 2, 29, 12, 30, 15, 0, 0, 7])[:size], zone)


@pytest.mark.parametrize("text", ["1.5E-7", "-Infinity", "sNaN12", ".5", "1e999999"])
def test_decimals(file, text):
    """As text, exactly."""
    value = file.check("decimal.Decimal", text)

    assert (type(value), str(value)) == (decimal.Decimal, str(decimal.Decimal(text)))


@pytest.mark.parametrize(
    "text", ["", "1e1000000", "1_0", " 1", "\u0661", "1e", "0x1", 5, "1e-9999999999"]
)
def test_other_decimals_are_refused(file, text):
    """Exponents of a million would make an integer of a million digits."""
    with pytest.raises(ForbiddenCallError):
        file.check("decimal.Decimal", text)


@pytest.mark.parametrize("name", ["decimal.Decimal", "fractions.Fraction"])
def test_exact_numbers_have_so_many_digits(file, name):
    """4,300 are accepted, one more is not."""
    file.check(name, "9" * 4300)
    with pytest.raises(ForbiddenCallError):
        file.check(name, "9" * 4301)


def test_fractions(file):
    """Text in old versions, two integers in new ones."""
    assert file.check("fractions.Fraction", "-3/6") == fractions.Fraction(-1, 2)
    assert file.check("fractions.Fraction", 3, 6) == fractions.Fraction(1, 2)
    for args in (("1/0",), (1, 0), (1.5,), (1 << 15_000, 1), ("1.5",), (True, 2)):
        with pytest.raises(ForbiddenCallError):
            file.check("fractions.Fraction", *args)


@pytest.mark.parametrize("name", ["uuid.UUID", "copyreg"])
def test_a_uuid_is_an_integer(file, name):
    """NEWOBJ or copyreg, then its state; how safe it was is not kept."""
    safe = file.made("uuid.SafeUUID", -1)

    def check(state):
        if name == "uuid.UUID":
            return file.check(name, opcode=0x81, state=state)
        args = (file.ref("uuid.UUID"), file.ref("__builtin__.object"), None)
        return file.check("copy_reg._reconstructor", *args, state=state)

    assert check({"int": 3}) == uuid.UUID(int=3)
    assert check({"int": (1 << 128) - 1, "is_safe": safe}).int == (1 << 128) - 1
    for state in ({"int": 1 << 128}, {"int": -1}, {}, {"int": 1, "hex": 2}, [1]):
        with pytest.raises(ForbiddenCallError):
            check(state)
    with pytest.raises(ForbiddenCallError):
        file.check("uuid.SafeUUID", 5)


@pytest.mark.parametrize(
    ("name", "parts", "path"),
    [
        ("pathlib.PosixPath", ("/", "a", "b"), "/a/b"),
        ("pathlib._local.PosixPath", ("/a/b",), "/a/b"),
        ("pathlib.PureWindowsPath", ("C:\\", "a"), "C:\\a"),
        ("pathlib.Path", (), "."),
    ],
)
def test_paths_are_text(file, name, parts, path):
    """Of any platform, on any platform."""
    assert file.check(name, *parts) == path


def test_path_parts_are_text_and_counted(new_file):
    """A memo may name one long part many times."""
    file = new_file(100, min_amplified_bytes=1)

    with pytest.raises(ForbiddenCallError):
        file.check("pathlib.PosixPath", 3)
    part = "a" * 200
    file.check("pathlib.PosixPath", part, part)
    with pytest.raises(LimitExceededError):
        file.check("pathlib.PosixPath", part)


@pytest.mark.parametrize("name", [NAMESPACE, "types.SimpleNamespace"])
def test_a_namespace_has_its_attributes(file, name):
    """Row 15: by NEWOBJ, by copyreg, without any."""
    spec = file.check(name, opcode=0x81, state={"lr": 0.1, "data-dir": "x", "_a": 1})

    assert spec.kind == name.rpartition(".")[2]
    assert spec.attributes == {"lr": 0.1, "data-dir": "x", "_a": 1}
    assert file.check(name).attributes == {}
    old = file.check(
        "copy_reg._reconstructor", file.ref(name), file.ref("__builtin__.object"), None,
        state={"lr": 1},
    )  # fmt: skip
    assert old.attributes == {"lr": 1}


@pytest.mark.parametrize(
    "key", ["__class__", "__dict__", "____", "", "1a", "a b", "_get_kwargs", 3, b"a"]
)
def test_attribute_names_that_python_acts_on_are_refused(file, key):
    """Names with __ on both ends, a method's, and what is no name."""
    with pytest.raises(ForbiddenCallError) as caught:
        file.check(NAMESPACE, state={"a": 1, key: 2})

    assert caught.value.reason.startswith("not an attribute name")


def test_a_slot_state_is_refused(file):
    """(None, {...}) would set attributes one by one."""
    with pytest.raises(ForbiddenCallError):
        file.check(NAMESPACE, state=(None, {"__class__": 1}))


def test_struct_time_is_a_tuple(file):
    """Nine items and more."""
    items = (2024, 2, 29, 1, 2, 3, 4, 5, 0)

    assert file.check("time.struct_time", items, {}).elements == items
    with pytest.raises(ForbiddenCallError):
        file.check("time.struct_time", items[:8], {})

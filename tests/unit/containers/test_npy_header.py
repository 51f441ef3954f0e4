"""The ``.npy`` header: one literal, read by a grammar of its own."""

from __future__ import annotations

import io

import numpy as np
import pytest

from safemodel._containers.npy_header import read_npy_header
from safemodel._containers.source import open_source
from safemodel.errors import LimitExceededError, MalformedFileError, TruncatedFileError
from safemodel.limits import DEFAULT_LIMITS, Limits
from tests.unit.containers.helpers_containers import npy


def read(data: bytes, limits: Limits = DEFAULT_LIMITS):
    return read_npy_header(open_source(data), limits=limits)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 3)),
        np.zeros(()),
        np.asfortranarray(np.zeros((2, 3), "c8")),
        np.zeros(2, dtype=[("größe", "<i4")]),
        np.zeros(
            3, dtype=[("a", "<i4"), ("b", [("c", "f8", (2,))]), (("t", "n"), "u1")]
        ),
        np.zeros(2, dtype=np.dtype({"names": ["a"], "formats": ["u1"], "itemsize": 8})),
        np.zeros(1, dtype=[(f"field{i}", "<i4") for i in range(5000)]),
        np.array([], dtype="U7"),
    ],
)
@pytest.mark.filterwarnings("ignore:Stored array in format 2.0:UserWarning")
def test_what_numpy_writes_is_read(array):
    """The dtype's description, the order, the shape and where the bytes start."""
    out = io.BytesIO()
    np.lib.format.write_array(out, array)
    data = out.getvalue()
    header = read(data)
    assert np.lib.format.descr_to_dtype(header.descr) == array.dtype
    assert header.shape == array.shape
    assert header.fortran_order == (array.flags.fnc)
    assert data[header.data_offset :] == array.tobytes("A")


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n"


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_each_version_is_read(version):
    """The length has two bytes or four."""
    assert read(npy(GOOD, version=version))[:3] == ("<f4", False, (2,))


@pytest.mark.parametrize("version", [(0, 0), (1, 1), (4, 0)])
def test_other_versions_are_refused(version):
    """No guess is made about a version that does not exist."""
    with pytest.raises(MalformedFileError, match="version"):
        read(npy(GOOD, version=version))


def test_long_integers_of_python_2_are_read():
    """Old numpy wrote an L behind each length."""
    assert read(npy(GOOD.replace("(2,)", "(2L, 3L)"))).shape == (2, 3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{}",
        "[]",
        GOOD + "x",
        GOOD.replace("(2,)", "(2)"),
        GOOD.replace("(2,)", "(-2,)"),
        GOOD.replace("(2,)", "(2.0,)"),
        GOOD.replace("(2,)", "(True,)"),
        GOOD.replace("(2,)", "[2]"),
        GOOD.replace("(2,)", "(2 3)"),
        GOOD.replace("(2,)", "(02,)"),
        GOOD.replace("(2,)", "(0x2,)"),
        GOOD.replace("(2,)", "(1_0,)"),
        GOOD.replace("(2,)", "(" + "9" * 21 + ",)"),
        GOOD.replace("(2,)", "(" * 5000 + ")" * 5000),
        GOOD.replace("(2,)", "(2,) * 9"),
        GOOD.replace("False", "0"),
        GOOD.replace("False", "None"),
        GOOD.replace("False", "__import__('os')"),
        GOOD.replace("'<f4'", "None"),
        GOOD.replace("'<f4'", "[]"),
        GOOD.replace("'<f4'", "['<f4']"),
        GOOD.replace("'<f4'", "[('a',)]"),
        GOOD.replace("'<f4'", "[(1, '<f4')]"),
        GOOD.replace("'<f4'", "[('a', '<f4', 'x')]"),
        GOOD.replace("'<f4'", "'\\x3cf4'"),
        GOOD.replace("'<f4'", "'<' 'f4'"),
        GOOD.replace("'shape'", "shape"),
        GOOD.replace("'shape'", "'descr'"),
        GOOD.replace("}", "'more': 1}"),
        GOOD.replace(":", ";"),
        GOOD.replace("(2,)", "{1: 2}"),
    ],
)
def test_anything_else_is_malformed(text):
    """Expressions, escapes, nesting and missing or extra keys are refused."""
    with pytest.raises(MalformedFileError):
        read(npy(text, version=(2, 0)))


def test_a_cut_header_is_truncated():
    """Every prefix that ends within the header is refused."""
    data = npy(GOOD)
    for size in range(6, len(data)):
        with pytest.raises(TruncatedFileError):
            read(data[:size])


def test_limits_are_exact():
    """Length and axes: as many as allowed, and one more."""
    text = GOOD.replace("(2,)", "(2, 3)")
    for name, most in (("max_header_bytes", len(text)), ("max_dimensions", 2)):
        read(npy(text), Limits(**{name: most}))
        with pytest.raises(LimitExceededError) as caught:
            read(npy(text), Limits(**{name: most - 1}))
        assert (caught.value.limit, caught.value.requested) == (name, most)


def test_the_text_is_never_longer_than_a_mebibyte():
    """A limit made for other headers does not open this one."""
    for extra, allowed in ((0, True), (1, False)):
        text = GOOD + " " * ((1 << 20) - len(GOOD) + extra)
        if allowed:
            assert read(npy(text, version=(2, 0))).shape == (2,)
        else:
            with pytest.raises(LimitExceededError):
                read(npy(text, version=(2, 0)))

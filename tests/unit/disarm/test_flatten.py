"""Flat names: what is shared is walked once, and no two paths have one name."""

from __future__ import annotations

from collections import OrderedDict

import torch

from safemodel import safe_load
from safemodel._disarm import disarm
from safemodel._rewrite import flatten as flatten_module
from safemodel._rewrite.flatten import flatten
from safemodel._rewrite.plain import Plain
from tests.unit.disarm.helpers_disarm import saved


def flat_of(value):
    """Return a value of plain data without its structure."""
    return flatten(value, Plain())


def test_what_is_shared_a_billion_times_is_walked_once():
    """Sixty lists of two, each twice in the next."""
    value: object = "x"
    for _ in range(60):
        value = [value, value]
    flat = flat_of({"deep": value})
    assert len(flat.data) == 2
    assert len(flat.same) == 59
    assert flat.same["deep.1"] == "deep.0"


def test_containers_within_themselves_end():
    """Also under names that add nothing to the path."""
    ring: dict[str, object] = {"": 1}
    ring[""] = ring
    assert flat_of(ring).same == {"": ""}
    row: list[object] = []
    row += [row, {"a": row}]
    assert flat_of(row).same == {"0": "", "1.a": ""}


def test_paths_that_read_alike_get_names_of_their_own():
    """In linear time: a thousand of one text."""
    value = {"a.b": 1, "a": {"b": 2}, 1: "int", "1": "text"}
    assert flat_of(value).data == {"a.b": 1, "a.b~2": 2, "1": "int", "1~2": "text"}
    taken = {"a": {"b~2": 1}, "a.b": 2, "": {"a.b": 3}}
    assert flat_of(taken).data == {"a.b~2": 1, "a.b": 2, "a.b~3": 3}


def test_long_names_are_cut_and_all_of_them_bounded(monkeypatch):
    """Both ends of a path stay; past the bound names are numbers."""
    value: dict[str, object] = {"x": 1, "y": 2}
    for _ in range(50):
        value = {"k" * 1000: value}
    names = list(flat_of(value).data)
    assert [name[-2:] for name in names] == [".x", ".y"]
    assert max(map(len, names)) <= 512
    monkeypatch.setattr(flatten_module, "_MOST_NAMES", 600)
    assert list(flat_of(value).data) != names
    assert max(map(len, flat_of(value).data)) < 20


def test_empty_containers_and_scalars_are_data():
    """Nothing is lost without a word."""
    value = {
        "list": [],
        "dict": {},
        "tuple": (),
        "none": None,
        "ordered": OrderedDict(),
    }
    assert flat_of(value).data == value


class Odd:
    """A class outside the allowlist, for names in pickles."""


def test_keys_that_read_alike_stay_two_entries(tmp_path):
    """A class as a key becomes text; a text that is the same is another key."""
    name = f"{Odd.__module__}.{Odd.__qualname__}"
    big = 1 << 2100
    value = {Odd: 1, name: 2, (Odd, 1): 3, (name, 1): 4, big: 5, hex(big): 6, 7: 7}

    disarm(saved(value), tmp_path / "out.pt")

    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    assert sorted(map(repr, loaded.values())) == sorted(map(repr, value.values()))
    assert loaded[name] == 2
    assert loaded[hex(big)] == 6
    assert loaded[(name, 1)] == 4
    assert len(loaded) == len(value)


def test_objects_kept_as_data_are_listed_by_path(tmp_path):
    """With the names of their classes; no more of them than a page can show."""
    data = b"\x80\x02}(X\x01\0\0\0aclib\nThing\n)\x81X\x01\0\0\0b]clib\nThing\n)\x81au."
    report = disarm(data, tmp_path / "out.pt")
    found = [(one.path, one.name) for one in report.opaque]
    assert found == [("a", "lib.Thing"), ("b.0", "lib.Thing")]
    assert report.changed == {"lib.Thing": 2}
    assert safe_load(tmp_path / "out.pt")["a"] == {"class": "lib.Thing"}


def test_the_list_of_objects_ends(monkeypatch):
    """The count in `changed` goes on."""
    monkeypatch.setattr(flatten_module, "_MOST_OPAQUES", 1)
    from safemodel import Opaque

    flat = flat_of([Opaque("a.B"), Opaque("a.C")])
    assert [one.name for one in flat.opaques] == ["a.B"]

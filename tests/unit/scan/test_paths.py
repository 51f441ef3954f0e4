"""Which files are looked at."""

from __future__ import annotations

import os
from glob import glob
from pathlib import Path

import pytest

from safemodel import scan_files
from safemodel._scan.paths import find_targets
from safemodel.reports import Status
from tests.unit.scan.helpers_scan import EMPTY, EVIL


def found(*paths: object) -> list[str]:
    """Return the paths of the targets."""
    return [target.path for target in find_targets(paths)]


@pytest.fixture
def tree(tmp_path):
    """Return a folder with files at several depths."""
    for name in ("b.pt", "a.pt", "sub/z.pt", "sub/deeper/y.pt"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(EMPTY)
    return tmp_path / "tree"


def test_a_folder_is_walked_to_the_bottom_in_order(tree):
    """Files of a folder first, by name."""
    names = [os.path.relpath(path, tree) for path in found(tree)]
    assert names == ["a.pt", "b.pt", "sub/z.pt", "sub/deeper/y.pt"]


def test_a_pattern_stands_for_what_it_matches(tree):
    """Recursive where it says so; a file of that very name comes first."""
    assert found(f"{tree}/*.pt") == [f"{tree}/a.pt", f"{tree}/b.pt"]
    assert len(found(f"{tree}/**/*.pt")) == 4
    (tree / "[x].pt").write_bytes(EMPTY)
    assert found(tree / "[x].pt") == [f"{tree}/[x].pt"]


def test_a_pattern_finds_what_glob_finds(tree, monkeypatch):
    """Where there are no links: at any depth, from anywhere, dots by their dot only."""
    for name in (".hidden.pt", "sub/.dot/x.pt", "sub/[a].pt", "sub2/z.pt"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_bytes(EMPTY)
    monkeypatch.chdir(tree)
    patterns = (
        "*.pt", "./*.pt", "**/*.pt", "**/**/z.pt", "*/z.pt", "*/*/?.pt", ".h*",
        "s*/.*/x*", "sub/[[]a].pt", "[!a].pt", f"{tree}/sub/*.pt", "../tree/*",
        "sub//*.pt", "**/deeper/*", "no/*", "*.pt/*", "a.pt/*",
    )  # fmt: skip
    for pattern in patterns:
        given = glob(pattern, recursive=True)  # noqa: PTH207 - what ours stands for
        files = {os.path.normpath(one) for one in given}
        expected = {one for one in files if Path(one).is_file()}
        # What folders that are matched hold is found as well.
        expected |= {
            str(below)
            for one in files - expected
            for below in Path(one).rglob("*")
            if below.is_file()
        }
        targets = [one for one in find_targets([pattern]) if not one.problem]
        assert {os.path.normpath(one.path) for one in targets} == expected, pattern
        assert len(targets) == len(expected)


def test_everything_below_is_found_by_two_stars(tree, monkeypatch):
    """Hidden files are files, as they are when the folder is named."""
    (tree / "sub" / ".hidden.pt").write_bytes(EMPTY)
    monkeypatch.chdir(tree)
    assert len(found("**")) == len(found("sub/**")) + 2 == len(found(tree)) == 5


def test_a_pattern_follows_no_link_that_it_finds(tree, tmp_path):
    """Nor does it end up in a circle; what leads out is reported, as in a folder."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "evil.pt").write_bytes(EVIL)
    (tree / "out.pt").symlink_to(tmp_path / "outside" / "evil.pt")
    (tree / "out").symlink_to(tmp_path / "outside")
    (tree / "in.pt").symlink_to("sub/z.pt")
    for name in ("one", "two", "three"):
        # A walk that follows these sees three to the power of forty folders.
        (tree / name).symlink_to(".")
    (tree / "sub" / "beside.pt").symlink_to("../a.pt")
    for pattern in ("**/*", "*", "**/**/*.pt", "*/*.pt"):
        problems, files = {}, []
        for target in find_targets([f"{tree}/{pattern}"]):
            name = os.path.relpath(target.path, tree)
            if target.problem:
                problems[name] = target.problem
            else:
                files.append(name)
        outside = {"out.pt", "out"} if pattern != "*/*.pt" else {"out"}
        assert problems.keys() == outside, pattern
        assert all("link" in problem for problem in problems.values())
        assert ("in.pt" in files) is (pattern != "*/*.pt")
        assert {"sub/z.pt", "sub/beside.pt"} <= set(files)


def test_links_in_front_of_a_wildcard_are_named_by_the_caller(tree, tmp_path):
    """And are followed."""
    (tmp_path / "linked").symlink_to(tree)
    assert len(found(f"{tmp_path}/linked/*.pt")) == 2


def test_a_folder_that_a_pattern_cannot_read_is_reported(tree, monkeypatch):
    """Whatever else there is."""
    monkeypatch.chdir(tree)
    for _ in range(20):
        # In the end no path is short enough for the system.
        Path("x" * 250).mkdir()
        os.chdir("x" * 250)
    monkeypatch.chdir(tree)
    (target,) = [one for one in find_targets([f"{tree}/**/*.pt"]) if one.problem]
    assert target.problem == "File name too long"


def test_nothing_is_looked_at_twice(tree):
    """Folders and files may overlap."""
    assert len(found(tree, tree / "a.pt", f"{tree}/*.pt")) == 4


def test_what_is_not_there_is_unreadable(tmp_path):
    """A plain path and a pattern without matches alike."""
    for missing in ("no.pt", "no*.pt", "a\0b"):
        (report,) = scan_files([tmp_path / missing])
        assert report.status is Status.UNREADABLE
        assert report.read_error


def test_no_link_leads_out_of_a_folder(tree, tmp_path):
    """It is reported and not followed, be it to a file or to a folder."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "evil.pt").write_bytes(EVIL)
    (tree / "file.pt").symlink_to(tmp_path / "outside" / "evil.pt")
    (tree / "folder").symlink_to(tmp_path / "outside")
    (tree / "sibling").symlink_to(tmp_path / "tree-2")

    reports = {Path(one.path).name: one for one in scan_files([tree])}

    for name in ("file.pt", "folder", "sibling"):
        assert reports[name].status is Status.UNREADABLE
        assert "link" in (reports[name].read_error or "")
    assert len(reports) == 7


def test_a_link_within_a_folder_is_seen_through_its_target(tree):
    """The target is looked at once, and a circle is no trouble."""
    (tree / "again.pt").symlink_to("a.pt")
    (tree / "sub" / "up").symlink_to("..")
    assert len(found(tree)) == 4


def test_a_link_the_caller_names_is_followed(tree, tmp_path):
    """To a file or to a folder."""
    (tmp_path / "link.pt").symlink_to(tree / "a.pt")
    (tmp_path / "linked").symlink_to(tree)
    (report,) = scan_files([tmp_path / "link.pt"])
    assert report.status is Status.CLEAN
    assert len(found(tmp_path / "linked")) == 4


def test_only_regular_files_count_in_a_folder(tree):
    """A pipe would wait for a writer forever."""
    os.mkfifo(tree / "pipe")
    assert len(found(tree)) == 4
    (report,) = scan_files([tree / "pipe"])
    assert report.status is Status.UNREADABLE


def test_names_that_are_no_text_are_files_all_the_same(tmp_path):
    """Bytes that are not UTF-8 come back as they were."""
    path = os.fsencode(tmp_path) + b"/\xff\x1b.pt"
    Path(os.fsdecode(path)).write_bytes(EVIL)
    reports = [list(scan_files([tmp_path], jobs=jobs)) for jobs in (1, 2)]
    assert [os.fsencode(one.path) for (one,) in reports] == [path, path]

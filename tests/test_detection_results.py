"""The page of what `detect` finds, and what it is made of."""

import csv

import bench_detect
import detect_cases
import detect_material
import detection_page
import initialised
import numpy as np
import pytest
from detect_figures import balanced, share, suspicious
from detect_material import Tensor
from packages import members
from safetensors.torch import save_file
from source import BY_OTHERS, DRAWN, Source

from safemodel.evaluation import stego

SPLIT = detect_material.TRAINING / "split.csv"


def row(case="as it is", group="a", found=0, attacked=0, **more):
    """Return a row as it is read from the file."""
    made = dict.fromkeys(bench_detect.COLUMNS, "")
    made |= {"case": case, "group": group, "file": f"{group}.pt", "kind": "zoo",
             "words": "4000000", "suspicious": str(found), "attacked": str(attacked),
             "seconds": "1"}  # fmt: skip
    return made | {name: str(value) for name, value in more.items()}


def sides_of_repositories():
    """Return the side of each repository, as it was written down first."""
    with SPLIT.open(newline="", encoding="utf-8") as file:
        return {row["repo"]: row["side"] for row in csv.DictReader(file)}


def write(rows, path):
    """Write rows as the script does, and return where."""
    bench_detect.write_rows(rows, path)
    return path


@pytest.mark.skipif(
    not bench_detect.ROWS.exists(), reason="make detection-results was not run yet"
)
def test_the_page_is_written_from_the_rows():
    """Nobody edited it, and no row has changed since."""
    written = bench_detect.PAGE.read_text(encoding="utf-8")
    assert detection_page.page(bench_detect.ROWS) == written


@pytest.mark.skipif(
    not bench_detect.ROWS.exists(), reason="make detection-results was not run yet"
)
def test_no_row_is_of_a_file_that_something_was_tuned_on():
    """Repositories are of the test side, and networks of seeds that are held out."""
    from recipes import HELD_OUT, default_runs

    with bench_detect.ROWS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sides = sides_of_repositories()
    zoo = {row["file"].split(" ")[0] for row in rows if row["kind"] == "zoo"}
    seeds = {run.seed + HELD_OUT for run in default_runs()}
    runs = {row["group"] for row in rows if row["kind"] not in (*BY_OTHERS, DRAWN)
            and row["case"] != "adapt"}  # fmt: skip
    drawn = {int(row["file"].rpartition("-")[2]) for row in rows
             if row["kind"] == DRAWN}  # fmt: skip
    packages = {row["group"] for row in rows if row["kind"] == "package"}
    kept = {one.owner for one in members() if one.side == "test"}
    assert zoo
    assert all(seed >= HELD_OUT for seed in drawn)
    assert packages <= kept
    assert {sides[name] for name in zoo} == {"test"}
    assert {int(name.rpartition("-")[2]) for name in runs} <= seeds


def test_a_page_says_what_its_rows_say(tmp_path):
    """A figure for each requirement; other rows make another page."""
    rows = [row(group=name) for name in "abcd"]
    rows += [row("program-8", group=name, found=1, attacked=1) for name in "abcd"]
    rows += [row("encrypted-8", group=name, attacked=1, covered=1, error_rate=0.5)
             for name in "abcd"]  # fmt: skip
    rows += [row("program-4-part", "a", 1, 1, named=0.5, in_named=0.9, wrongly=0)]
    rows += [row("adapt", "repetition 0", side, side) for side in (0, 1)]
    text = detection_page.page(write(rows, tmp_path / "rows.csv"))
    lines = {line.what: line for line in detection_page.main_lines(rows)}

    assert "{" not in text
    assert lines["program, all weights, X = 8"].verdict() == "must"
    assert lines["the same, X = 2"].verdict() == "not measured"
    assert "| program, all weights, X = 8 | 0.689, 0.889 | 1.000 [" in text
    assert "the bit error rate is 0.500" in text
    assert "0 of 4 answers about clean files were alarms." in text

    rows[4]["suspicious"] = "0"
    other = detection_page.page(write(rows, tmp_path / "rows.csv"))
    assert "| program, all weights, X = 8 | 0.689, 0.889 | 0.875 [" in other
    (line,) = (one for one in detection_page.main_lines(rows) if "X = 8" in one.what
               and one.must == 1.0 and "program" in one.what)  # fmt: skip
    assert line.verdict() == "**MISS**"


def test_a_false_alarm_is_a_miss_and_is_named(tmp_path):
    """Less is better there."""
    rows = [row(group=name, found=int(name == "a")) for name in "abcdefghij"]
    first = detection_page.main_lines(rows)[0]
    assert (first.figure.value, first.verdict()) == (pytest.approx(0.1), "**MISS**")
    text = detection_page.page(write(rows, tmp_path / "rows.csv"))
    assert "1 of 10 answers about clean files were alarms: `a.pt` (as it is)." in text


def test_each_group_counts_once():
    """A hundred files of one repository weigh as much as the only one of another."""
    rows = [row(group="a", found=1)] * 100 + [row(group="b")]
    figure = share(rows, suspicious)
    assert (figure.value, figure.files, figure.groups) == (0.5, 101, 2)
    assert (figure.low, figure.high) == (0.0, 1.0)


def test_intervals_are_those_of_clopper_and_pearson_where_all_agree():
    """Of ten trials without a success the upper end is 0.3085."""
    none = share([row(group=str(at)) for at in range(10)], suspicious)
    every = share([row(group=str(at), found=1) for at in range(10)], suspicious)
    assert (none.low, none.high) == (0.0, pytest.approx(0.30850, abs=1e-5))
    assert (every.low, every.high) == (pytest.approx(0.69150, abs=1e-5), 1.0)


def test_intervals_hold_what_they_should(draws):
    """Of 200 samples of 30 groups with a rate of 0.3, the interval misses it in few."""
    random = np.random.default_rng(draws.getrandbits(64))
    missed = 0
    for _ in range(200):
        figure = share([row(group=str(at), found=int(one)) for at, one in
                        enumerate(random.random(30) < 0.3)], suspicious)  # fmt: skip
        missed += not figure.low <= 0.3 <= figure.high
    assert 0 < missed < 30


def test_balanced_accuracy_is_the_mean_of_both_sides():
    """However many there are of each; nothing without one of them."""
    clean = [row(group=name) for name in "abc"] + [row(group="d", found=1)]
    attacked = [row(group="a", found=1, attacked=1)]
    assert balanced(clean, attacked).value == pytest.approx((0.75 + 1) / 2)
    assert balanced(clean, []) is None
    assert balanced([], attacked) is None


def made_up(random, role="weight", dtype="float32"):
    """Return tensors of made-up weights, one of which is a buffer."""
    shapes = {"a.weight": (300, 200), "b.running_mean": (500,), "c.weight": (200, 50)}
    made = []
    for name, shape in shapes.items():
        words = (random.standard_normal(shape) * 0.03).astype("f4").view("u4")
        kind = "buffer" if "running" in name else role
        made.append(Tensor(name, dtype, words.reshape(-1), kind, shape))
    return made


@pytest.mark.parametrize("key", detect_cases.CASES)
def test_a_case_hides_what_it_says(key, rand):
    """The payload is there, in weights only; or nothing is, but in another form."""
    random = np.random.default_rng(rand.getrandbits(64))
    case = detect_cases.CASES[key]
    tensors = made_up(random, role=case.role)
    before = detect_material.formed(tensors, case.form)
    made = detect_cases.hidden(tensors, case, "a name")
    if isinstance(case.method, stego.SpreadSpectrum):
        assert made is None or made.changed
        return
    assert [one.name for one in made.tensors] == [one.name for one in before]
    changed = {one.name for one, old in zip(made.tensors, before, strict=True)
               if (one.words != old.words).any()}  # fmt: skip
    assert changed == made.changed
    assert "b.running_mean" not in changed
    if not case.payload:
        assert not made.payload
        return
    arrays = {one.name: one.words for one in made.tensors if one.role == case.role}
    dtype = case.form if case.form in detect_cases.CLEAN_FORMS else "float32"
    read = stego.extract(arrays, made.method, len(made.payload), dtype=dtype)
    assert (read == made.payload) is not bool(case.special)


def test_a_perfect_code_keeps_the_distribution(rand):
    """Words above are as they were, and low bits are the same ones among their like."""
    random = np.random.default_rng(rand.getrandbits(64))
    tensors = made_up(random)
    case = detect_cases.CASES["encrypted-16-coded"]
    made = detect_cases.hidden(tensors, case, "a name")
    old, new = tensors[0].words, made.tensors[0].words
    assert (old >> 16 == new >> 16).all()
    assert (old != new).mean() > 0.5
    assert np.sort(old).tolist() == np.sort(new).tolist()


def test_only_files_of_the_side_are_opened(tmp_path, monkeypatch):
    """Of a zoo with a file of each repository, the others are not even looked for."""
    sides = sides_of_repositories()
    columns = ("repo", "file", "role", "family", "params_float32", "sha256")
    with (tmp_path / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(columns)
        for at, name in enumerate(sides):
            out.writerow(
                (name, f"{at}.safetensors", "weights", "x", 30_000, f"{at:08}")
            )
    for at, side in enumerate(sides.values()):
        if side == "train":
            content = {"a": detect_material.torch.zeros(3)}
            save_file(content, tmp_path / f"{at}.safetensors")
    none, drawn = tmp_path / "none", tmp_path / "drawn"
    monkeypatch.setattr(initialised, "LAYERS", {})
    found = detect_material.files("train", none, tmp_path, none, drawn)
    assert {sides[one.name.split(" ")[0]] for one in found} == {"train"}
    assert len(found) == sum(side == "train" for side in sides.values())
    assert all(one.path.exists() for one in found)
    with pytest.raises(FileNotFoundError):
        detect_material.files("test", none, tmp_path, none, drawn)


def test_packages_have_a_line_where_there_are_some(tmp_path):
    """Their owners are neither those of repositories nor training runs."""
    rows = [row(group=name) for name in "abcd"]
    what = "false alarms, clean files of packages"
    before = detection_page.page(write(rows, tmp_path / "rows.csv"))
    rows += [row(group=name, found=int(name == "e"), kind="package") for name in "ef"]
    text = detection_page.page(write(rows, tmp_path / "rows.csv"))
    lines = {line.what: line for line in detection_page.main_lines(rows)}

    assert what not in before
    assert (lines[what].figure.value, lines[what].figure.groups) == (0.5, 2)
    assert what in text
    assert "4 owners of repositories, 2 owners of packages and 0 training runs" in text


def test_what_is_measured_once_is_not_measured_again(tmp_path, monkeypatch, draws):
    """Unless the file is another one."""
    random = np.random.default_rng(draws.getrandbits(64))
    monkeypatch.setattr(bench_detect, "CACHE", tmp_path)
    path = tmp_path / "a.safetensors"
    save_file(detect_material.mapping_of(made_up(random)), path)
    one = Source("a", path, "g", "f", "zoo", "", True)
    task = bench_detect.Task("program-2", (one,))
    first = bench_detect.measured(task)
    assert [(row["attacked"], row["suspicious"]) for row in first] == [(1, 1)]

    def refused(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(bench_detect, "detect", refused)
    assert bench_detect.measured(task) == first
    other = tmp_path / "b.safetensors"
    save_file(detect_material.mapping_of(made_up(random)), other)
    with pytest.raises(AssertionError, match="measured again"):
        bench_detect.measured(
            bench_detect.Task("program-2", (one._replace(path=other),))
        )


def test_the_blind_spot_and_its_remedy_are_measured(tmp_path, monkeypatch, draws):
    """Half of the bits are wrong after the scrub that the blind spot names."""
    random = np.random.default_rng(draws.getrandbits(64))
    monkeypatch.setattr(bench_detect, "CACHE", tmp_path)
    path = tmp_path / "a.safetensors"
    save_file(detect_material.mapping_of(made_up(random)), path)
    one = Source("a", path, "g", "f", "zoo", "", True)
    (found,) = bench_detect.measured(bench_detect.Task("encrypted-8", (one,)))
    assert found["covered"] == 1
    assert found["error_rate"] == pytest.approx(0.5, abs=0.01)
    assert found["suspicious"] == 0


def test_every_requirement_has_its_tasks():
    """Each case goes into each file that carries; families are chosen thirty times."""
    one = Source("n", SPLIT, "g", "mlp", "trained", "", True)
    every = [one._replace(name=f"{at}", group=f"{at}") for at in range(9)]
    tasks = bench_detect.tasks_of(every)
    cases = {task.case for task in tasks}
    weights = {
        case.key for case in detect_cases.CASES.values() if case.role == "weight"
    }
    assert cases == weights | {"as it is", "adapt"}
    repetitions = [task for task in tasks if task.case == "adapt"]
    assert len(repetitions) == bench_detect.REPETITIONS
    assert all(len({one.name for one in task.of}) == 9 for task in repetitions)
    assert len({tuple(one.name for one in task.of[:6]) for task in repetitions}) > 20

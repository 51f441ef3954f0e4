"""What the documentation shows, run: blocks, commands, links, examples, doctests.

A page's blocks run in order, in one folder and one namespace. Pages may prepare
their files in a comment, ``<!-- setup … -->``, which is Python and not shown.
"""

import ast
import doctest
import importlib
import io
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from dataclasses import fields
from pathlib import Path

import pytest

import safemodel
from safemodel.limits import Limits

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    page
    for folder in (".", "docs/**", "benchmarks", "tests/vectors")
    for page in ROOT.glob(f"{folder}/*.md")
)
EXAMPLES = sorted(ROOT.glob("examples/*.py"))
MODULES = sorted(
    found.name
    for found in pkgutil.walk_packages(safemodel.__path__, "safemodel.")
    if not found.name.endswith("__main__")
)

BLOCK = re.compile(
    r"^<!-- setup\n(?P<setup>.*?)^-->$|^```(?P<kind>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\((?P<target>[^)\s]+)\)")
MACHINE_PATH = re.compile(r"(?<![\w.~<])/(?:work|home|root|tmp|opt|usr|Users|mnt)/")
TOLERANT = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
NOT_RUN = ("make ", "pip ", "git ", "python3 -m venv", "cd ")
"""Commands that set up or run this very suite."""


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) of what a page prepares and shows, in order."""
    for found in BLOCK.finditer(page):
        if found["setup"] is not None:
            yield "python", found["setup"]
        else:
            yield found["kind"], found["text"]


def check_python(text: str, namespace: dict[str, object], where: str) -> None:
    """Run a Python block; with prompts it is a doctest."""
    if ">>>" not in text:
        code = compile(text, where, "exec", dont_inherit=True)
        with redirect_stdout(io.StringIO()):
            exec(code, namespace)  # noqa: S102  # our own documentation
        return
    test = doctest.DocTestParser().get_doctest(text, namespace, where, where, 0)
    report = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=TOLERANT, verbose=False)
    runner.run(test, out=report.write, clear_globs=False)
    namespace.update(test.globs)
    assert not runner.failures, report.getvalue()


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console block and the output shown for it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, output = part.partition("\n")
        yield line.strip(), output


def check_console(text: str, folder: Path) -> None:
    """Run a console block's commands and compare what they print."""
    code = 0
    for command, expected in commands(text):
        if command.startswith(NOT_RUN):
            continue
        if command == "echo $?":
            printed = f"{code}\n"
        else:
            assert command.startswith("safemodel"), f"no way to run: {command}"
            done = subprocess.run(
                [sys.executable, "-m", *shlex.split(command)],
                cwd=folder,
                env={**os.environ, "NO_COLOR": "1", "COLUMNS": "88"},
                capture_output=True,
                text=True,
                check=False,
            )
            code, printed = done.returncode, done.stdout + done.stderr
        same = doctest.OutputChecker().check_output(expected, printed, TOLERANT)
        assert same, f"$ {command}\nshown:\n{expected}\nprinted:\n{printed}"


def run_page(page: str, folder: Path, name: str) -> int:
    """Run every block of a page in a folder; return how many there were."""
    namespace: dict[str, object] = {"__name__": "page"}
    count = 0
    with chdir(folder):
        for kind, text in blocks(page):
            if kind == "python":
                check_python(text, namespace, name)
            elif kind == "console":
                check_console(text, folder)
            count += kind in ("python", "console")
    return count


def slug(heading: str) -> str:
    """Return the anchor of a heading, as it is made on the web."""
    text = re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", ""))
    return text.replace(" ", "-")


def broken_links(page: str, path: Path) -> list[str]:
    """Return links to files or headings that are not there."""
    broken = []
    for found in LINK.finditer(page):
        target = found["target"]
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        if not there.exists():
            broken.append(target)
        elif anchor:
            text = page if there == path else there.read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
            if anchor not in map(slug, headings):
                broken.append(target)
    return broken


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_shows_is_so(path, tmp_path):
    """Its blocks run, its links lead somewhere, and it names no path of a machine."""
    page = path.read_text(encoding="utf-8")
    run_page(page, tmp_path, path.name)
    assert broken_links(page, path) == []
    assert MACHINE_PATH.findall(page) == []


def test_the_readme_is_among_them(tmp_path):
    """The page a user meets first shows something that runs."""
    assert run_page((ROOT / "README.md").read_text(), tmp_path, "README.md") > 2


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(path, tmp_path):
    """It ends with 0, prints something, and leaves nothing where it was started."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert list(tmp_path.iterdir()) == []


def test_there_are_examples():
    """Enough of them to start from, and each says what it shows."""
    assert len(EXAMPLES) >= 5
    for path in EXAMPLES:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name):
    """What docstrings show is so."""
    module = importlib.import_module(name)
    failures, _ = doctest.testmod(module, optionflags=TOLERANT)
    assert failures == 0


@pytest.mark.parametrize(
    "page",
    [
        "```python\nassert 1 == 2\n```\n",
        "```python\n>>> 1 + 1\n3\n```\n",
        "<!-- setup\nassert 1 == 2\n-->\n",
        "```console\n$ safemodel --no-such-option\n```\n",
        "```console\n$ rm -r x\n```\n",
        "```console\n$ echo $?\n7\n```\n",
    ],
)
def test_a_block_that_is_not_so_is_caught(page, tmp_path):
    """The check can fail: for code, output, preparation, commands and exit codes."""
    with pytest.raises(AssertionError):
        run_page(page, tmp_path, "page")


def test_the_table_of_limits_is_the_code():
    """Every field with its default and its docstring, none missing, none invented."""
    listed = Limits.__doc__.split("Attributes:")[1]
    both = re.DOTALL | re.MULTILINE
    entry = re.compile(r"^        (\w+): (.*?)(?=^        \w+: |\Z)", both)
    texts = {name: " ".join(text.split()) for name, text in entry.findall(listed)}
    expected = [
        f"| `{field.name}` | {field.default:,} | {texts[field.name]} |"
        for field in fields(Limits)
    ]
    page = (ROOT / "docs" / "policy-and-limits.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `m\w+` .*$", page, flags=re.MULTILINE) == expected


def test_make_has_what_pages_tell_people_to_make():
    """In console blocks and within sentences."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named = {
        target
        for page in PAGES
        for target in re.findall(
            r"(?:`|^\$ )make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert {"demo", "test", "bench"} <= named <= targets


def test_blocks_share_a_namespace_and_a_folder(tmp_path):
    """What one block makes, the next one finds."""
    page = "```python\nx = 1\nopen('f', 'w').close()\n```\n```python\n>>> x\n1\n```\n"
    assert run_page(page, tmp_path, "page") == 2
    assert (tmp_path / "f").exists()


def test_a_broken_link_is_caught(tmp_path):
    """Missing files and missing headings, not the ones that are there."""
    path = tmp_path / "page.md"
    page = "# One `two`!\n[a](no.md) [b](#three) [c](#one-two) [d](page.md) [e](x:y)"
    path.write_text(page)
    assert broken_links(page, path) == ["no.md", "#three"]


def test_a_path_of_a_machine_is_caught():
    """Absolute paths of somebody's machine, but not parts of addresses."""
    assert MACHINE_PATH.search("see /home/me/x")
    assert not MACHINE_PATH.search("see docs/home/x or ~/home/")

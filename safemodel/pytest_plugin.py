"""The pytest plugin: tests of other projects, with safe loaders and hostile files.

Costs nothing until it is used: no torch, and none of safemodel, is imported before.
docs/pytest.md shows all of it.

* ``--safemodel-patch``, or ``safemodel_patch = true`` in the ini file: loaders are
  replaced for the whole run (`safemodel.patch`), and the summary lists every model file
  that was opened.
* the marker ``safemodel_allow_unsafe(reason="...")``: not for this test.
* fixtures: ``safemodel_patch`` (replaced for one test), ``hostile_model``,
  ``stego_model``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from safemodel._testing.opened_files import OpenedFiles
    from safemodel._testing.stego_model import StegoModel
    from safemodel.monkeypatch import OpenedFile
    from safemodel.testing import HostileModel

__all__: list[str] = []

_MARKER = "safemodel_allow_unsafe"
_OPENED: pytest.StashKey[OpenedFiles] = pytest.StashKey()
_STILL_PATCHED: pytest.StashKey[str] = pytest.StashKey()
_WORKER_KEY = "safemodel_opened"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the flag and the setting."""
    group = parser.getgroup("safemodel", "model files")
    group.addoption(
        "--safemodel-patch",
        action="store_true",
        default=None,
        help="open model files as safemodel.safe_load does, during the whole run",
    )
    parser.addini("safemodel_patch", "as --safemodel-patch", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Replace loaders before any test module is imported, if that is asked for."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(reason): model files of this test may run what they say; the"
        " reason is needed",
    )
    if config.getoption("safemodel_patch") or config.getini("safemodel_patch"):
        from safemodel import patch
        from safemodel._testing.opened_files import OpenedFiles

        config.stash[_OPENED] = opened = OpenedFiles()
        patch(audit=opened.add)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Put the loaders back."""
    if config.stash.get(_OPENED, None) is not None:
        from safemodel import unpatch

        try:
            unpatch()
        except RuntimeError as error:  # a test module has put something on top
            sys.stderr.write(f"safemodel: {error}\n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Put the loaders back for a test that says so, and replace them after it."""
    marker = item.get_closest_marker(_MARKER)
    opened = item.config.stash.get(_OPENED, None)
    if marker is None or opened is None or not _reason(marker):
        return (yield)
    from safemodel import patch, unpatch

    try:
        unpatch()
    except RuntimeError as error:
        item.stash[_STILL_PATCHED] = str(error)
        return (yield)
    try:
        return (yield)
    finally:
        patch(audit=opened.add)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Insist on a reason, and on what the marker promises."""
    marker = item.get_closest_marker(_MARKER)
    if marker is not None and not _reason(marker):
        pytest.fail(f"{_MARKER} needs reason='...'", pytrace=False)
    if _STILL_PATCHED in item.stash:
        pytest.fail(f"{_MARKER}: {item.stash[_STILL_PATCHED]}", pytrace=False)


def _reason(marker: pytest.Mark) -> str:
    reason = marker.kwargs.get("reason", "")
    return reason.strip() if isinstance(reason, str) else ""


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what a worker of pytest-xdist opened to the process that prints."""
    opened = session.config.stash.get(_OPENED, None)
    output = getattr(session.config, "workeroutput", None)
    if opened is not None and output is not None:
        output[_WORKER_KEY] = opened.to_list()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a worker of pytest-xdist opened."""
    opened = node.config.stash.get(_OPENED, None)
    if opened is not None:
        opened.add_list(getattr(node, "workeroutput", {}).get(_WORKER_KEY, []))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """List every model file that was opened, and what was found."""
    opened = config.stash.get(_OPENED, None)
    if opened is None:
        return
    terminalreporter.section("model files opened (safemodel)")
    for line in opened.lines():
        terminalreporter.write_line(line)


@pytest.fixture(name="safemodel_patch")
def _safemodel_patch() -> Iterator[list[OpenedFile]]:
    """Replace loaders for one test; give the list of the files it opens."""
    from safemodel import patched

    opened: list[OpenedFile] = []
    with patched(audit=opened.append):
        yield opened


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once for every hostile file, or for every way of hiding."""
    if "hostile_model" in metafunc.fixturenames:
        from safemodel.testing import hostile_files

        files = hostile_files()
        metafunc.parametrize(
            "hostile_model", files, indirect=True, ids=[one.name for one in files]
        )
    if "stego_model" in metafunc.fixturenames:
        from safemodel._testing.stego_model import WAYS

        metafunc.parametrize("stego_model", WAYS, indirect=True, ids=list(WAYS))


@pytest.fixture
def hostile_model(request: pytest.FixtureRequest, tmp_path: Path) -> HostileModel:
    """Write a hostile file; give its path, and the error that `safe_load` raises."""
    from safemodel.testing import HostileModel

    hostile = request.param
    path = tmp_path / hostile.file_name
    path.write_bytes(hostile.content())
    return HostileModel(path, hostile.name, hostile.why, hostile.error)


@pytest.fixture
def stego_model(request: pytest.FixtureRequest, tmp_path: Path) -> StegoModel:
    """Write a model in whose weights a program is hidden."""
    from safemodel._testing.stego_model import write

    return write(request.param, tmp_path)

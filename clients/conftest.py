"""What a case is, what it has to show, and the file with what it showed.

Each test is one case of one client. It saves with the real library, and then

1. `Case.loads`: loads under `safemodel.patched()`; every file went through safemodel,
   and what came back is compared;
2. `Case.refuses`: loads a hostile twin of the file, under the patch (the payload does
   not run) and without it (the payload runs, or the client refuses by itself).

The table in docs/clients.md has one line for each.
"""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import safemodel
from safemodel.errors import ForbiddenGlobalError
from safemodel.testing import CANARY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RESULTS = "SAFEMODEL_CLIENTS_RESULTS"
"""Name of the file that the cases are written to, for tools/clients.py."""

_FAILED: dict[str, str] = {}


@dataclass
class Case:
    """One case of a client, and what was seen of it.

    Attributes:
        client: Name of the distribution.
        what: What is saved and loaded, in a few words.
        settings: Arguments of `patched` that the case needs, as a reader would write
            them; empty if none.
        patch: Those arguments.
        loaded: What `loads` found.
        twin: What became of the twin under the patch.
        without: What became of it without.
        note: What a reader should know.
    """

    client: str
    what: str
    settings: str = ""
    patch: dict[str, Any] = field(default_factory=dict)
    loaded: str = ""
    twin: str = ""
    without: str = ""
    note: str = ""

    def loads(self, load: Callable[[], Any], *, files: int = 1) -> Any:
        """Load under the patch; check that safemodel opened the files.

        Args:
            load: What loads.
            files: How many files it has to open, at least.

        Returns:
            What it loaded.
        """
        opened: list[safemodel.monkeypatch.OpenedFile] = []
        with safemodel.patched(audit=opened.append, **self.patch):
            result = load()
        assert len(opened) >= files, "safemodel did not open the files"
        assert {one.outcome for one in opened} == {"loaded"}, opened
        count = len(opened)
        self.loaded = f"the same ({count} file{'s' if count > 1 else ''})"
        return result

    def refuses(self, load: Callable[[], Any], *, runs: bool, inert: str = "") -> None:
        """Load a hostile twin, with the patch and without.

        Args:
            load: What loads it.
            runs: Without the patch, the client runs the payload.
            inert: What becomes of the load, where the client does not let the refusal
                out, or asked for `weights_only=False`: the load goes on without.
        """
        CANARY.reset()
        opened: list[safemodel.monkeypatch.OpenedFile] = []
        error = None
        with safemodel.patched(audit=opened.append, **self.patch):
            try:
                load()
            except Exception as caught:  # noqa: BLE001 - clients wrap it in their own
                error = caught
        assert CANARY.trips == [], "the payload ran under the patch"
        assert opened, "safemodel did not open the twin"
        refusal = _refusal(error)
        if inert:
            assert error is None, error
            self.twin = inert
        else:
            assert refusal is not None, repr(error)
            assert (refusal.module, refusal.name) == ("safemodel.testing", "trip")
            self.twin = "refused"
            if error is not refusal:
                self.twin += f", within {type(error).__name__}"
        self.without = self._without(load, runs=runs)

    def _without(self, load: Callable[[], Any], *, runs: bool) -> str:
        """Load the twin as if safemodel were not there."""
        error = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                load()
            except Exception as caught:  # noqa: BLE001 - any refusal of the client's
                error = caught
        ran = len(CANARY.trips)
        CANARY.reset()
        assert bool(ran) == runs, f"the payload ran {ran} times: {error!r}"
        if ran:
            return "**runs it**"
        if error is None:
            return "refuses itself, and goes on"
        return f"refuses itself: `{type(error).__name__}`"


def _refusal(error: BaseException | None) -> ForbiddenGlobalError | None:
    """Return our refusal, wherever it is in what the client raised."""
    seen = []
    while error is not None and error not in seen:
        if isinstance(error, ForbiddenGlobalError):
            return error
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    """Give the case that the test's marker names, and write down what it showed."""
    marker = request.node.get_closest_marker("case")
    one = Case(*marker.args, **marker.kwargs)
    yield one
    row = {key: value for key, value in vars(one).items() if key != "patch"}
    row["version"] = version(one.client)
    row["failed"] = _FAILED.get(request.node.nodeid, "")
    where = os.environ.get(RESULTS)
    if where:
        with Path(where).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker."""
    config.addinivalue_line("markers", "case(client, what, settings=''): one case")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[pytest.TestReport]:
    """Keep the reason of a failure for the table."""
    report = yield
    if report.failed and call.excinfo is not None:
        _FAILED[item.nodeid] = call.excinfo.exconly().splitlines()[0][:200]
    return report

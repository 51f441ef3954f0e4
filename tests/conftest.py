"""Fixtures every test may use: seeded randomness, no network, the canary, the zoo.

Randomness is of two kinds. `rand` is new in each run, for what holds whatever is drawn.
`draws` is always the same, for what holds of nearly all draws: a test of chance that
fails once in a thousand runs says nothing to whoever meets it, and there are hundreds.
`pytest --draws N` makes N new draws for each such test, and says how many failed.
"""

from __future__ import annotations

import os
import random
import socket
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from safemodel.testing import CANARY, Canary

if TYPE_CHECKING:
    from tests.stock import Stock

ROOT = Path(__file__).resolve().parents[1]
ZOO = ROOT.parent / "shared" / "zoo"
SEED_VARIABLE = "SAFEMODEL_SEED"
_SEED_KEY = pytest.StashKey[int]()
_FAILED_KEY = pytest.StashKey[Counter[str]]()


class Rand(random.Random):
    """Seeded randomness; its repr, which pytest prints, is the seed to rerun."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.seed_used = seed

    def __repr__(self) -> str:
        return f"Rand({SEED_VARIABLE}={self.seed_used})"

    def shape(
        self, *, axes: int, smallest: int = 0, largest: int = 8
    ) -> tuple[int, ...]:
        """Return a shape with that many axes."""
        return tuple(self.randint(smallest, largest) for _ in range(axes))

    def strides(self, *, like: tuple[int, ...], largest: int = 8) -> tuple[int, ...]:
        """Return as many strides as a shape has axes, each >= 0."""
        return tuple(self.randint(0, largest) for _ in like)

    def sample_bytes(self, *, largest: int = 64) -> bytes:
        """Return up to that many bytes."""
        return self.randbytes(self.randint(0, largest))


def _seeded(request: pytest.FixtureRequest, seed: int) -> Rand:
    """Return randomness of that seed, or of the one that is asked for; note which."""
    given = os.environ.get(SEED_VARIABLE)
    seed = int(given) if given else seed
    request.node.stash[_SEED_KEY] = seed
    return Rand(seed)


@pytest.fixture
def rand(request: pytest.FixtureRequest) -> Rand:
    """Return new randomness; a failure prints the seed, SAFEMODEL_SEED repeats it."""
    return _seeded(request, random.SystemRandom().randrange(1 << 32))


@pytest.fixture
def draws(request: pytest.FixtureRequest) -> Rand:
    """Return the randomness of this test, which `--draws` and SAFEMODEL_SEED change."""
    name = request.node.nodeid.encode()
    return _seeded(request, getattr(request, "param", zlib.crc32(name)))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option by which tests of chance are repeated."""
    parser.addoption(
        "--draws",
        type=int,
        default=0,
        metavar="N",
        help="run the tests of chance alone, each with N new draws",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat a test of chance as often as is asked for."""
    count = metafunc.config.getoption("draws")
    if count and "draws" in metafunc.fixturenames:
        system = random.SystemRandom()
        seeds = [system.randrange(1 << 32) for _ in range(count)]
        metafunc.parametrize("draws", seeds, indirect=True)


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leave out what is not of chance, where draws are asked for."""
    if config.getoption("draws"):
        items[:] = [item for item in items if "draws" in _parameters(item)]


def _parameters(item: pytest.Item) -> dict[str, object]:
    """Return what a test was parametrised with."""
    call = getattr(item, "callspec", None)
    return dict(call.params) if call else {}


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say of each test of chance how many of its draws failed."""
    count = config.getoption("draws")
    if not count:
        return
    failed = config.stash.get(_FAILED_KEY, Counter())
    terminalreporter.section(f"failed, of {count} draws each")
    for name, times in failed.most_common():
        terminalreporter.line(f"{times} {name}")
    terminalreporter.line(f"{sum(failed.values())} in all")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None]:
    """Name the seed in the report of a failed test."""
    report = yield
    seed = item.stash.get(_SEED_KEY, None)
    if report.failed and seed is not None:
        line = f"rerun with {SEED_VARIABLE}={seed}"
        report.sections.append(("seed", line))
        others = {key: v for key, v in _parameters(item).items() if key != "draws"}
        name = f"{item.nodeid.partition('[')[0]} {others or ''}"
        item.config.stash.setdefault(_FAILED_KEY, Counter())[name] += 1
    return report


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every connection fail: nothing here may reach a network."""

    def refuse(*_: object, **__: object) -> NoReturn:
        pytest.fail("a test tried to open a connection", pytrace=True)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def zoo() -> Path:
    """Return the folder of real model files; skip where it is absent."""
    if not (ZOO / "manifest.csv").is_file():
        pytest.skip("the zoo of real model files is not beside this repository")
    return ZOO


@pytest.fixture(scope="session")
def stock() -> Iterator[Stock]:
    """Yield the process in which stock readers open files under an audit hook."""
    from tests.stock import Stock  # what it imports is not for every test

    with Stock() as process:
        yield process


@pytest.fixture
def canary() -> Iterator[Canary]:
    """Yield the canary, reset; the test fails if anything trips it."""
    CANARY.reset()
    yield CANARY
    assert not CANARY.trips, f"code of a file ran: {CANARY.trips}"

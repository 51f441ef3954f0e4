"""Fixtures every test may use: seeded randomness, no network, the canary, the zoo."""

from __future__ import annotations

import os
import random
import socket
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


@pytest.fixture
def rand(request: pytest.FixtureRequest) -> Rand:
    """Return randomness that SAFEMODEL_SEED repeats; a failure prints the seed."""
    given = os.environ.get(SEED_VARIABLE)
    seed = int(given) if given else random.SystemRandom().randrange(1 << 32)
    request.node.stash[_SEED_KEY] = seed
    return Rand(seed)


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

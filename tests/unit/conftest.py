"""Fixtures of several folders of unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.helpers_page import listening


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """Yield an address of this machine, and the paths that anyone asks it for."""
    with listening() as server:
        yield server

"""Reads bytes as `safe_load` does, up to the checked graph."""

from __future__ import annotations

import pytest

from safemodel._containers.source import open_source
from safemodel._formats.formats import read_file
from safemodel._graph.composite_specs import TensorGraph
from safemodel.limits import DEFAULT_LIMITS
from safemodel.policy import STRICT


class Loaded:
    """A checked file, and how much of it was taken."""

    def __init__(self, graph: TensorGraph, consumed: int) -> None:
        self.graph = graph
        self.root = graph.root
        self.consumed = consumed


@pytest.fixture
def read():
    """Return a reader of bytes; keyword arguments are those of `read_file`."""

    def run(data, *, policy=STRICT, limits=DEFAULT_LIMITS, **settings) -> Loaded:
        with open_source(data) as source:
            graph, reading = read_file(source, policy=policy, limits=limits, **settings)
            reading.close()
            return Loaded(graph, reading.consumed)

    return run

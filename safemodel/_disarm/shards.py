"""The index of a sharded checkpoint, made from the shards that were written.

Rules:

1. An index only says which files are shards. What the new one says comes from the new
   shards: their names, their tensors, the sum of their bytes. Each is opened again for
   that: a report gives paths to tensors, and two names of one tensor once.
2. A tensor that is in two shards, or a shard that is not there, leaves no index: which
   one a loader takes would be for the attacker to choose.
"""

from __future__ import annotations

import json
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from safemodel._scan.render import one_line
from safemodel.errors import SafeModelError, quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from safemodel._disarm.folder_plan import Task
    from safemodel._disarm.one_file import Settings
    from safemodel._disarm.tasks import Answer
    from safemodel.limits import Limits


class Index(NamedTuple):
    """An index of the input.

    Attributes:
        task: The file.
        shards: Paths of its shards within the folder, in the order of mention.
        error: Why it cannot be read; "" if it can.
    """

    task: Task
    shards: tuple[str, ...]
    error: str = ""


def read_index(task: Task, limits: Limits) -> Index:
    """Return what an index says are its shards."""
    from safemodel._containers.shard_index import read_shard_index
    from safemodel._containers.source import open_source

    place, slash, _ = task.name.rpartition("/")
    try:
        with open_source(task.path) as source:
            shards = read_shard_index(source.read(0, source.size), limits=limits)
    except SafeModelError as error:
        return Index(task, (), one_line(f"{type(error).__name__}: {error}"))
    except OSError as error:
        return Index(task, (), f"it cannot be read: {error.strerror}")
    return Index(task, tuple(f"{place}{slash}{shard}" for shard in shards))


def tensors_of(path: Path, limits: Limits) -> dict[str, int]:
    """Return the bytes of each tensor of a shard that was written, by its name."""
    from safemodel._containers.source import open_source
    from safemodel._formats.formats import read_file
    from safemodel._graph.composite_specs import MappingSpec
    from safemodel._graph.walk import settle
    from safemodel.policy import STRICT

    with open_source(path) as source:
        graph, reading = read_file(source, policy=STRICT, limits=limits)
        reading.close()
    root = settle(graph.root)
    pairs: Iterable[tuple[Any, Any]] = ()
    if type(root) is MappingSpec:
        pairs = zip(root.pairs[::2], root.pairs[1::2], strict=True)
    elif type(root) is dict:
        pairs = root.items()
    named = ((key, _nbytes(settle(value))) for key, value in pairs)
    return {
        key: nbytes for key, nbytes in named if nbytes is not None and type(key) is str
    }


def _nbytes(spec: Any) -> int | None:
    """Return the bytes of a tensor's elements; None for what is no tensor."""
    from safemodel._graph.array_specs import ArraySpec
    from safemodel._graph.reconstructors.torch_values import DTYPE_ITEMSIZE
    from safemodel._graph.specs import ParameterSpec, QuantizedSpec, TensorSpec

    if type(spec) is ParameterSpec:
        spec = spec.data
    if type(spec) is QuantizedSpec:
        spec = spec.view
    if type(spec) is TensorSpec:
        return prod(spec.shape) * DTYPE_ITEMSIZE[spec.dtype]
    if type(spec) is ArraySpec:
        return prod(spec.shape) * spec.dtype.itemsize
    return None


def rewrite_index(
    index: Index, answers: Mapping[str, Answer], folder: Path, settings: Settings
) -> Answer:
    """Write the index of the shards that were written (rules 1 and 2).

    Args:
        index: What the input had.
        answers: What became of each task, by its name.
        folder: Where the shards are.
        settings: How the call disarms.

    Raises:
        OSError: Writing failed.
    """
    from safemodel._containers.source import open_source
    from safemodel._disarm.side_files import write_text
    from safemodel._disarm.tasks import Answer, named

    if index.error:
        return Answer(None, index.error, refused=True)
    weight_map: dict[str, str] = {}
    total = 0
    for shard in index.shards:
        answer = answers.get(shard)
        if answer is None or answer.report is None or answer.tensors is None:
            refused = answer is None or answer.refused
            return Answer(None, f"its shard {quote(shard)} was not written", refused)
        name = answer.report.out.rpartition("/")[2]
        for tensor, nbytes in answer.tensors.items():
            if tensor in weight_map:
                why = f"the tensor {quote(tensor)} is in two of its shards"
                return Answer(None, why, refused=True)
            weight_map[tensor] = name
            total += nbytes
    value = {"metadata": {"total_size": total}, "weight_map": weight_map}
    data = (json.dumps(value, indent=2) + "\n").encode("ascii")
    with open_source(index.task.path) as source:
        report = write_text(source, folder / index.task.out, [data], "json", settings)
    return Answer(named(report, index.task))

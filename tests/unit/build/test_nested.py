"""Nested tensors whose parts do not lie where they should."""

from __future__ import annotations

import io

import pytest
import torch

from safemodel import ForbiddenCallError, StorageBoundsError, safe_load


def jagged(offsets, lengths=None, rows=5):
    """Return a file with a jagged tensor; torch looks at none of its offsets."""
    tensor = torch.nested.nested_tensor_from_jagged(
        torch.arange(2.0 * rows).view(rows, 2),
        torch.tensor(offsets),
        None if lengths is None else torch.tensor(lengths),
    )
    file = io.BytesIO()
    torch.save(tensor, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("offsets", "lengths", "rows"),
    [
        ([0, 2, 5], None, [2, 3]),
        ([0, 0, 5], None, [0, 5]),
        ([0, 3, 5], [1, 2], [1, 2]),
        ([3, 0, 5], [2, 3], [2, 3]),
        ([0], None, []),
    ],
)
def test_parts_within_the_values_come_back(offsets, lengths, rows):
    """With gaps, in any order, and none at all."""
    got = safe_load(jagged(offsets, lengths))
    if rows:
        assert [len(part) for part in got.unbind()] == rows
    assert got.offsets().tolist() == offsets
    assert len(got.values()) == 5


@pytest.mark.parametrize(
    ("offsets", "lengths", "needed"),
    [([0, 2, 6], None, 6), ([0, 9, 5], [1, 1], 10), ([0, 4, 5], [1, 2], 6)],
)
def test_a_part_that_ends_behind_the_values_is_out_of_bounds(offsets, lengths, needed):
    """The error says how many rows there would have to be."""
    with pytest.raises(StorageBoundsError) as caught:
        safe_load(jagged(offsets, lengths))
    assert (caught.value.needed, caught.value.available) == (needed, 5)


@pytest.mark.parametrize(
    ("offsets", "lengths"),
    [([-1, 2, 5], None), ([0, 3, 2], None), ([0, 2, 5], [2, -1])],
)
def test_a_part_before_the_values_or_of_negative_length_is_refused(offsets, lengths):
    """Whatever torch would make of it."""
    with pytest.raises(ForbiddenCallError) as caught:
        safe_load(jagged(offsets, lengths))
    assert caught.value.name == "nested tensor"
    assert caught.value.reason == "an offset or a length is negative"


def test_without_memory_there_is_nothing_to_prove():
    """`map_location="meta"`, as torch takes it."""
    got = safe_load(jagged([0, 9]), "meta")
    assert (got.layout, got.device.type) == (torch.jagged, "meta")


def test_parts_on_several_devices_are_refused():
    """A function of the caller's can have them there."""

    def scatter(storage, _):
        small = storage.nbytes() < 25
        return storage if small else torch.UntypedStorage(40, device="meta")

    with pytest.raises(ForbiddenCallError) as caught:
        safe_load(jagged([0, 2, 5]), scatter)
    assert caught.value.reason == "its parts are on several devices"

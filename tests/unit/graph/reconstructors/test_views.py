import pytest

from safemodel._graph.reconstructors.common import INDEX_END
from safemodel._graph.specs import StorageViewSpec, TensorSpec
from safemodel._unpickle.nodes import PersistentRef
from safemodel.errors import (
    ForbiddenCallError,
    LimitExceededError,
    StorageBoundsError,
)

V2 = "torch._utils._rebuild_tensor_v2"


def view(file, storage, offset, shape, stride, requires_grad=False):
    hooks = file.made("collections.OrderedDict")
    return file.check(V2, storage, offset, shape, stride, requires_grad, hooks)


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (0, (12,), (1,)),
        (0, (3, 4), (4, 1)),
        (0, (4, 3), (1, 4)),
        (2, (5,), (2,)),
        (11, (), ()),
        (0, (0, 2), (5, 1)),
        (3, (0, 2), (5, 1)),
    ],
)
def test_a_view_inside_its_storage_is_a_tensor(file, offset, shape, stride):
    """Contiguous, transposed, stepped, scalar and empty views keep their numbers."""
    storage = file.storage(12)

    spec = view(file, storage, offset, shape, stride)

    assert type(spec) is TensorSpec
    assert (spec.offset, spec.shape, spec.stride) == (offset, shape, stride)
    assert (spec.storage, spec.dtype) == (storage.value, "float32")
    assert storage.value.views == 1
    assert file.ctx.specs == [spec]


@pytest.mark.parametrize("grad", [False, True])
def test_a_view_past_its_storage_is_refused(file, rand, grad):
    """One element too many is refused, and the last one that fits is not.

    With a gradient the long way is taken, without one the short way.
    """
    shape = rand.shape(axes=3, smallest=1)
    stride = rand.strides(like=shape)
    need = 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))

    view(file, file.storage(need), 0, shape, stride, grad)
    with pytest.raises(StorageBoundsError) as caught:
        view(file, file.storage(need), 1, shape, stride, grad)

    assert (caught.value.needed, caught.value.available) == (need + 1, need)
    assert (caught.value.record, caught.value.position) == ("archive/data.pkl", 117)


def test_an_expanded_view_counts_against_the_size_of_the_file(new_file):
    """Views larger than their storage may add up to so many bytes, and no more."""
    file = new_file(1_000, max_amplification=4.0, min_amplified_bytes=1)

    view(file, file.storage(1), 0, (600,), (0,))
    view(file, file.storage(1), 0, (400,), (0,))
    with pytest.raises(LimitExceededError) as caught:
        view(file, file.storage(1), 0, (2,), (0,))

    assert caught.value.limit == "max_amplification"
    assert (caught.value.allowed, caught.value.requested) == (4_000, 4_008)


def test_a_trillion_elements_of_sixteen_bytes_are_refused(file):
    """A stride of 0 makes any size fit its storage, but not the limit."""
    with pytest.raises(LimitExceededError) as caught:
        view(file, file.storage(4), 0, (10**12,), (0,))

    assert caught.value.requested == 4 * 10**12


@pytest.mark.parametrize(
    ("offset", "shape", "stride", "reason"),
    [
        (-1, (1,), (1,), "the offset is out of range"),
        (True, (1,), (1,), "the offset is not an integer"),
        (0.0, (1,), (1,), "the offset is not an integer"),
        (1 << 62, (1,), (1,), "the offset is out of range"),
        (0, (-1,), (1,), "a size is out of range"),
        (0, (True,), (1,), "the shape is not an integer"),
        (0, (1,), (-1,), "a stride is out of range"),
        (0, (1,), (1 << 62,), "a stride is out of range"),
        (0, (1,), (1, 1), "shape and stride have different lengths"),
        (0, (1 << 31, 1 << 31), (0, 0), "the number of elements is out of range"),
        (0, (0, 1 << 31, 1 << 31), (0, 0, 0), "the number of elements is out of range"),
        (0, 12, (1,), "the shape is not a tuple"),
        (0, (1,), None, "the stride is not a tuple"),
    ],
)
def test_numbers_that_are_not_those_of_a_view_are_refused(
    file, offset, shape, stride, reason
):
    """Types are exact, ranges are those in which torch's own sums cannot wrap."""
    with pytest.raises(ForbiddenCallError) as caught:
        view(file, file.storage(12), offset, shape, stride)

    assert (caught.value.name, caught.value.reason) == (V2, reason)
    assert caught.value.position == 117


def test_axes_are_bounded(new_file):
    """As many axes as the limit are accepted, one more is not."""
    file = new_file(max_dimensions=5)

    view(file, file.storage(1), 0, (1,) * 5, (1,) * 5)
    with pytest.raises(LimitExceededError) as caught:
        view(file, file.storage(1), 0, (1,) * 6, (1,) * 6)

    assert caught.value.limit == "max_dimensions"
    assert (caught.value.allowed, caught.value.requested) == (5, 6)


def test_a_view_over_a_slice_stays_inside_the_slice(file):
    """Old files cut storages into slices: offsets count from the slice's start."""
    base = file.storage(10)
    part = PersistentRef(None, 117)
    part.value = StorageViewSpec(base.value, 4, 3)

    assert view(file, part, 1, (2,), (1,)).offset == 5
    with pytest.raises(StorageBoundsError) as caught:
        view(file, part, 1, (3,), (1,))

    assert (caught.value.needed, caught.value.available) == (8, 7)


@pytest.mark.parametrize("argument", [None, "0", 3, ("storage",)])
def test_what_is_no_storage_is_refused(file, argument):
    """A view needs a storage, not something that describes one."""
    with pytest.raises(ForbiddenCallError) as caught:
        view(file, argument, 0, (1,), (1,))

    assert caught.value.reason == "its first argument is not a storage"


def test_a_forward_reference_is_refused(file):
    """An argument that no checker has seen does not exist yet."""
    unchecked = file.node("torch.storage._load_from_bytes", b"")

    with pytest.raises(ForbiddenCallError) as caught:
        view(file, unchecked, 0, (1,), (1,))

    assert caught.value.reason == "an argument is used before it is made"


def test_hooks_are_an_ordered_dict_and_no_other_call(file):
    """Not even another empty mapping."""
    for hooks in (file.tensor(), file.dtype(), file.made("collections.Counter")):
        with pytest.raises(ForbiddenCallError) as caught:
            file.check(V2, file.storage(12), 0, (2,), (1,), False, hooks)
        assert caught.value.reason == "backward hooks are not an empty OrderedDict"


@pytest.mark.parametrize("wrong", [True, 2.0, "2", None, (2,)])
def test_sizes_and_strides_are_integers_and_nothing_like_them(file, wrong):
    """A boolean is no number here, nor is a float with an integer's value."""
    for shape, stride, what in (
        ((wrong,), (1,), "the shape"),
        ((2,), (wrong,), "the stride"),
    ):
        with pytest.raises(ForbiddenCallError) as caught:
            view(file, file.storage(12), 0, shape, stride)
        assert caught.value.reason.startswith(what)


def test_the_largest_size_is_below_the_end_of_an_index(file):
    """2**62 is out of range as a size, before any product is."""
    for size, reason in (
        (INDEX_END, "a size is out of range"),
        (INDEX_END - 1, "the number of elements is out of range"),
    ):
        with pytest.raises(ForbiddenCallError) as caught:
            view(file, file.storage(12), 0, (2, size), (0, 0))
        assert caught.value.reason == reason


def test_a_view_of_all_there_is_is_not_amplified(new_file):
    """One element more than the storage has is."""
    file = new_file(max_amplification=0.001, min_amplified_bytes=1)
    rebuild = "torch._utils._rebuild_tensor"

    file.check(rebuild, file.storage(12), 0, (12,), (1,))
    with pytest.raises(LimitExceededError) as caught:
        file.check(rebuild, file.storage(12), 0, (13,), (0,))
    assert caught.value.limit == "max_amplification"

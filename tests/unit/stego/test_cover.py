"""Which tensors are used, what comes back, and what is left as it was."""

import numpy as np
import pytest
import torch

from safemodel.evaluation.stego import (
    Lsb,
    Span,
    SpreadSpectrum,
    capacity,
    embed,
    extract,
)

BYTES = Lsb(bits=8)


def state():
    """Return the state of a small network: float32, and a counter."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 3)
    )
    return model.state_dict()


def same(first, second):
    """Tell whether two tensors are the same bit for bit."""
    return first.dtype == second.dtype and torch.equal(
        *(tensor.reshape(-1).view(torch.uint8) for tensor in (first, second))
    )


def test_tensors_are_one_row_in_the_order_of_the_mapping():
    """A payload runs from one into the next, and the report says where it is."""
    weights = state()
    kept = {name: tensor.clone() for name, tensor in weights.items()}
    hidden, embedding = embed(weights, bytes(range(1, 43)), BYTES)
    assert list(hidden) == list(weights)
    assert embedding.where == (
        Span(tensor="0.weight", start=0, stop=36, weights=36),
        Span(tensor="0.bias", start=0, stop=4, weights=4),
        Span(tensor="1.weight", start=0, stop=2, weights=2),
    )
    assert (embedding.weights, embedding.capacity) == (71, 71 * 8)
    assert (embedding.bits, embedding.written, embedding.dtype) == (336, 42, "float32")
    low = hidden["0.weight"].view(torch.int32).flatten() & 0xFF
    assert low.tolist() == list(range(1, 37))
    assert extract(hidden, BYTES, 42) == bytes(range(1, 43))
    # What was given is as it was, and what was not used is the object that was given.
    assert all(same(weights[name], kept[name]) for name in kept)
    assert hidden["1.num_batches_tracked"] is weights["1.num_batches_tracked"]
    for name in ("1.bias", "1.running_var", "2.weight", "2.bias"):
        assert same(hidden[name], kept[name])
        assert hidden[name].data_ptr() != weights[name].data_ptr()


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "int8", "uint8"]
)
def test_tensors_and_words_and_arrays_are_one(dtype):
    """The same bits in a tensor of torch, an array of numpy, and an array of words."""
    kind = getattr(torch, dtype)
    tensor = torch.arange(-60, 60).to(kind).reshape(3, 5, 8)
    words = tensor.flatten().view(torch.uint8).numpy()
    words = words.view(f"u{tensor.element_size()}")
    method, data = Lsb(bits=3, key=b"k"), b"payload"
    hidden, first = embed(tensor, data, method)
    assert (hidden.dtype, hidden.shape, type(hidden)) == (
        kind,
        tensor.shape,
        type(tensor),
    )
    as_words, second = embed(words, data, method, dtype=dtype)
    assert as_words.tobytes() == hidden.flatten().view(torch.uint8).numpy().tobytes()
    assert first == second
    if dtype != "bfloat16":
        array, third = embed(tensor.numpy(), data, method)
        assert (array.dtype, array.shape) == (np.dtype(dtype), tensor.shape)
        assert array.tobytes() == as_words.tobytes()
        assert third == first
    assert (
        extract(hidden, method, 7) == extract(as_words, method, 7, dtype=dtype) == data
    )


def test_the_dtype_of_most_weights_is_used():
    """Unless one is named: one payload is in tensors of one dtype."""
    weights = {
        "scale": torch.ones(8),
        "packed": torch.zeros(100, dtype=torch.int8),
        "bias": torch.ones(8),
        "count": torch.tensor(3),
        "note": "text",
    }
    _, embedding = embed(weights, b"ab", Lsb(bits=1))
    assert [span.tensor for span in embedding.where] == ["packed"]
    hidden, embedding = embed(weights, b"ab", Lsb(bits=1), dtype="float32")
    assert [span.tensor for span in embedding.where] == ["scale", "bias"]
    assert hidden["packed"] is weights["packed"]
    assert hidden["note"] == "text"
    _, embedding = embed(weights, b"a", Lsb(bits=1), tensors=["bias", "scale"])
    assert [span.tensor for span in embedding.where] == ["bias"]
    with pytest.raises(ValueError, match="several dtypes"):
        embed(weights, b"a", Lsb(bits=1), tensors=["bias", "packed"])


def test_the_order_named_is_the_order_used():
    """From the last tensor to the first, as the program of EvilModel goes."""
    weights = {"a": np.zeros(3, np.float32), "b": np.zeros(3, np.float32)}
    hidden, _ = embed(weights, b"\1\2\3\4", BYTES, tensors=["b", "a"])
    assert hidden["b"].view(np.uint32).tolist() == [1, 2, 3]
    assert hidden["a"].view(np.uint32).tolist() == [4, 0, 0]


def test_a_tied_tensor_is_there_once():
    """Two names of one tensor are two names of one new tensor."""
    shared = torch.zeros(8)
    weights = {"in": shared, "out": shared.view(8), "other": torch.zeros(8)}
    hidden, embedding = embed(weights, bytes(range(1, 13)), BYTES)
    assert embedding.weights == 16
    assert [span.tensor for span in embedding.where] == ["in", "other"]
    assert hidden["in"] is hidden["out"]
    array = np.zeros(8, np.float32)
    twice, embedding = embed({"in": array, "out": array}, b"a", BYTES)
    assert twice["in"] is twice["out"]
    untied, embedding = embed({"in": shared, "out": shared.clone()}, b"a", BYTES)
    assert embedding.weights == 16
    assert not torch.equal(untied["in"], untied["out"])


def test_views_and_odd_shapes_are_read_in_order():
    """Transposed, reversed, of no axis, empty, and a parameter."""
    base = torch.zeros(2, 3)
    weights = {
        "empty": torch.zeros(0, 4),
        "turned": base.t(),
        "one": torch.tensor(1.0),
        "parameter": torch.nn.Parameter(torch.zeros(2)),
    }
    hidden, _ = embed(weights, bytes(range(1, 10)), BYTES)
    assert hidden["turned"].shape == (3, 2)
    assert (hidden["turned"].view(torch.int32)).tolist() == [[1, 2], [3, 4], [5, 6]]
    assert hidden["one"].shape == ()
    assert hidden["empty"].shape == (0, 4)
    assert not hidden["parameter"].requires_grad
    backwards = np.zeros(3, np.float32)[::-1]
    made, _ = embed(backwards, b"\1\2", BYTES)
    assert made.view(np.uint32).tolist() == [1, 2, 0]


def test_in_place_changes_what_was_given():
    """Through views, too; and nothing else."""
    base = torch.zeros(2, 3)
    array = np.zeros(4, np.float32)
    weights = {"turned": base.t(), "parameter": torch.nn.Parameter(torch.zeros(2))}
    same_mapping, _ = embed(weights, bytes(range(1, 9)), BYTES, in_place=True)
    assert same_mapping is weights
    assert base.view(torch.int32).tolist() == [[1, 3, 5], [2, 4, 6]]
    assert weights["parameter"].detach().view(torch.int32).tolist() == [7, 8]
    same_array, _ = embed(array[::-1], b"\1\2", BYTES, in_place=True)
    assert same_array.base is array
    assert array.view(np.uint32).tolist() == [0, 0, 2, 1]


def test_in_place_needs_memory_of_its_own():
    """Tensors that overlap, and arrays that cannot be written to, are refused."""
    row = torch.zeros(8)
    with pytest.raises(ValueError, match="overlap"):
        embed({"a": row[:5], "b": row[4:]}, b"a", BYTES, in_place=True)
    embed({"a": row[:4], "b": row[4:]}, b"a", BYTES, in_place=True)
    fixed = np.zeros(8, np.float32)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        embed({"a": fixed}, b"a", BYTES, in_place=True)
    assert not row[1:].any()
    assert not fixed.any()


def test_what_cannot_be_used_is_passed_over():
    """Sparse and meta tensors, other byte orders and other dtypes; named, an error."""
    odd = {
        "sparse": torch.eye(3).to_sparse(),
        "meta": torch.zeros(3, device="meta"),
        "swapped": np.zeros(3, ">f4"),
        "whole": np.zeros(3, np.int64),
        "complex": torch.zeros(3, dtype=torch.complex64),
        "list": [1.0],
    }
    hidden, embedding = embed({**odd, "w": torch.zeros(9)}, b"a", BYTES)
    assert [span.tensor for span in embedding.where] == ["w"]
    assert all(hidden[name] is odd[name] for name in odd)
    for name in (*odd, "missing"):
        with pytest.raises(ValueError, match=name):
            embed({**odd, "w": torch.zeros(9)}, b"a", BYTES, tensors=[name])
    with pytest.raises(ValueError, match="no weights"):
        embed(odd, b"a", BYTES)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"payload": b""}, ValueError),
        ({"method": "lsb"}, TypeError),
        ({"dtype": "float8_e5m2"}, ValueError),
        ({"dtype": "float16"}, ValueError),
        ({"tensors": "w"}, TypeError),
        ({"tensors": []}, ValueError),
        ({"weights": np.zeros(9, np.uint32)}, ValueError),
        ({"weights": np.zeros(9, np.uint32), "dtype": "float16"}, ValueError),
        ({"weights": [0.0] * 9}, ValueError),
        ({"weights": {}}, ValueError),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense(arguments, error):
    """Each one alone is an error."""
    good = {"weights": {"w": np.zeros(9, np.float32)}, "payload": b"a", "method": BYTES}
    embed(**good)
    with pytest.raises(error):
        embed(**{**good, **arguments})


@pytest.mark.parametrize("size", [0, -1, 1.0, 10])
def test_a_size_that_makes_no_sense(size):
    """Not a whole number, not positive, or more than there is room for."""
    with pytest.raises((TypeError, ValueError)):
        extract(np.zeros(9, np.float32), BYTES, size)


def test_spread_spectrum_takes_what_is_called_weight():
    """All but the last one, as published; or what is named."""
    weights = {
        "a.weight": np.zeros(40_000, np.float32),
        "a.bias": np.zeros(40_000, np.float32),
        "b.weight": np.zeros(40_000, np.float32),
        "c.weight": np.zeros(40_000, np.float32),
    }
    method = SpreadSpectrum(gamma=0.01, chunk_bits=512, preamble_bits=100)
    _, embedding = embed(weights, b"payload", method)
    assert [span.tensor for span in embedding.where] == ["a.weight", "b.weight"]
    assert embedding.weights == 80_000
    _, embedding = embed(weights, b"payload", method, tensors=["a.bias"])
    assert [span.tensor for span in embedding.where] == ["a.bias"]
    assert capacity(weights["a.bias"], method) > 0
    with pytest.raises(ValueError, match="no weights"):
        embed({"a.weight": weights["a.weight"]}, b"payload", method)
    # Of several dtypes, that of most weights: one payload is in one dtype.
    mixed = {**weights, "b.weight": np.zeros(30_000, np.float16)}
    _, embedding = embed(mixed, b"payload", method)
    assert [span.tensor for span in embedding.where] == ["a.weight"]
    _, embedding = embed(mixed, b"payload", method, dtype="float16")
    assert [span.tensor for span in embedding.where] == ["b.weight"]


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_exact_numbers_are_left_out(dtype):
    """0 and 1 of either sign; of integers, what is 0 but for the replaced bits."""
    kind = getattr(torch, dtype)
    tensor = torch.tensor([2.0, 0.0, -0.0, 1.0, -1.0, 0.5, -3.0], dtype=kind)
    method = Lsb(bits=2, fill=True, skip_exact=True)
    hidden, embedding = embed(tensor, b"\xff", method)
    assert torch.nonzero(hidden != tensor).flatten().tolist() == [0, 5, 6]
    assert (embedding.written, embedding.capacity) == (3, 6)
    assert extract(hidden, method) == b""
    assert extract(torch.cat([hidden] * 2), method, 1) == b"\xff"
    whole = torch.tensor([0, 1, -1, 2, 3, 4, -128], dtype=torch.int8)
    hidden, _ = embed(whole, b"\x55", method)
    assert hidden.tolist() == [0, 1, -3, 2, 3, 5, -127]

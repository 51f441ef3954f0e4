"""What is tried on many things at once gives what it gives one by one."""

import zlib

import numpy as np
import pytest

from safemodel._detector import carving, runs, smooth
from safemodel._detector.counts import Counter
from safemodel._detector.layouts import layout_of
from safemodel._detector.signatures import _CHECKS, recognise
from safemodel._detector.statistics import examine
from tests.unit.detector.helpers_detector import (
    bfloat16,
    embed,
    generator,
    items,
    program,
    trained,
)

SCRIPT = b"#!/bin/sh\n" + bytes(range(32, 127)) * 8
PAYLOADS = [SCRIPT, SCRIPT[10:], zlib.compress(program(4096, 4096))]


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_stream_is_passed_over_that_is_known(dtype, payload, rand):
    """For each width, the streams that are left are those that begin like something."""
    width = {"float64": 8, "float32": 4, "int8": 1}.get(dtype, 2)
    layout = layout_of(dtype, width)
    noise = generator(rand).bytes(8 * 8192)
    clean = np.frombuffer(noise, f"u{width}")[:8192]
    for bits in carving.widths(layout):
        words = embed(clean, payload, bits)
        which, others = carving.likely(words, layout)
        every = {
            (bits, order)
            for bits in carving.widths(layout)
            for order in carving.ORDERS[: 1 if bits == 8 else 2]
        }
        assert len(which) + others == len(every)
        found = carving.at_start(words, "a", every)
        known = {(one.bits, one.order) for _, one in found if one is not None}
        assert (bits, "high-first") in known
        assert known <= set(which)
        assert others > len(every) / 2


def test_every_signature_may_begin_a_stream():
    """Also of a tensor that is shorter than what is looked at."""
    layout = layout_of("float32", 4)
    for magic, _ in _CHECKS:
        words = np.frombuffer(magic, np.uint8).astype(np.uint32)
        assert (8, "high-first") in carving.likely(words, layout)[0]
    assert recognise(b"") is None


def test_tensors_fitted_together_give_what_each_gives_alone(rand):
    """Of several dtypes, sizes and scales, some without any row that can be used."""
    random = generator(rand)
    tensors = []
    for scale in np.geomspace(1e-3, 10, 6):
        values = trained(random, random.integers(500, 90_000), scale)
        values[:: random.integers(2, 9)] = 0.5  # a spike
        tensors.append((values.view(np.uint32), "float32"))
        tensors.append((bfloat16(values), "bfloat16"))
        rounded = bfloat16(values).astype(np.uint32) << 16
        tensors.append((rounded, "float32"))
    counter = Counter()
    densities = []
    for at, (words, dtype) in enumerate(tensors):
        for item in items({str(at): (words, dtype, "weight")}):
            tensor = counter.start(item)
            counter.piece(tensor, item.bits)
            counter.finish(tensor)
            densities.append(smooth.density_of(tensor))
    together = smooth.uniformities(densities)
    assert any(one.expected for each in together for one in each.uniformity.values())
    assert any(one.expected for each in together for one in each.octaves.values())
    for density, found in zip(densities, together, strict=True):
        (alone,) = smooth.uniformities([density])
        assert list(found.uniformity) == list(density.replaceable)
        for known, others in zip(alone, found, strict=True):
            assert list(known) == list(others)
            for bits, one in others.items():
                assert one.seen == pytest.approx(known[bits].seen, rel=1e-9, abs=1e-9)
                assert one.expected == pytest.approx(known[bits].expected, rel=1e-9)


def test_no_spike_is_missed_by_the_first_look(rand):
    """A value is cut exactly if it is more than eight times what is around it."""
    random = generator(rand)
    rows = random.poisson(random.choice([0.3, 3, 300], (40, 1)), (40, 128)) * 1.0
    for row in rows:
        row[random.integers(0, 128)] *= random.integers(1, 40)
    cut, kept = smooth._without_spikes(rows)
    for row, is_kept in zip(rows, kept, strict=True):
        wide = np.pad(row, 8, mode="reflect")
        around = [(wide[at : at + 17].sum() - row[at]) / 16 for at in range(128)]
        less = np.where(row > 8 * (np.array(around) + 2), np.rint(around), row)
        assert is_kept == (less.sum() > row.sum() / 2)
        if is_kept:
            assert less.tolist() == cut[0].tolist()
            cut = cut[1:]
    assert not len(cut)


def test_a_tensor_leaves_nothing_to_the_next(rand):
    """The tables that all tensors share are empty again, whatever filled them."""
    random = generator(rand)
    counter = Counter()
    values = trained(random, 3000)
    values[:4] = 0, np.inf, np.nan, 1e-40
    forms = [
        (values.view(np.uint32), "float32"),
        (values.astype(np.float64).view(np.uint64), "float64"),
        (bfloat16(values), "bfloat16"),
        (random.integers(0, 256, 3000).astype(np.uint8), "int8"),
        (random.integers(0, 1 << 16, 3000).astype(np.uint16), "int16"),
        (random.integers(0, 1 << 32, 3000).astype(np.uint32), "int32"),
        (np.zeros(3000, np.uint32), "float32"),
    ]
    for words, dtype in forms:
        for item in items({"a": (words, dtype, "weight")}):
            tensor = counter.start(item)
            counter.piece(tensor, item.bits)
            counter.finish(tensor)
        assert not counter._top.any()
        if tensor.layout.exponent:
            assert tensor.top.sum() == 3000


def test_many_small_tensors_are_all_looked_at(draws):
    """More than wait for a fit at once: each has its result, and all count."""
    words = trained(generator(draws), 400 * 1200).view(np.uint32).reshape(400, 1200)
    found = examine(items({str(at): row for at, row in enumerate(words)}))
    assert [one.name for one in found.tensors] == [str(at) for at in range(400)]
    assert all(one.uniformity for one in found.tensors)
    widths = len(found.tensors[0].uniformity) + len(found.tensors[0].octaves)
    assert found.ledger.counts["smooth-tensor"] == 400 * widths
    whole = found.uniformity["float32", 16]
    parts = sum(one.uniformity[16].expected for one in found.tensors)
    assert whole.expected == pytest.approx(parts)


def test_no_block_with_zeros_in_a_row_is_passed_over(rand):
    """Where the first look sees nothing, neither test gives an outcome."""
    random = generator(rand)
    layout = layout_of("float32", 4)
    seen = set()
    for share in (0, 0.02, 0.05, 0.1, 0.3, 1):
        for bits, size in ((1, 70_000), (3, 500), (4, 1_100), (6, 140_000)):
            words = trained(random, size).view(np.uint32).copy()
            some = random.random(size) < share
            words[some] &= np.uint32(0xFFFFFFFF << bits & 0xFFFFFFFF)
            (item,) = items({"a": (words, "float32", "weight")})
            counter = Counter()
            tensor = counter.start(item)
            piece = counter.piece(tensor, item.bits)
            for at, odd in enumerate(runs.odd(piece, layout)):
                block = piece.block(at)
                tests = runs.of_block(block, tensor), runs.of_exponents(block, tensor)
                assert odd or tests == (None, None)
                seen.add(bool(odd))
    assert seen == {False, True}

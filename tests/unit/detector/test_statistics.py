"""What is hidden is found, named, and read again; and how sure that is."""

import zlib

import numpy as np
import pytest

from safemodel._detector import carving, integers, spread
from safemodel._detector.evidence import FAMILIES, Evidence, Ledger, Outcome
from safemodel._detector.statistics import examine
from tests.unit.detector.helpers_detector import (
    bfloat16,
    embed,
    evidence,
    generator,
    items,
    names_of,
    program,
    scrambled,
    trained,
)

SIZE = 200_000


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_a_program_is_found_at_every_width(bits, draws):
    """In all weights, and the estimate of bits is not above what was written."""
    words = trained(generator(draws), SIZE).view(np.uint32)
    found = evidence({"a": embed(words, program(SIZE * bits // 8, 4096), bits)})
    assert found
    assert found[0].p_value < 1e-9
    assert 1 <= found[0].bits <= bits


@pytest.mark.parametrize("bits", [2, 4])
def test_a_short_program_is_found_where_it_is(bits, draws):
    """In a twentieth of one tensor of three, which is the only one named."""
    random = generator(draws)
    tensors = {name: trained(random, SIZE).view(np.uint32) for name in "abc"}
    start = 70_000
    number = 3 * SIZE // 20
    payload = program(number * bits // 8, 4096)
    tensors["b"] = embed(tensors["b"], payload, bits, start)
    found = [one for one in evidence(tensors) if one.tensor]
    assert {one.tensor for one in found} == {"b"}
    blocks = [one for one in found if one.end]
    assert any(one.start < start + number and one.end > start for one in blocks)


def test_a_compressed_program_is_found(draws):
    """8 bits of each weight, by the bytes alone: the head is not there."""
    words = trained(generator(draws), SIZE).view(np.uint32)
    packed = zlib.compress(program(3 * SIZE))[2000:]
    found = evidence({"a": embed(words, packed, 8)})
    assert "low-byte" in {one.test for one in found}


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("bfloat16", 1), ("bfloat16", 2), ("bfloat16", 4), ("float16", 6)],
)
def test_encrypted_bits_of_short_floats_are_too_uniform(dtype, bits, draws):
    """And about as many bits are named; clean ones are not."""
    random = generator(draws)
    values = trained(random, 800_000)
    words = (
        bfloat16(values)
        if dtype == "bfloat16"
        else values.astype(np.float16).view(np.uint16)
    )
    assert evidence({"a": (words, dtype, "weight")}) == ()
    found = evidence({"a": (scrambled(random, words, bits), dtype, "weight")})
    assert found[0].test == "too-uniform"
    assert abs(found[0].bits - bits) <= 1
    assert found[0].effect > 0.5


def test_encrypted_bits_of_float32_are_too_uniform_from_16_on(draws):
    """Of six million weights; the share of untouched ones comes out near 0 and 1."""
    random = generator(draws)
    values = trained(random, 6_000_000)
    clean = examine(items({"a": values.view(np.uint32)})).uniformity["float32", 16]
    words = scrambled(random, values.view(np.uint32), 16)
    replaced = examine(items({"a": words})).uniformity["float32", 16]
    assert clean.apart > 4
    assert abs(clean.share - 1) < 4 / clean.apart
    assert abs(replaced.share) < 4 / replaced.apart


@pytest.mark.parametrize(("dtype", "largest"), [("int8", 127), ("quint4x2", 7)])
def test_encrypted_bits_of_integers_are_too_uniform(dtype, largest, draws):
    """The lowest bit of each number; clean numbers are not."""
    random = generator(draws)
    values = trained(random, 2 * SIZE)
    numbers = np.rint(values / np.abs(values).max() * largest).astype(np.int8)
    noise = random.integers(0, 2, numbers.size, dtype=np.int8)

    def words(given):
        if dtype == "int8":
            return given.view(np.uint8), dtype, "weight"
        high, low = (given + 8).view(np.uint8).reshape(2, -1)
        return high << 4 | low, dtype, "weight"

    assert evidence({"a": words(numbers)}) == ()
    found = evidence({"a": words((numbers & ~1) | noise)})
    assert found[0].test == "too-uniform"
    assert found[0].bits == 1


def test_numbers_of_four_bits_follow_from_their_cells():
    """Counts of a symmetric density, and those with an even share in each cell."""
    values = np.arange(-8, 8)
    counts = np.where(values > -8, 50_000 * np.exp(-(values**2) / 8), 0).astype(
        np.int64
    )
    assert abs(integers.mirrored(counts).share - 1) < 0.01
    even = np.repeat(counts.reshape(8, 2).sum(1) // 2, 2)
    assert abs(integers.mirrored(even).share) < 0.01
    assert integers.mirrored(counts).apart > 100


def test_a_tiled_message_is_found_by_its_repetition(draws):
    """Random bytes, twenty times over: nothing but the repetition gives them away."""
    random = generator(draws)
    words = trained(random, SIZE).view(np.uint32)
    message = random.bytes(SIZE // 20)
    found = evidence({"a": embed(words, message * 20, 8)})
    assert "repeats" in {one.test for one in found}
    repeats = next(one for one in found if one.test == "repeats")
    assert f"every {SIZE // 20:,} weights" in repeats.what


def test_noise_of_one_deviation_in_all_tensors_is_found(draws):
    """Added to a tenth of the weights of tensors of many scales, and only then."""
    random = generator(draws)
    scales = np.geomspace(0.002, 0.02, 12)
    clean = {f"{at}": (random.standard_normal(40_000) * scale).astype(np.float32)
             for at, scale in enumerate(scales)}  # fmt: skip
    noisy = {
        name: values + (random.random(values.size) < 0.1)
        * random.normal(0, 0.0576, values.size).astype(np.float32)
        for name, values in clean.items()
    }  # fmt: skip
    heavy = {name: (values * random.standard_t(3, values.size)).astype(np.float32)
             for name, values in clean.items()}  # fmt: skip

    def names(given):
        return names_of(
            {n: v.astype(np.float32).view(np.uint32) for n, v in given.items()}
        )

    assert names(clean) == set()
    assert "common-noise" in names(noisy)
    assert names(heavy) == set()


def test_a_tail_needs_a_spread():
    """No weights, or all of one value, have no tail and are no evidence."""
    assert spread.common_noise([]).log_p == 0.0
    assert names_of({"a": np.full(5000, 0x3F800000, np.uint32)}) == set()


@pytest.mark.parametrize("bits", [1, 3, 4, 8, 11])
@pytest.mark.parametrize("order", carving.ORDERS)
def test_a_program_is_carved_byte_for_byte(bits, order, draws):
    """From the first weight of the second tensor on, through the ones that follow."""
    random = generator(draws)
    tensors = {n: trained(random, 60_000).view(np.uint32).copy() for n in "abc"}
    payload = program(60_000 * bits // 8 + 500)
    message = np.unpackbits(
        np.frombuffer(payload, np.uint8),
        bitorder="big" if order == "high-first" else "little",
    )
    joined = np.concatenate((tensors["b"], tensors["c"]))
    for at in range(bits):
        part = message[at::bits].astype(np.uint32)
        bit = np.uint32(bits - 1 - at if order == "high-first" else at)
        joined[: part.size] &= ~(np.uint32(1) << bit)
        joined[: part.size] |= part << bit
    tensors["b"], tensors["c"] = joined[:60_000].copy(), joined[60_000:].copy()

    found = examine(items(tensors)).candidates[0]
    assert (found.kind, found.tensor, found.start) == ("ELF", "b", 0)
    assert found.bits == bits
    assert found.order == order or bits == 8  # then a byte is a byte
    assert carving.extract(items(tensors), found, len(payload)) == payload


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (zlib.compress(b"words, and more words " * 400), "zlib"),
        (b"#!/bin/sh\necho hello\n" + b"# \n" * 300, "script"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 3, "PNG"),
        (b"def f(x):\n    return [y + 1 for y in x if y not in seen]\n" * 9, "text"),
    ],
)
def test_other_payloads_are_recognised(data, kind, draws):
    """At the start of a tensor that is not the first."""
    random = generator(draws)
    tensors = {n: trained(random, 30_000).view(np.uint32) for n in "ab"}
    tensors["b"] = embed(tensors["b"], data, 8)
    found = examine(items(tensors)).candidates
    assert kind in {one.kind for one in found}
    assert {one.tensor for one in found} == {"b"}


def test_random_bytes_begin_like_nothing(draws):
    """Of 300 streams none is taken for a program or an archive."""
    random = generator(draws)
    from safemodel._detector.signatures import recognise

    found = [recognise(random.bytes(512)) for _ in range(3000)]
    heads = (
        b"\x78\x9c",
        b"\x78\xda",
        b"\x1f\x8b\x08",
        b"MZ",
        b"\x7fELF",
        b"PK\x03\x04",
    )
    found += [recognise(head + random.bytes(510)) for head in heads for _ in range(500)]
    assert [one for one in found if one is not None] == []


def test_p_values_are_corrected_for_all_tests_of_a_family():
    """A family's share of the chance, divided by its tests; and at most 1."""
    ledger = Ledger()
    ledger.add(Outcome("structure", "nan", "odd", np.log(1e-8), 3.0, tensor="a"))
    ledger.passed("structure", 99)
    (found,) = ledger.evidence()
    assert found == Evidence(
        test="nan", what="odd", tensor="a", start=0, end=0, statistic=3.0, effect=0.0,
        bits=0, p_value=found.p_value,
    )  # fmt: skip
    assert np.isclose(found.p_value, 1e-8 * 100 * len(FAMILIES))
    ledger.passed("structure", 10**7)
    assert ledger.evidence() == ()

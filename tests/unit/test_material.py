"""What the detector is trained on: payloads, and how they are cut."""

import zlib

import material
import pytest
from material import ATTACKS, payload_of


def program(size, random):
    """Return bytes that compress as programs do, about."""
    words = [random.randbytes(random.randrange(2, 40)) for _ in range(300)]
    made = bytearray()
    while len(made) < size:
        made += random.choice(words)
    return bytes(made[:size])


@pytest.mark.parametrize("size", [0, 1, 5_000, 1 << 20, 3_500_001])
def test_a_part_of_what_is_compressed_is_that_of_all(size, rand):
    """However little of it is asked for, or more than there is."""
    data = program(size, rand)
    whole = zlib.compress(data, 9)
    for most in (0, 1, len(whole) // 3, len(whole) - 1, len(whole), len(whole) + 9):
        assert material._compressed(data, most) == whole[:most]


def test_payloads_of_training_are_not_those_that_are_measured():
    """Of programs and of their zlib form; what is asked for is what there is."""
    seed = bytes(32)
    for name in ("program-2", "zlib-8"):
        trained, held = (
            payload_of(ATTACKS[one], 50_000, seed) for one in (name, f"{name}-held")
        )
        assert len(trained) == len(held) == 50_000
        assert trained != held
        assert payload_of(ATTACKS[name], 50_000, seed) == trained
    assert zlib.decompressobj().decompress(payload_of(ATTACKS["zlib-8"], 50_000, seed))

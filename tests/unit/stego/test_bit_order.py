"""Where each bit goes, written out by hand."""

import numpy as np
import pytest

from safemodel.evaluation.stego import ByteSubstitution, Lsb, embed, extract

# 1, -2, 0, 3.5, -0.1 and 1e9 as float32.
WORDS = [0x3F800000, 0xC0000000, 0x00000000, 0x40600000, 0xBDCCCCCD, 0x4E6E6B28]
PAYLOAD = b"\xb1\x2e"  # 1011 0001  0010 1110

BY_HAND = {
    "a byte a weight": (
        Lsb(bits=8),
        [0x3F8000B1, 0xC000002E, *WORDS[2:]],
    ),
    "a nibble a weight, the high one first": (
        Lsb(bits=4),
        [0x3F80000B, 0xC0000001, 0x00000002, 0x4060000E, *WORDS[4:]],
    ),
    "two bytes a weight": (
        Lsb(bits=16),
        [0x3F80B12E, *WORDS[1:]],
    ),
    # 101 100 010 010 111 0: the last bit goes to the lowest place.
    "three bits, and one that is left": (
        Lsb(bits=3),
        [0x3F800005, 0xC0000004, 0x00000002, 0x40600002, 0xBDCCCCCF, 0x4E6E6B28],
    ),
    # 1011 0001 0010, and 1110 in the four lowest places.
    "twelve bits, and four that are left": (
        Lsb(bits=12),
        [0x3F800B12, 0xC000000E, *WORDS[2:]],
    ),
    "the whole mantissa, and less": (
        Lsb(bits=23),
        [0x3F80B12E, *WORDS[1:]],
    ),
    # 1000 1101  0111 0100, the lowest bit of each nibble first.
    "a nibble a weight, the low one first": (
        Lsb(bits=4, bit_order="little"),
        [0x3F800001, 0xC000000B, 0x0000000E, 0x40600002, *WORDS[4:]],
    ),
    # 100 011 010 111 010 0, each the lowest bit first.
    "three bits, the lowest first": (
        Lsb(bits=3, bit_order="little"),
        [0x3F800001, 0xC0000006, 0x00000002, 0x40600007, 0xBDCCCCCA, 0x4E6E6B28],
    ),
    "from the fourth weight on": (
        Lsb(bits=8, start=3),
        [*WORDS[:3], 0x406000B1, 0xBDCCCC2E, WORDS[5]],
    ),
    "the payload three times": (
        Lsb(bits=8, fill=True),
        [0x3F8000B1, 0xC000002E, 0x000000B1, 0x4060002E, 0xBDCCCCB1, 0x4E6E6B2E],
    ),
    # 101 100 010 010 111 010 and so on: the second copy begins in the sixth weight.
    "the payload again in the middle of a weight": (
        Lsb(bits=3, fill=True),
        [0x3F800005, 0xC0000004, 0x00000002, 0x40600002, 0xBDCCCCCF, 0x4E6E6B2A],
    ),
    "half of the weights": (
        Lsb(bits=8, fill=True, share=0.5),
        [0x3F8000B1, 0xC000002E, 0x000000B1, *WORDS[3:]],
    ),
    # The mantissa begins below bit 23: 0.1 is 0x3DCCCCCD.
    "the highest bits of the mantissa": (
        Lsb(bits=4, from_top=True),
        [0x3FD80000, 0xC0080000, 0x00100000, 0x40700000, *WORDS[4:]],
    ),
    "all but what is 0, 1 or -1": (
        Lsb(bits=8, skip_exact=True),
        [0x3F800000, 0xC00000B1, 0x00000000, 0x4060002E, *WORDS[4:]],
    ),
    "the last byte": (
        ByteSubstitution(count=1),
        [0x3F8000B1, 0xC000002E, *WORDS[2:]],
    ),
    "half substitution": (
        ByteSubstitution(count=2),
        [0x3F80B12E, *WORDS[1:]],
    ),
    "all but the first byte, zeros behind": (
        ByteSubstitution(count=3),
        [0x3FB12E00, *WORDS[1:]],
    ),
    "with a prefix by the sign": (
        ByteSubstitution(count=3, prefix=True, start=1),
        [WORDS[0], 0xBCB12E00, *WORDS[2:]],
    ),
    "with the other prefix": (
        ByteSubstitution(count=3, prefix=True),
        [0x3CB12E00, *WORDS[1:]],
    ),
}


@pytest.mark.parametrize(("method", "expected"), BY_HAND.values(), ids=BY_HAND)
def test_float32_by_hand(method, expected):
    """Each bit is where it was put by hand, and all others are as they were."""
    weights = np.array(WORDS, np.uint32).view(np.float32)
    hidden, _ = embed(weights, PAYLOAD, method)
    assert [f"{word:08x}" for word in hidden.view(np.uint32)] == [
        f"{word:08x}" for word in expected
    ]
    assert extract(hidden, method, len(PAYLOAD)) == PAYLOAD


OTHERS = {
    "float64": (np.uint64, 0x3FF0_0000_0000_0000, 12, 0x3FF0_0000_0000_0B12),
    "float16": (np.uint16, 0x3C00, 10, 0x3EC4),  # 1011 0001 00
    "bfloat16": (np.uint16, 0x3F80, 7, 0x3FD8),  # 1011 000
    "int8": (np.uint8, 0x40, 5, 0x56),  # 1011 0
    "uint8": (np.uint8, 0xFF, 8, 0xB1),
}


@pytest.mark.parametrize("dtype", OTHERS)
def test_other_dtypes_by_hand(dtype):
    """As words of their size, the highest bits of the payload in the first one."""
    kind, word, bits, expected = OTHERS[dtype]
    words = np.array([word] * 4, kind)
    hidden, embedding = embed(words, PAYLOAD, Lsb(bits=bits), dtype=dtype)
    assert hidden.dtype == kind
    assert hex(hidden[0]) == hex(expected)
    assert (embedding.dtype, embedding.bits) == (dtype, 16)


MATCHED = {
    "a carry into the exponent": (np.uint32, "float32", 1, 0x3F7FFFFF, 0b000, None),
    "nothing to do": (np.uint32, "float32", 2, 0x3F800002, 0b10, [0x3F800002]),
    "one up rather than three down": (
        *(np.uint32, "float32", 2, 0x3F80000F, 0b00, [0x3F800010]),
    ),
    "one down rather than three up": (
        *(np.uint32, "float32", 2, 0x3F800011, 0b00, [0x3F800010]),
    ),
    "up from zero": (np.uint32, "float32", 1, 0x00000000, 0b1, [0x00000001]),
    "up from minus zero": (np.uint32, "float32", 1, 0x80000000, 0b1, [0x80000001]),
    "not down below zero": (np.uint32, "float32", 2, 0x00000000, 0b11, [0x00000003]),
    "not up to infinity": (np.uint32, "float32", 1, 0x7F7FFFFF, 0b0, [0x7F7FFFFE]),
    "not up to minus infinity": (np.uint16, "float16", 1, 0xFBFF, 0b0, [0xFBFE]),
    "into the next power of two": (np.uint16, "bfloat16", 2, 0x3F7F, 0, [0x3F80]),
    "up from -1 to 0": (np.uint8, "int8", 2, 0xFF, 0b00, [0x00]),
    "not down from -128": (np.uint8, "int8", 1, 0x80, 0b1, [0x81]),
    "not up from 127": (np.uint8, "int8", 1, 0x7F, 0b0, [0x7E]),
    "not up from 255": (np.uint8, "uint8", 2, 0xFF, 0b00, [0xFC]),
    "infinity is replaced": (np.uint32, "float32", 2, 0x7F800000, 0b11, [0x7F800003]),
}


@pytest.mark.parametrize("case", MATCHED.values(), ids=MATCHED)
def test_matching_by_hand(case):
    """The nearest word with the right bits, which is one of two where both are near."""
    kind, dtype, bits, word, symbol, expected = case
    expected = expected or [word - 1, word + 1]
    hidden, _ = embed(
        np.array([word] * 8, kind),
        # Every weight gets the same symbol.
        bytes([int(f"{symbol:0{bits}b}" * (8 // bits), 2)] * bits),
        Lsb(bits=bits, matching=True, fill=True),
        dtype=dtype,
    )
    assert {int(word) for word in hidden} <= set(expected)


def test_ties_of_matching_go_both_ways():
    """Half of the ones up, half of them down: the sum of the weights stays."""
    words = np.full(100_000, 0x3F7FFFFF, np.uint32)
    method = Lsb(bits=1, fill=True, matching=True, key=b"k")
    hidden, _ = embed(words, b"\0", method, dtype="float32")
    up = np.count_nonzero(hidden == 0x3F800000)
    assert np.count_nonzero(hidden == 0x3F7FFFFE) == words.size - up
    assert abs(up - 50_000) < 5 * 158  # five standard deviations

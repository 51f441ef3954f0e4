"""ChaCha20 as machine code: against RFC 8439, and against a library."""

import platform
from concurrent.futures import ThreadPoolExecutor

import llvmlite.binding as llvm
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from safemodel._kernels import _chacha, _native, keystream

BATCH = keystream.BATCH_BYTES
KEY = bytes(range(32))


def state_of(key, nonce):
    """Return the state of a key and a nonce of twelve bytes; the counter is 0."""
    return np.frombuffer(b"expand 32-byte k" + key + bytes(4) + nonce, "<u4").copy()


def run(kernel, state, first, count):
    """Return batches of blocks, from a number of one on."""
    target = np.zeros(count * BATCH, "u1")
    number = int(state[13]) | int(state[14]) << 32
    soon = np.zeros(_chacha.SOON, np.int64)
    places = [_native.address(array) for array in (state, target, state, soon)]
    assert kernel(places[0], number, first, count, *places[1:]) == 0
    return target.tobytes()


def from_library(key, nonce, counter, size):
    """Return a keystream as the library makes it."""
    start = counter.to_bytes(4, "little") + nonce
    return Cipher(algorithms.ChaCha20(key, start), None).encryptor().update(bytes(size))


ONE = bytes(31) + b"\1"
JABBERWOCKY = (
    b"'Twas brillig, and the slithy toves\nDid gyre and gimble in the wabe:\n"
    b"All mimsy were the borogoves,\nAnd the mome raths outgrabe."
)

VECTORS = {
    "2.3.2": (
        (KEY, bytes.fromhex("000000090000004a00000000"), 1),
        (
            "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
            "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
        ),
    ),
    "2.4.2": (
        (KEY, bytes.fromhex("000000000000004a00000000"), 1),
        (
            "224f51f3401bd9e12fde276fb8631ded8c131f823d2c06e27e4fcaec9ef3cf78"
            "8a3b0aa372600a92b57974cded2b9334794cba40c63e34cdea212c4cf07d41b7"
            "69a6749f3f630f4122cafe28ec4dc47e26d4346d70b98c73f3e9c53ac40c5945"
            "398b6eda1a832c89c167eacd901d7e2bf363"
        ),
    ),
    "A.1 #1": (
        (bytes(32), bytes(12), 0),
        (
            "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
            "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
        ),
    ),
    "A.1 #2": (
        (bytes(32), bytes(12), 1),
        (
            "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
            "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
        ),
    ),
    "A.1 #3": (
        (ONE, bytes(12), 1),
        (
            "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a"
            "8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0"
        ),
    ),
    "A.1 #4": (
        (b"\0\xff" + bytes(30), bytes(12), 2),
        (
            "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca"
            "13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096"
        ),
    ),
    "A.1 #5": (
        (bytes(32), bytes(11) + b"\2", 0),
        (
            "c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c7"
            "8a970e0e955c14f3a88e741b97c286f75f8fc299e8148362fa198a39531bed6d"
        ),
    ),
}
"""Sections of RFC 8439: key, nonce, number of the first block; keystream."""

NAMES = [
    ("", 4),
    ("", 8),
    ("", 16),
    ("x86-64", 4),
    ("x86-64", 8),
    ("x86-64-v3", 8),
    ("x86-64-v3", 16),
]


@pytest.fixture(params=NAMES, ids=str)
def kernel(request):
    """Return the kernel for one processor, of one width."""
    cpu, width = request.param
    if cpu and platform.machine() != "x86_64":
        pytest.skip("the name of an x86 processor")
    if cpu == "x86-64-v3" and not llvm.get_host_cpu_features().get("avx2"):
        pytest.skip("this processor has no AVX2")
    return _native.compiled("pnnnppp", _chacha.keystream(width), cpu=cpu)


def test_vectors_of_the_rfc(kernel):
    """Blocks from any number on are those of the RFC."""
    for section, ((key, nonce, first), words) in VECTORS.items():
        found = run(kernel, state_of(key, nonce), first, 1)
        assert found[: len(words) // 2].hex() == words, section


def test_encryption_of_the_rfc(kernel):
    """Appendix A.2, test vector 3: from block 42 on."""
    key = "1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0"
    state = state_of(bytes.fromhex(key), bytes(11) + b"\2")
    words = run(kernel, state, 42, 1)
    assert bytes(a ^ b for a, b in zip(JABBERWOCKY, words, strict=False)).hex() == (
        "62e6347f95ed87a45ffae7426f27a1df5fb69110044c0d73118effa95b01e5cf"
        "166d3df2d721caf9b21e5fb14c616871fd84c54f9d65b283196c7fe4f60553eb"
        "f39c6402c42234e32a356b3e764312a61a5532055716ead6962568f87d3f3f77"
        "04c6a8d1bcd1bf4d50d6154b6da731b187b58dfd728afa36757a797ac188d1"
    )


def test_long_keystreams_are_those_of_a_library(kernel, rand):
    """Any key and nonce, any number of batches, up to the last block."""
    for first in (0, 1, 16, 1000, 2**31 - 8, 2**32 - 16 * 30, 2**32 - 16 * 30 + 1):
        key, nonce = rand.randbytes(32), rand.randbytes(12)
        found = run(kernel, state_of(key, nonce), first, 29)
        assert found == from_library(key, nonce, first, 29 * BATCH)


def test_no_batch_is_none(kernel):
    """And none is written."""
    assert run(kernel, state_of(KEY, bytes(12)), 5, 0) == b""


@pytest.mark.parametrize("number", [0, 1, 2**32 - 1, 2**32, 2**63 - 1])
def test_a_cipher_has_a_keystream_for_each_number(number):
    """The number is the nonce; a keystream may be taken up at any batch."""
    nonce = number.to_bytes(12, "little")
    whole = np.frombuffer(from_library(KEY, nonce, 0, 9 * BATCH), "u1")
    cipher = keystream.Cipher(KEY)
    for first, last in ((0, 9), (0, 1), (3, 8), (8, 9), (4, 4)):
        room = np.full((last - first + 2) * BATCH, 7, "u1")
        cipher.fill(number, first, room[BATCH:-BATCH])
        assert np.array_equal(room[BATCH:-BATCH], whole[first * BATCH : last * BATCH])
        assert (room[:BATCH] == 7).all()
        assert (room[-BATCH:] == 7).all()


def test_a_target_may_begin_anywhere():
    """Words of any size are written in place."""
    room = np.zeros(BATCH + 7, "u1")
    keystream.Cipher(KEY).fill(0, 0, room[7:])
    assert room[7:].tobytes() == from_library(KEY, bytes(12), 0, BATCH)


def test_the_end_of_a_keystream_is_reached_and_not_passed():
    """The last batch has the last counter; the next would begin anew."""
    last = 2**28 - 1
    room, cipher = np.zeros(BATCH, "u1"), keystream.Cipher(KEY)
    cipher.fill(3, last, room)
    nonce = (3).to_bytes(12, "little")
    assert room.tobytes() == from_library(KEY, nonce, last * 16, BATCH)
    for first, target in ((last + 1, room), (last, np.zeros(2 * BATCH, "u1"))):
        with pytest.raises(ValueError, match="256 GiB"):
            cipher.fill(3, first, target)


@pytest.mark.parametrize(
    ("number", "first", "target"),
    [
        (-1, 0, np.zeros(BATCH, "u1")),
        (2**63, 0, np.zeros(BATCH, "u1")),
        (0, -1, np.zeros(BATCH, "u1")),
        (0, 0, np.zeros(BATCH - 1, "u1")),
        (0, 0, np.zeros(BATCH, "u4")),
        (0, 0, np.zeros(2 * BATCH, "u1")[::2]),
    ],
)
def test_what_is_no_part_of_a_keystream_is_refused(number, first, target):
    """Before anything is written, and without a word of the key."""
    with pytest.raises(ValueError, match=r"keystream|kernel") as caught:
        keystream.Cipher(KEY).fill(number, first, target)
    assert not target.any()
    assert KEY[:4].hex() not in str(caught.value)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_has_32_bytes(size):
    """No other cipher is made of a shorter one."""
    with pytest.raises(ValueError, match="32 bytes"):
        keystream.Cipher(KEY[:size] + bytes(max(size - 32, 0)))


def test_a_key_does_not_show():
    """Not in the repr of what has it."""
    cipher = keystream.Cipher(b"secret key of ChaCha20, 32 bytes")
    assert "secret" not in repr(cipher) + str(cipher)


def test_threads_may_share_a_cipher():
    """Nothing of it changes."""
    cipher = keystream.Cipher(KEY)

    def work(number):
        room = np.zeros(20 * BATCH, "u1")
        cipher.fill(number, 0, room)
        return room.tobytes()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(16)))
    assert found == [
        from_library(KEY, n.to_bytes(12, "little"), 0, 20 * BATCH) for n in range(16)
    ]

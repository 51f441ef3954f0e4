"""Sub-keys against RFC 5869 from hmac, the keystream against RFC 8439."""

import numpy as np
import pytest

from safemodel._protect.keys import ProtectionKey
from safemodel._protect.subkeys import Keystream, PoolKey
from tests.reference import naive_permutation as naive

MASTER, FILE = bytes(range(32)), bytes(range(32, 64))


def sub_key(master, file_id, *, epoch, pool, use):
    """Return a sub-key of a pool."""
    return PoolKey(ProtectionKey(master), file_id, epoch=epoch, pool=pool).use(use)


def test_sub_keys_are_hkdf():
    """As the twin computes it from hmac."""
    found = sub_key(MASTER, FILE, epoch=7, pool="bfloat16", use="pieces")
    assert found == naive.sub_key(MASTER, FILE, 7, "bfloat16", "pieces")
    assert len(found) == 32


def test_the_twin_is_hkdf_of_the_rfc():
    """Test case 1 of RFC 5869: the twin's two steps, on the RFC's bytes."""
    import hashlib
    import hmac

    salt, info = bytes(range(13)), bytes(range(0xF0, 0xFA))
    secret = hmac.digest(salt, b"\x0b" * 22, hashlib.sha256)
    made = hmac.digest(secret, info + b"\x01", hashlib.sha256)
    assert made.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
    )


def test_every_part_makes_another_key():
    """Also where one text would run into the next."""
    parts = [
        {},
        {"master": b"\1" * 32},
        {"file_id": b"\1" * 32},
        {"epoch": 1},
        {"epoch": 256},
        {"pool": "ab", "use": "c"},
        {"pool": "a", "use": "bc"},
        {"pool": "abc", "use": ""},
    ]
    usual = {"master": MASTER, "file_id": FILE, "epoch": 0, "pool": "p", "use": "u"}
    keys = set()
    for part in parts:
        now = usual | part
        master, file_id = now.pop("master"), now.pop("file_id")
        keys.add(sub_key(master, file_id, **now))
    assert len(keys) == len(parts)


@pytest.mark.parametrize(
    ("master", "file_id", "epoch"),
    [
        (MASTER, FILE[:31], 0),
        (MASTER, FILE + b"0", 0),
        (MASTER, FILE, -1),
        (MASTER, FILE, 2**64),
    ],
)
def test_a_key_of_another_length_is_refused(master, file_id, epoch):
    """No short key, no epoch that would wrap; and the error shows no key."""
    with pytest.raises(ValueError, match=r"bytes|epoch") as caught:
        sub_key(master, file_id, epoch=epoch, pool="p", use="u")
    assert MASTER[:4].hex() not in str(caught.value)


def test_the_keystream_is_that_of_the_rfc():
    """Appendix A.1 of RFC 8439, the first two blocks; then another nonce."""
    words = Keystream(bytes(32)).words(32, "u4")
    assert words[:4].tolist() == [0xADE0B876, 0x903DF1A0, 0xE56A5D40, 0x28BD8653]
    assert words[16:20].tolist() == [0xBEE7079F, 0x7A385155, 0x7C97BA98, 0x0D082D73]
    assert Keystream(bytes(32), 1).words(1, "u4")[0] != words[0]


def test_the_keystream_goes_on_where_it_stopped():
    """However many words are taken at a time."""
    whole = Keystream(MASTER, 5).words(300_000, "u1")
    stream = Keystream(MASTER, 5)
    parts = [stream.words(n, "u1") for n in (0, 1, 65_536, 100_000, 134_463)]
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("first", [0, 2**31, 2**32 - 40, 2**32 - 39, 2**40])
def test_draws_are_those_of_the_twin(first):
    """With refused words drawn again, and words of 64 bits past 2**32."""
    stream, words = Keystream(MASTER), naive.Words(MASTER)
    found = stream.draws(first, (1, 40))[0].tolist()
    if first + 40 > 2**32:
        assert found == [words.below(first + k + 1) for k in range(40)]
    else:
        assert found == words.exchanges(first, 40)
    assert all(draw <= first + k for k, draw in enumerate(found))


def test_refused_words_are_drawn_again():
    """Half of all words are refused for a bound just above 2**31."""
    first, count = 2**31, 1000
    plain = Keystream(MASTER).words(count, "u4").tolist()
    refused = [
        k for k in range(count) if not naive.accepted(plain[k], first + k + 1, 4)
    ]
    assert 400 < len(refused) < 600
    found = Keystream(MASTER).draws(first, (1, count))[0].tolist()
    changed = [k for k in range(count) if found[k] != plain[k] * (first + k + 1) >> 32]
    assert [k for k in changed if k not in refused] == []
    assert len(changed) > 0.9 * len(refused)


@pytest.mark.parametrize("bound", [1, 2, 3, 6, 1000, 2**32, 2**32 + 1, 2**63 + 1])
def test_below_is_that_of_the_twin(bound):
    """Small bounds, and such as refuse half of all words."""
    stream, words = Keystream(FILE), naive.Words(FILE)
    found = [stream.below(bound) for _ in range(50)]
    assert found == [words.below(bound) for _ in range(50)]
    assert 0 <= min(found) <= max(found) < bound

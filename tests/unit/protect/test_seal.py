"""Seals: only the holder of the key opens, makes or changes one."""

from __future__ import annotations

import base64
import struct
import zlib
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from safemodel._protect import seal as sealing
from safemodel._protect.header import HEADER_BYTES, Header, read_header
from safemodel._protect.keys import KeyRing, ProtectionKey
from safemodel._protect.layout import ENCRYPTED, PLAIN, STORED
from safemodel._protect.leaves import PoolTagger
from safemodel._protect.manifest import Manifest, decode, encode
from safemodel._protect.seal import (
    check_fresh,
    open_sealed,
    seal,
    verify_signature,
)
from safemodel._protect.tags import Tagger
from safemodel.errors import (
    KeyRequiredError,
    LimitExceededError,
    MalformedFileError,
    SafeModelError,
    TruncatedFileError,
    UnsupportedFormatError,
    VerificationError,
)
from safemodel.limits import DEFAULT_LIMITS, Limits
from tests.unit.protect.helpers_protect import (
    FILE_ID,
    KEY,
    OTHER,
    PUBLIC,
    SECRET,
    SIGNER,
    chunks,
    holds_secret,
    manifest_of,
    pool_of,
    small_pools,
    text_of,
)

MANIFEST = manifest_of()
OLD = Path(__file__).with_name("seal_1.txt")
"""A signed seal that was written once; the files that are out there are like it."""


def public_root() -> bytes:
    """Return the root that readers without a key compute."""
    tagger = Tagger.public(FILE_ID, 3)
    leaves = [
        (tuple(PoolTagger(tagger, number, pool).leaves(chunks(pool))), None)
        for number, pool in enumerate(small_pools())
    ]
    return tagger.root(small_pools(), leaves, bytes(32), orders=(STORED,))


PLAIN_SEAL = seal(MANIFEST, KEY)
SIGNED_SEAL = seal(MANIFEST, KEY, signer=SIGNER, public_root=public_root())

HEADER = read_header(PLAIN_SEAL)
TEXT = encode(MANIFEST, bytes(32))


def refused(data: bytes, keys: ProtectionKey = KEY) -> SafeModelError:
    """Return the error of opening a seal, which shows neither key nor content."""
    with pytest.raises(SafeModelError) as caught:
        open_sealed(data, keys)
    text = str(caught.value) + repr(caught.value) + repr(vars(caught.value))
    assert not holds_secret(text)
    assert "fc.weight" not in text
    return caught.value


@pytest.mark.parametrize("data", [PLAIN_SEAL, SIGNED_SEAL], ids=["plain", "signed"])
def test_a_manifest_survives_its_seal(data):
    """All of it, by one key or a ring, from bytes or a view."""
    assert open_sealed(data, KEY) == MANIFEST
    assert open_sealed(memoryview(data), KeyRing([OTHER, KEY])) == MANIFEST


@pytest.mark.parametrize(
    "manifest",
    [
        manifest_of(()),
        manifest_of(expires=None, epoch=0, data=b""),
        manifest_of(epoch=(1 << 63) - 1, expires=(1 << 63) - 1),
        manifest_of(data=bytes(range(256)) * 64),
        manifest_of(
            (
                pool_of(
                    "uint8",
                    1,
                    [("n\u00e4me\n\x1b[31m", (3 << 20,)), ("", (1, 1, 1))],
                    [("x", (3 << 20,)), ("y", (1,))],
                ),
            )
        ),
        manifest_of((pool_of("uint8", 1, [], []),)),
        manifest_of(confidential=True),
        manifest_of((pool_of("uint8", 1, [], []),), confidential=True),
        Manifest(
            **(
                vars(MANIFEST)
                | {"leaves": tuple((a, None) for a, _ in MANIFEST.leaves)}
            )
        ),
    ],
)
def test_any_manifest_survives(manifest):
    """No pools, no tensors, odd names, no leaves in plain order, the largest time."""
    assert open_sealed(seal(manifest, KEY), KEY) == manifest


def text_by_hand(data: bytes) -> bytes:
    """Return what is sealed, from the descriptions and not from the code."""
    sealed = struct.unpack_from("<Q", data, 84)[0]
    bound = b"safemodel seal\0" + data[:188]
    keys = HKDF(SHA256(), 64, data[92:124], bound).derive(SECRET)
    return ChaCha20Poly1305(keys[:32]).decrypt(
        bytes(12), data[220 : 220 + sealed], data[:220]
    )


def test_a_seal_is_as_described():
    """Opened here by hand, from the descriptions and not from the code."""
    data = SIGNED_SEAL
    u64 = struct.Struct("<Q").pack
    version, flags = struct.unpack_from("<HH", data, 8)
    sealed = struct.unpack_from("<Q", data, 84)[0]
    bound = b"safemodel seal\0" + data[:188]

    assert (data[:8], version, flags) == (b"SFMDSEAL", 1, 2)
    assert data[12:60] == bytes.fromhex(KEY.id) + FILE_ID
    assert data[60:84] == u64(3) + u64(2_000_000_000) + u64(36 + 24)
    assert data[124:188] == public_root() + PUBLIC
    keys = HKDF(SHA256(), 64, data[92:124], bound).derive(SECRET)
    assert data[188:220] == keys[32:]
    text = ChaCha20Poly1305(keys[:32]).decrypt(
        bytes(12), data[220 : 220 + sealed], data[:220]
    )
    SIGNER.public_key().verify(
        data[220 + sealed :], b"safemodel seal signed 1\0" + data[: 220 + sealed]
    )
    assert len(text) % 1024 == 0
    assert text == encode(MANIFEST, text[:32])
    u32 = struct.Struct("<I").pack
    stored = [leaves[0] for leaves, _ in MANIFEST.leaves]
    plain = [b"".join(leaves) for _, leaves in MANIFEST.leaves]
    pools = u32(2)
    pools += u32(7) + b"float32" + u32(4)
    pools += u32(2) + u32(2) + b"t0" + u32(1) + u64(9) + u32(2) + b"t1" + u32(1)
    pools += u64(0) + u32(3) + u32(9) + b"fc.weight" + u32(2) + u64(4) + u64(2)
    pools += u32(4) + b"none" + u32(2) + u64(0) + u64(3) + u32(5) + b"scale" + u32(0)
    pools += u32(5) + b"int64" + u32(8)
    pools += u32(1) + u32(2) + b"t2" + u32(1) + u64(3)
    pools += u32(1) + u32(5) + b"steps" + u32(1) + u64(3)
    size, taken = struct.unpack_from("<2Q", text, 64)
    assert zlib.decompress(text[80 : 80 + taken]) == pools
    expected = MANIFEST.frame + u64(size) + u64(taken) + text[80 : 80 + taken]
    assert size == len(pools)
    expected += stored[0] + b"\1" + plain[0]
    expected += stored[1] + b"\1" + plain[1]
    (data,) = MANIFEST.data
    expected += u64(len(data)) + data
    assert text[32:].rstrip(b"\0") == expected


def test_what_is_encrypted_has_one_leaf_for_each_chunk():
    """And no byte for others, nor one that says whether there are some."""
    manifest = manifest_of(confidential=True)
    data = seal(manifest, KEY)
    text = text_by_hand(data)
    taken = struct.unpack_from("<Q", text, 72)[0]
    leaves = b"".join(leaf for _, plain in manifest.leaves for leaf in plain)
    assert struct.unpack_from("<H", data, 10)[0] == 1
    assert text[80 + taken :].startswith(leaves + struct.pack("<Q", 11) + b'{"lr"')
    # Two tensors with bytes in one pool, one in the other.
    assert len(leaves) == 3 * 32


def test_the_two_modes_do_not_mix():
    """A seal of one mode, whoever changes what of it, is none of the other."""
    for mode in (False, True):
        flipped = bytearray(seal(manifest_of(confidential=mode), KEY))
        flipped[10] ^= 1
        assert type(refused(bytes(flipped))) is VerificationError
    # Whoever has the key and lies about the leaves is no further.
    both = [manifest_of(confidential=mode) for mode in (False, True)]
    tagger = Tagger.keyed(KEY, FILE_ID, 3)
    roots = {
        tagger.root(one.pools, [(None, leaves) for _, leaves in one.leaves], one.frame,
                    orders=(STORED, order))
        for one in both
        for order in (PLAIN, ENCRYPTED)
    }  # fmt: skip
    assert len(roots) == 4


@pytest.mark.parametrize("data", [PLAIN_SEAL, SIGNED_SEAL], ids=["plain", "signed"])
def test_every_bit_is_guarded(data):
    """Each one flipped, and the seal does not open; the key id alone says which key."""
    errors = set()
    for place in range(8 * len(data)):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        error = refused(bytes(changed))
        errors.add(type(error))
        in_key_id = 12 <= place // 8 < 28
        assert isinstance(error, KeyRequiredError) == in_key_id
        if place // 8 >= HEADER_BYTES:
            assert type(error) is VerificationError
    assert errors == {
        KeyRequiredError,
        LimitExceededError,
        MalformedFileError,
        TruncatedFileError,
        UnsupportedFormatError,
        VerificationError,
    }


@pytest.mark.parametrize("data", [PLAIN_SEAL, SIGNED_SEAL], ids=["plain", "signed"])
def test_every_other_length_is_refused(data):
    """Cut anywhere, or longer."""
    for length in range(len(data)):
        assert isinstance(refused(data[:length]), MalformedFileError)
    for more in (b"\0", b"x" * 64, data):
        assert isinstance(refused(data + more), MalformedFileError)
        refused(more + data)


def test_random_changes_are_all_refused(rand):
    """Bytes overwritten, cut out, doubled and swapped, several at once."""
    for _ in range(5000):
        changed = bytearray(rand.choice([PLAIN_SEAL, SIGNED_SEAL]))
        before = bytes(changed)
        for _ in range(rand.randrange(1, 4)):
            start = rand.randrange(len(changed))
            end = min(len(changed), start + rand.choice([1, 2, 8, 32, 200]))
            kind = rand.randrange(4)
            if kind == 0:
                changed[start:end] = rand.randbytes(end - start)
            elif kind == 1:
                del changed[start:end]
            elif kind == 2:
                changed[start:start] = changed[start:end]
            else:
                changed[start:end] = changed[start:end][::-1]
        if bytes(changed) != before:
            refused(bytes(changed))


def test_no_two_seals_mix():
    """Parts of seals of two files, epochs and times, with every boundary between."""
    kinds = [
        PLAIN_SEAL,
        seal(MANIFEST, KEY),
        seal(manifest_of(file_id=bytes(32)), KEY),
        seal(manifest_of(epoch=4), KEY),
        seal(manifest_of(expires=None), KEY),
    ]
    assert len({len(data) for data in kinds}) == 1
    fields = (0, 8, 10, 12, 28, 60, 68, 76, 84, 92, 124, 156, 188, 220, len(PLAIN_SEAL))
    for one in kinds:
        for other in kinds:
            for cut in fields[1:-1]:
                mixed = one[:cut] + other[cut:]
                if mixed not in (one, other):
                    refused(mixed)
            for start, end in pairwise(fields):
                mixed = one[:start] + other[start:end] + one[end:]
                if mixed not in (one, other):
                    refused(mixed)


def test_a_wrong_key_is_known_by_its_id_alone():
    """A key of another id is asked for; the rest is one error."""
    error = refused(PLAIN_SEAL, OTHER)
    assert isinstance(error, KeyRequiredError)
    assert (error.key_id, error.given) == (KEY.id, (OTHER.id,))

    forged = bytes.fromhex(OTHER.id).join([PLAIN_SEAL[:12], PLAIN_SEAL[28:]])
    error = refused(forged, OTHER)
    assert type(error) is VerificationError
    changed = bytearray(PLAIN_SEAL)
    changed[-1] ^= 1
    assert str(refused(bytes(changed))) == str(error)


def test_another_key_of_the_same_id_is_refused_before_decryption(monkeypatch):
    """The commitment says so: no cipher text opens under two keys."""
    twin = ProtectionKey(bytes(32))
    object.__setattr__(twin, "id", KEY.id)
    used = []
    monkeypatch.setattr(
        ChaCha20Poly1305, "__init__", lambda *_: used.append(1), raising=False
    )

    assert type(refused(PLAIN_SEAL, twin)) is VerificationError
    assert used == []


def test_versions_before_and_after_are_refused():
    """A later one is another program's; an earlier one never was."""
    for version, kind in ((0, VerificationError), (2, UnsupportedFormatError)):
        data = PLAIN_SEAL[:8] + struct.pack("<H", version) + PLAIN_SEAL[10:]
        assert type(refused(data)) is kind
        with pytest.raises(kind):
            verify_signature(data, PUBLIC)
        with pytest.raises(kind):
            read_header(data)


def test_a_header_is_bounded_before_it_is_used():
    """What it announces, by its own fields."""
    huge = PLAIN_SEAL[:84] + b"\xff" * 8 + PLAIN_SEAL[92:]
    assert isinstance(refused(huge), LimitExceededError)
    size = len(PLAIN_SEAL) - HEADER_BYTES
    assert read_header(PLAIN_SEAL, Limits(max_header_bytes=size)).sealed_bytes == size
    with pytest.raises(LimitExceededError):
        read_header(PLAIN_SEAL, Limits(max_header_bytes=size - 1))
    for at in (60, 68):
        odd = PLAIN_SEAL[:at] + b"\xff" * 8 + PLAIN_SEAL[at + 8 :]
        assert isinstance(refused(odd), MalformedFileError)
    for flag in range(2, 16):
        odd = PLAIN_SEAL[:10] + struct.pack("<H", 1 << flag) + PLAIN_SEAL[12:]
        with pytest.raises(MalformedFileError, match="unknown flags"):
            read_header(odd)
    assert read_header(SIGNED_SEAL).encoded() == SIGNED_SEAL[:HEADER_BYTES]
    assert read_header(SIGNED_SEAL).signer == PUBLIC
    with pytest.raises(MalformedFileError, match="signer without"):
        read_header(SIGNED_SEAL[:10] + b"\0\0" + SIGNED_SEAL[12:])


def test_no_two_seals_are_the_same(monkeypatch):
    """Another salt each time; and if the random bytes repeat, only of the same seal."""
    seals = {seal(MANIFEST, KEY) for _ in range(50)}
    salts = {data[92:124] for data in seals}
    assert len(seals) == len(salts) == 50
    assert {data[28:60] for data in seals} == {FILE_ID}

    monkeypatch.setattr(sealing.secrets, "token_bytes", lambda size: b"r" * size)
    same = [seal(MANIFEST, KEY) for _ in range(2)]
    others = [
        seal(manifest_of(data=b'{"lr": 0.2}'), KEY),
        seal(manifest_of(epoch=4), KEY),
        seal(MANIFEST, KEY, signer=SIGNER, public_root=public_root()),
    ]
    assert same[0] == same[1]
    assert len({data[92:124] for data in [same[0], *others]}) == 4


def test_names_and_data_do_not_show():
    """Nor does the length say more than the next 1,024 bytes."""
    for data in (PLAIN_SEAL, SIGNED_SEAL):
        for hidden in (b"fc.weight", b"steps", b"float32", b'"lr"', MANIFEST.frame):
            assert hidden not in data
        assert SECRET not in data
    longer = seal(manifest_of(data=b'{"lr": 0.1, "wd": 1}'), KEY)
    assert len(longer) == len(PLAIN_SEAL)
    assert repr(MANIFEST) == "<Manifest of 2 pools, epoch 3>"


def test_what_would_not_open_is_not_sealed():
    """The reader's limits are the writer's."""
    with pytest.raises(LimitExceededError) as caught:
        seal(MANIFEST, KEY, limits=Limits(max_tensors=2))
    assert caught.value.limit == "max_tensors"
    size = len(PLAIN_SEAL) - HEADER_BYTES
    assert seal(MANIFEST, KEY, limits=Limits(max_header_bytes=size))
    with pytest.raises(LimitExceededError):
        seal(MANIFEST, KEY, limits=Limits(max_header_bytes=size - 1))
    for signer, root in ((SIGNER, None), (None, bytes(32)), (SIGNER, b"short")):
        with pytest.raises(ValueError, match="root"):
            seal(MANIFEST, KEY, signer=signer, public_root=root)


def test_what_does_not_read_back_is_not_sealed(monkeypatch):
    """A fault of ours is found before the plain file is gone."""
    other = decode(
        encode(manifest_of(data=b"other"), bytes(32)), HEADER, DEFAULT_LIMITS
    )
    monkeypatch.setattr(sealing.encoding, "decode", lambda *_: other)

    with pytest.raises(ValueError, match="reads back"):
        seal(MANIFEST, KEY)


def test_a_signature_is_verified_without_a_key():
    """By the public key one trusts, not by the one the seal names."""
    header = verify_signature(SIGNED_SEAL, PUBLIC)

    assert (header.epoch, header.expires) == (3, 2_000_000_000)
    assert header.public_root == public_root()
    with pytest.raises(VerificationError, match="not signed"):
        verify_signature(PLAIN_SEAL, PUBLIC)
    mine = Ed25519PrivateKey.generate()
    forged = seal(MANIFEST, OTHER, signer=mine, public_root=bytes(32))
    with pytest.raises(VerificationError, match="another key"):
        verify_signature(forged, PUBLIC)
    renamed = forged[:156] + PUBLIC + forged[188:]
    with pytest.raises(VerificationError, match="does not hold"):
        verify_signature(renamed, PUBLIC)
    with pytest.raises(ValueError, match="32 bytes"):
        verify_signature(SIGNED_SEAL, PUBLIC[:-1])


def test_every_bit_is_signed():
    """Each one flipped, and the signature does not hold."""
    for place in range(8 * len(SIGNED_SEAL)):
        changed = bytearray(SIGNED_SEAL)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(SafeModelError):
            verify_signature(bytes(changed), PUBLIC)


def test_a_signature_cannot_be_taken_away():
    """Neither cut off nor left out of the header."""
    unsigned = bytearray(SIGNED_SEAL[:-64])
    assert isinstance(refused(bytes(unsigned)), TruncatedFileError)
    unsigned[10:12] = bytes(2)
    unsigned[124:188] = bytes(64)
    assert read_header(bytes(unsigned)).signer is None
    assert type(refused(bytes(unsigned))) is VerificationError
    with pytest.raises(VerificationError, match="not signed"):
        verify_signature(bytes(unsigned), PUBLIC)


@pytest.mark.parametrize("of", [MANIFEST, read_header(PLAIN_SEAL)])
def test_the_old_and_the_expired_are_refused(of):
    """Both sides of each bound; without bounds, the clock is asked."""
    check_fresh(of, min_epoch=3, now=1_999_999_999.9)
    with pytest.raises(VerificationError, match="epoch 3 where 4"):
        check_fresh(of, min_epoch=4, now=0)
    with pytest.raises(VerificationError, match="expired at 2033-05-18 03:33 UTC"):
        check_fresh(of, now=2_000_000_000)
    check_fresh(of, now=0)
    check_fresh(manifest_of(expires=None), now=1e30)
    with pytest.raises(VerificationError, match="expired"):
        check_fresh(manifest_of(expires=1))
    check_fresh(manifest_of(expires=1 << 60))


def test_tags_that_do_not_belong_together_are_refused():
    """A manifest whose leaves were exchanged by a holder of the key."""
    odd = Manifest(**(vars(MANIFEST) | {"frame": bytes(32)}))
    true_root = Tagger.keyed(KEY, FILE_ID, 3).root(
        MANIFEST.pools, MANIFEST.leaves, MANIFEST.frame
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sealing, "_root", lambda *_: true_root)
        data = seal(odd, KEY)

    with pytest.raises(VerificationError, match="not those of its root"):
        open_sealed(data, KEY)


def parts_of(text: bytes) -> tuple[bytes, bytes, bytes]:
    """Return what comes before what is compressed, that, and what comes after."""
    (taken,) = struct.unpack_from("<Q", text, 72)
    return text[:64], zlib.decompress(text[80 : 80 + taken]), text[80 + taken :]


def test_a_manifest_has_one_encoding(rand):
    """Whatever decodes encodes to what it was: 20,000 texts of a hostile key holder.

    But for what is compressed, which has one text, and more than one way to write it.
    """
    first, described, rest = parts_of(TEXT)
    used = len(rest.rstrip(b"\0"))
    accepted = 0
    for _ in range(20_000):
        changed = [bytearray(described), bytearray(rest)]
        for _ in range(rand.randrange(1, 3)):
            part = rand.choice(changed)
            at = rand.randrange(len(part) if part is changed[0] else used)
            part[at] = rand.choice([0, 1, 2, 3, 255, part[at] ^ 1 << at % 8])
        data = zlib.compress(changed[0])
        body = first + struct.pack("<2Q", len(changed[0]), len(data)) + data
        text = body + bytes(changed[1]).rstrip(b"\0")
        text += bytes(-len(text) % 1024)
        try:
            manifest, root = decode(text, HEADER, DEFAULT_LIMITS)
        except (MalformedFileError, LimitExceededError):
            continue
        accepted += 1
        again = parts_of(encode(manifest, root))
        assert again[:2] == (first, bytes(changed[0]))
        assert again[2].rstrip(b"\0") == bytes(changed[1]).rstrip(b"\0")
    assert accepted > 1000


def test_a_manifest_that_is_cut_is_malformed():
    """Everywhere, and with other bytes at its end."""
    for length in range(len(TEXT)):
        with pytest.raises(MalformedFileError):
            decode(TEXT[:length], HEADER, DEFAULT_LIMITS)
    for text in (TEXT + bytes(1024), TEXT + b"x", TEXT[:-1] + b"x"):
        with pytest.raises(MalformedFileError):
            decode(text, HEADER, DEFAULT_LIMITS)


def text_with(*fields: bytes, pools: int = 1) -> bytes:
    """Return a manifest's encoding with one pool of these fields."""
    described, _, leaves = (*b"".join(fields).partition(LEAVES), b"")[:3]
    return packed(struct.pack("<I", pools) + described, leaves)


LEAVES = b"<here the leaves begin>"


def packed(described: bytes, rest: bytes = b"", size: int | None = None) -> bytes:
    """Return a manifest's encoding of some pools, compressed as they are."""
    data = zlib.compress(described)
    size = len(described) if size is None else size
    body = bytes(64) + struct.pack("<2Q", size, len(data)) + data + rest
    return body + bytes(-len(body) % 1024)


U32 = struct.Struct("<I").pack
U64 = struct.Struct("<Q").pack
F32 = U32(7) + b"float32" + U32(4)


def tensors(*given: tuple[bytes, tuple[int, ...]]) -> bytes:
    """Return the encoding of one order."""
    return U32(len(given)) + b"".join(
        U32(len(name)) + name + U32(len(shape)) + b"".join(map(U64, shape))
        for name, shape in given
    )


HOSTILE = {
    "pools": (text_with(pools=(1 << 32) - 1), MalformedFileError),
    "257_pools": (text_with(bytes(257 * 18), pools=257), MalformedFileError),
    "dtype": (text_with(U32(65) + b"x" * 65), MalformedFileError),
    "dtype_text": (text_with(U32(1) + b"\xff" + U32(4) + bytes(9)), MalformedFileError),
    "itemsize": (text_with(U32(1) + b"x" + U32(65) + bytes(9)), MalformedFileError),
    "count": (text_with(F32, U32(1 << 31)), MalformedFileError),
    "name": (text_with(F32, U32(1), U32(65537), bytes(8)), LimitExceededError),
    "name_cut": (text_with(F32, U32(1), U32(65536), bytes(8)), MalformedFileError),
    "utf8": (text_with(F32, tensors((b"\xff", ()))), MalformedFileError),
    "surrogate": (text_with(F32, tensors((b"\xed\xa0\x80", ()))), MalformedFileError),
    "axes": (text_with(F32, tensors((b"a", (1,) * 65))), LimitExceededError),
    "axes_cut": (text_with(F32, U32(1), U32(0), U32(64)), MalformedFileError),
    "large": (text_with(F32, tensors((b"a", (1 << 62, 4)))), MalformedFileError),
    "huge": (text_with(F32, tensors((b"a", (2**64 - 1,) * 64))), MalformedFileError),
    "axis": (
        text_with(F32, tensors((b"a", (1 << 63, 0))), tensors()),
        MalformedFileError,
    ),
    "two_lengths": (
        text_with(F32, tensors((b"a", (2,))), tensors((b"a", (3,)))),
        MalformedFileError,
    ),
    "leaves": (
        text_with(F32, tensors((b"a", (1 << 40,))), tensors((b"a", (1 << 40,)))),
        MalformedFileError,
    ),
    "yes_or_no": (
        text_with(F32, tensors(), tensors(), LEAVES, b"\2"),
        MalformedFileError,
    ),
    "one_name": (
        text_with(
            F32, tensors((b"a", (0,)), (b"a", (0,))), tensors(), LEAVES, bytes(9)
        ),
        MalformedFileError,
    ),
    "data": (
        text_with(F32, tensors(), tensors(), LEAVES, b"\0", b"\xff" * 8),
        MalformedFileError,
    ),
    "size": (
        text_with(F32, tensors((b"a", (1,))), tensors((b"a", (1,))), LEAVES, bytes(99)),
        MalformedFileError,
    ),
    "after": (packed(U32(0) + b"x", bytes(8)), MalformedFileError),
    "bomb": (packed(bytes(1 << 20), size=99), MalformedFileError),
    "large_bomb": (packed(bytes(1 << 20), size=1 << 40), LimitExceededError),
    "zlib": (bytes(64) + U64(4) + U64(4) + bytes(944), MalformedFileError),
    "zlib_cut": (packed(U32(0), size=5), MalformedFileError),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_manifest_is_bounded(kind):
    """No key holder's machine can make another's run out of memory."""
    text, error = HOSTILE[kind]
    with pytest.raises(error) as caught:
        decode(text, HEADER, DEFAULT_LIMITS)
    assert type(caught.value) is error


def test_tensors_are_bounded_over_all_pools():
    """Both sides: those of one order of all pools together."""
    decode(TEXT, HEADER, Limits(max_tensors=4))
    for allowed in (3, 2, 1):
        with pytest.raises(LimitExceededError) as caught:
            decode(TEXT, HEADER, Limits(max_tensors=allowed))
        assert caught.value.limit == "max_tensors"
    decode(TEXT, HEADER, Limits(max_key_bytes=9, max_dimensions=2))
    with pytest.raises(LimitExceededError):
        decode(TEXT, HEADER, Limits(max_key_bytes=8))
    with pytest.raises(LimitExceededError):
        decode(TEXT, HEADER, Limits(max_dimensions=1))


@pytest.mark.parametrize(
    "changes",
    [
        {"file_id": b"short"},
        {"frame": b""},
        {"epoch": -1},
        {"epoch": 1 << 63},
        {"expires": 0},
        {"expires": 1 << 63},
        {"leaves": MANIFEST.leaves[:1]},
        {"leaves": (((), None), MANIFEST.leaves[1])},
        {"leaves": (((b"x",), None), MANIFEST.leaves[1])},
        {"leaves": ((MANIFEST.leaves[0][0], ()), MANIFEST.leaves[1])},
        {"leaves": ((None, MANIFEST.leaves[0][1]), MANIFEST.leaves[1])},
        {"confidential": True},
        {"confidential": True, "leaves": ((None, None), (None, None))},
        {"confidential": True, "leaves": ((None, ()), MANIFEST.leaves[1])},
        {"pools": MANIFEST.pools[:1] * 2},
        {"pools": MANIFEST.pools * 129, "leaves": MANIFEST.leaves * 129},
        {
            "pools": (pool_of("int8", 1, [("\ud800", ())], [("t", ())]),),
            "leaves": (((bytes(32),), None),),
        },
    ],
)
def test_a_manifest_that_cannot_be_is_not_made(changes):
    """A caller's mistake, before anything is sealed."""
    with pytest.raises(ValueError):
        Manifest(**(vars(MANIFEST) | changes))


@pytest.mark.parametrize("whole", [True, False], ids=["library", "older library"])
@pytest.mark.parametrize("data", [PLAIN_SEAL, SIGNED_SEAL], ids=["plain", "signed"])
def test_a_seal_is_opened_in_its_place(data, whole, monkeypatch):
    """To the same manifest, which is then where the seal was; a change is noticed."""
    if not whole:

        class Older:
            def __init__(self, key):
                self._cipher = ChaCha20Poly1305(key)

            def encrypt(self, *args):
                return self._cipher.encrypt(*args)

            def decrypt(self, *args):
                return self._cipher.decrypt(*args)

        monkeypatch.setattr(
            sealing, "_cipher_of", lambda *args: Older(sealing._keys_of(*args)[0])
        )
    room = bytearray(data)
    assert open_sealed(memoryview(room), KEY, in_place=True) == MANIFEST
    # The manifest begins with its root, and the tag of the frame.
    assert (room[252:284] == MANIFEST.frame) is whole
    for place in (100, HEADER_BYTES + 3, len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(VerificationError):
            open_sealed(memoryview(changed), KEY, in_place=True)
    made = seal(MANIFEST, KEY, signer=SIGNER, public_root=public_root())
    assert verify_signature(made, PUBLIC).epoch == 3
    assert open_sealed(made, KEY) == MANIFEST


def test_many_tensors_and_a_large_file_take_little():
    """A root, names and leaves of 20,000 tensors: a few hundred bytes each at most."""
    shapes = [(f"layer.{index}.weight", (64,)) for index in range(20_000)]
    pool = pool_of("float32", 4, shapes, [(f"t{i}", (64,)) for i in range(20_000)])

    data = seal(manifest_of((pool,)), KEY)

    assert open_sealed(data, KEY).pools == (pool,)
    assert len(data) < 80 * 20_000


def test_an_old_seal_still_opens(monkeypatch):
    """The format does not change unnoticed: read, and written with the same bytes."""
    old = base64.b64decode(OLD.read_text(encoding="ascii"))

    assert open_sealed(old, KEY) == MANIFEST
    assert verify_signature(old, PUBLIC).epoch == 3
    monkeypatch.setattr(sealing.secrets, "token_bytes", lambda _: b"noise" * 6 + b"!!")
    again = seal(MANIFEST, KEY, signer=SIGNER, public_root=public_root())
    assert open_sealed(again, KEY) == MANIFEST
    # Other builds of zlib compress in other ways.
    assert again == old or text_by_hand(again) != text_by_hand(old)
    assert (
        sha256(old).hexdigest()
        == "2704d0962a6c11a6ece3e01649c5acf0636e403a565c9321177965697bcaf6e9"
    )


def test_the_salt_is_as_described():
    """The random bytes and what is sealed, under the key."""
    header = read_header(base64.b64decode(OLD.read_text(encoding="ascii")))
    before = Header(**(vars(header) | {"salt": bytes(32), "commitment": bytes(32)}))
    text = text_by_hand(base64.b64decode(OLD.read_text(encoding="ascii")))
    said = blake3(before.encoded() + text).digest()

    noise = b"noise" * 6 + b"!!"
    bound = b"safemodel salt\0" + said
    assert header.salt == HKDF(SHA256(), 32, noise, bound).derive(SECRET)


@pytest.mark.parametrize("place", [20, 100, 200, HEADER_BYTES + 5, -1])
def test_no_error_holds_a_key(place):
    """Nor one derived from it, in any frame of ours that it passed."""
    data = bytearray(SIGNED_SEAL)
    data[place] ^= 1
    header = read_header(SIGNED_SEAL)
    derived = KEY._derive("seal", 64, salt=header.salt, info=header.bound())

    with pytest.raises(SafeModelError) as caught:
        open_sealed(bytes(data), KEY)

    text = text_of(caught.value)
    assert not holds_secret(text)
    assert not holds_secret(text, derived[:32])


@pytest.mark.parametrize("verb", ["encrypt", "decrypt"])
def test_no_error_for_want_of_memory_holds_a_key(monkeypatch, verb):
    """A seal may have a hundred megabytes, and a container too little for it."""
    keys: list[bytes] = []

    class Full:
        def __init__(self, key: bytes) -> None:
            keys.append(key)

        def encrypt(self, *_: object) -> bytes:
            raise MemoryError

        decrypt = encrypt

    monkeypatch.setattr(
        "cryptography.hazmat.primitives.ciphers.aead.ChaCha20Poly1305", Full
    )
    with pytest.raises(MemoryError) as caught:
        seal(MANIFEST, KEY) if verb == "encrypt" else open_sealed(SIGNED_SEAL, KEY)

    (derived,) = keys
    text = text_of(caught.value)
    assert f"in _{verb}ed" in text
    assert not holds_secret(text)
    assert not holds_secret(text, derived)

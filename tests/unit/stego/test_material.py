"""Payloads: what they are made of, and that they are the same each time."""

import os
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from safemodel.evaluation.stego import payload

KEY = bytes(range(32))


def test_a_program_is_the_first_bytes_of_the_interpreter():
    """And then of compiled modules: as much as a large network holds."""
    head = payload("program", 1000)
    assert head == Path(sys.executable).read_bytes()[:1000]
    assert payload("program", 20_000_000)[:1000] == head


def test_a_script_is_text():
    """Of the standard library, in the order of its names."""
    text = payload("script", 100_000)
    assert b"import" in text
    first = min(Path(os.__file__).parent.glob("*.py"))
    assert text.startswith(first.read_bytes()[:1000])


def test_a_path_is_read_no_further_than_needed(tmp_path):
    """Its first bytes, and an error where there are too few."""
    path = tmp_path / "program"
    path.write_bytes(b"0123456789" * 1000)
    for kind in ("program", "script"):
        assert payload(kind, 15, path=path) == b"012345678901234"
        assert len(payload(kind, 10_000, path=path)) == 10_000
        with pytest.raises(ValueError, match="only 10000 bytes"):
            payload(kind, 10_001, path=path)
    with pytest.raises(ValueError, match="only"):
        payload("zlib", 1000, path=path)
    with pytest.raises(OSError):
        payload("program", 1, path=tmp_path / "missing")


def test_compressed_is_the_start_of_a_stream_of_zlib(tmp_path):
    """It inflates to the program."""
    packed = payload("zlib", 5000)
    opened = zlib.decompressobj().decompress(packed)
    assert payload("program", len(opened)) == opened


def test_encrypted_is_aes_in_counter_mode(tmp_path):
    """Of the program, under the key given; random bytes are that of zeros."""
    hidden = payload("encrypted", 5000, key=KEY)
    cipher = Cipher(algorithms.AES(KEY), modes.CTR(bytes(16)))
    assert cipher.decryptor().update(hidden) == payload("program", 5000)
    noise = payload("random", 5000, key=KEY)
    assert cipher.decryptor().update(noise) == bytes(5000)
    assert payload("random", 5000, key=KEY[::-1]) != noise
    # The vector of AES-256 for a key of zeros and a counter of zeros.
    zeros = payload("random", 16, key=bytes(32))
    assert zeros.hex() == "dc95c078a2408989ad48a21492842087"


def test_what_each_kind_is_like():
    """Programs have too few ones; encrypted, as many as zeros."""
    ones = {
        kind: np.unpackbits(np.frombuffer(made, np.uint8)).mean()
        for kind, made in {
            "program": payload("program", 1_000_000),
            "script": payload("script", 1_000_000),
            "encrypted": payload("encrypted", 1_000_000, key=KEY),
        }.items()
    }
    assert ones["program"] < 0.45
    assert ones["script"] < 0.49
    assert abs(ones["encrypted"] - 0.5) < 5 * 0.5 / np.sqrt(8_000_000)


@pytest.mark.parametrize("kind", ["program", "script", "zlib", "encrypted", "random"])
def test_the_same_arguments_give_the_same_bytes(kind):
    """And a longer payload begins with a shorter one."""
    key = KEY if kind in ("encrypted", "random") else None
    made = payload(kind, 3000, key=key)
    assert len(made) == 3000
    assert payload(kind, 3000, key=key) == made
    assert payload(kind, 100, key=key) == made[:100]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"kind": "malware"}, ValueError),
        ({"size": 0}, ValueError),
        ({"size": 1.0}, TypeError),
        ({"key": KEY}, ValueError),
        ({"kind": "encrypted"}, ValueError),
        ({"kind": "encrypted", "key": b"short"}, ValueError),
        ({"kind": "encrypted", "key": "0" * 32}, ValueError),
        ({"kind": "random", "key": KEY, "path": "x"}, ValueError),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense(arguments, error):
    """Each one alone is an error."""
    with pytest.raises(error):
        payload(**{"kind": "program", "size": 10, **arguments})

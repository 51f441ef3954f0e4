"""A short run of the tampering loop, and faults that it has to notice.

``python -m tests.fuzz.protected`` is the long one.
"""

from __future__ import annotations

import base64
import os
import random
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from safemodel import VerificationError, verify
from safemodel._protect import (
    cipher,
    folder_opening,
    frames,
    layout,
    leaves,
    opening,
    seal,
    state,
    verifying,
)
from tests.fuzz import protected, protected_folders, tamper
from tests.fuzz.protected_files import KEY, KINDS, SECRET, build_protected, seed_of
from tests.fuzz.run import fuzz

COUNT = 300
BIG = 1 << 20


@pytest.fixture(scope="module")
def seeds():
    """Return the files that are tampered with."""
    return build_protected(all_big=False)


@pytest.fixture
def folder(tmp_path, seeds):
    """Return a folder for what verbs write, and a state that has seen every file."""
    for seed in seeds:
        verify(seed.content, key=KEY, state=tmp_path / "state")
    return tmp_path


def test_every_change_is_refused(rand, seeds):
    """300 mutants: by every verb, in one way, saying nothing and leaving nothing."""
    target = protected.Target(
        lambda: seeds, protected.PROTECTED.content, protected.attempt,
        protected.MEMORY_BYTES,
    )  # fmt: skip
    assert not fuzz(COUNT, rand.randrange(1 << 32), 2, target=target, batch_size=75)


def test_a_mutant_is_never_the_file_itself(seeds):
    """Nor is it made in one way only; two numbers name it."""
    found = [tamper.tampered(seeds, 5, index) for index in range(300)]

    assert all(one.content != one.seed.content for one in found)
    assert len({one.way for one in found}) > 40
    again = [tamper.tampered(seeds, 5, index).content for index in range(20)]
    assert again == [one.content for one in found[:20]]


@pytest.mark.parametrize("way", tamper.WAYS, ids=lambda way: way.__name__)
def test_every_way_changes_something(way, seeds):
    """It applies to a file there is, and the file is another one then."""
    rand = random.Random(0)  # noqa: S311 - repeatable, not secret
    chosen = seeds[-2:] if way is tamper.swap_chunks else seeds[:8]
    made = [(way(rand, seed), seed.content) for seed in chosen for _ in range(3)]
    assert any(new is not None and new != old for new, old in made)
    assert way.__doc__


def test_the_loop_accepts_what_is_whole(seeds, folder):
    """It calls what was not changed no success: the check can tell the two."""
    for seed in seeds:
        whole = tamper.Tampered("none", seed, seed.content, by_state=True)
        found = protected.try_tampered(whole, folder, random.Random(1))  # noqa: S311 - repeatable, not secret
        assert found == f"none, {seed.name}, verify: accepted"


def test_files_to_tamper_with_have_relatives(seeds):
    """Of every kind and mode, small, and of more than two chunks."""
    names = {seed.name for seed in seeds}
    assert len(names) == len(seeds) == 10
    for seed in seeds:
        assert seed.kind in KINDS
        others = set(seed.relatives.values())
        assert len(others) >= 10
        assert seed.content not in others
        again = seed_of("again", seed.kind, seed.relatives["again"])
        assert again.spans != seed.spans


@pytest.mark.parametrize("confidential", [False, True])
def test_every_change_of_a_folder_is_refused(rand, tmp_path, confidential):
    """40 mutants of a folder with two shards, an index and a file beside them."""
    folder = protected_folders.build_folder(confidential=confidential)
    number = rand.randrange(1 << 32)
    for index in range(40):
        way, files = protected_folders.tampered_folder(folder, number, index)
        found = protected_folders.try_folder(way, files, folder, tmp_path)
        assert not found, (number, index)


def test_the_loop_notices_a_fault_of_folders(tmp_path, monkeypatch):
    """Shards that are not compared with the folder's seal; files nobody counts."""
    folder = protected_folders.build_folder(confidential=False)
    whole = protected_folders.try_folder("none", folder.files, folder, tmp_path)
    assert whole == "none, verify: accepted"
    older = folder.relatives["again"]
    mixed = {**folder.files, "model-1.safetensors": older["model-1.safetensors"]}
    assert not protected_folders.try_folder("mixed", mixed, folder, tmp_path)
    monkeypatch.setattr(folder_opening, "is_shard", lambda *_: True)
    assert "accepted" in protected_folders.try_folder("mixed", mixed, folder, tmp_path)


def _no_frame(monkeypatch):
    monkeypatch.setattr(opening.Opened, "frame_holds", lambda _: True)


def _no_size(monkeypatch):
    monkeypatch.setattr(opening.Opened, "check_size", lambda _: None)


def _no_leaves(monkeypatch):
    monkeypatch.setattr(opening.Opened, "differences", lambda *_: ())


def _first_leaf_only(monkeypatch):
    real = leaves.PoolTagger.differences

    def differences(self, number, expected, found):
        return real(self, number, expected, [*found[:1], *expected[1:]])

    monkeypatch.setattr(leaves.PoolTagger, "differences", differences)


def _no_epoch(monkeypatch):
    monkeypatch.setattr(opening, "check_fresh", lambda *_, **__: None)


def _no_state(monkeypatch):
    monkeypatch.setattr(state.EpochState, "check", lambda *_: None)
    monkeypatch.setattr(state.EpochState, "record", lambda *_: None)


def _no_cipher_tag(monkeypatch):
    def decrypted(data, header, key, **_):
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

        cipher_key, _ = seal._keys_of(header, key)
        nonce = (1).to_bytes(4, "little") + bytes(12)
        start, end = 220, 220 + header.sealed_bytes - 16
        reader = Cipher(algorithms.ChaCha20(cipher_key, nonce), mode=None).decryptor()
        return reader.update(bytes(data[start:end]))

    monkeypatch.setattr(seal, "_decrypted", decrypted)


def _no_signature(monkeypatch):
    monkeypatch.setattr(seal, "_signature_holds", lambda *_: True)


def _any_signer(monkeypatch):
    monkeypatch.setattr(
        verifying,
        "verify_signature",
        lambda data, _, limits: seal.read_header(data, limits),
    )


def _any_base64(monkeypatch):
    lenient = SimpleNamespace(
        b64decode=lambda text, validate: base64.b64decode(text),  # noqa: ARG005 - as it is called
        b64encode=lambda _: Anything(),
    )
    monkeypatch.setattr(frames, "base64", lenient)


class Anything(bytes):
    """Equal to everything."""

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    __hash__ = None


def _no_record_checksum(monkeypatch):
    always = SimpleNamespace(crc32=lambda *_: frames._CRC)
    monkeypatch.setattr(frames, "zlib", always)


def _key_in_error(monkeypatch):
    monkeypatch.setattr(
        opening, "change_error", lambda _: VerificationError(f"{SECRET.hex()}")
    )


def _sub_key_in_error(monkeypatch):
    def apply(self, at, view):
        raise VerificationError(repr(self._key))

    monkeypatch.setattr(cipher.PoolCipher, "apply", apply)


def _names_in_locals(monkeypatch):
    monkeypatch.setattr(
        layout.Pool, "__repr__", lambda self: f"{self.plain}", raising=True
    )


def _text_in_error(monkeypatch):
    real = opening.change_error

    def error(found):
        real(found)
        return VerificationError(protected.NOTE)

    monkeypatch.setattr(opening, "change_error", error)


def _left_behind(monkeypatch):
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    # A file that never had a name cannot be left.
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)


def _foreign_error(monkeypatch):
    def find(*_):
        raise KeyError("seal")

    monkeypatch.setattr(opening, "find_seal", find)


def _one_verb_differs(monkeypatch):
    real = opening.Opened.damage

    def damage(self, stored, plain):
        error = real(self, stored, plain)
        return VerificationError(f"{error.reason} {id(self)}")

    monkeypatch.setattr(opening.Opened, "damage", damage)


@pytest.mark.parametrize(
    ("fault", "way", "seen"),
    [
        (_no_frame, tamper.flip_in_frame, "accepted"),
        (_no_frame, tamper.zip_checksum, "accepted"),
        (_no_frame, tamper.header_value, "accepted"),
        (_no_frame, tamper.zip_pickle, "accepted"),
        (_no_size, tamper.extend, "accepted"),
        (_no_leaves, tamper.flip_in_tensor, "accepted"),
        (_no_leaves, tamper.swap_in_pool, "accepted"),
        (_no_leaves, tamper.swap_between_pools, "accepted"),
        (_no_leaves, tamper.piece_of_relative, "accepted"),
        (_first_leaf_only, tamper.flip_in_tensor, "accepted"),
        (_no_epoch, tamper.replay, "accepted"),
        (_no_state, tamper.replay, "accepted"),
        (_no_cipher_tag, tamper.sealed_text_changed, "accepted|shows a name"),
        (_no_signature, tamper.signature_changed, "accepted"),
        (_any_signer, tamper.signed_by_another, "accepted"),
        (_any_base64, tamper.text_of_seal, "accepted"),
        (_no_record_checksum, tamper.flip_behind_seal, "accepted"),
        (_key_in_error, tamper.flip_in_tensor, "shows a key"),
        (_sub_key_in_error, tamper.flip_in_tensor, "shows a key"),
        (_names_in_locals, tamper.flip_in_tensor, "shows a name"),
        (_text_in_error, tamper.flip_in_tensor, "shows plain data"),
        (_left_behind, tamper.flip_in_tensor, "left"),
        (_foreign_error, tamper.flip_anywhere, "KeyError"),
        (_one_verb_differs, tamper.flip_in_tensor, "two answers"),
    ],
)
def test_the_loop_notices_a_fault(fault, way, seen, seeds, folder, monkeypatch):
    """A verifier that leaves out one of its checks, or says too much, is found out."""
    big = fault is _first_leaf_only
    chosen = [seed for seed in seeds if (len(seed.content) > BIG) == big]
    with monkeypatch.context() as patched:
        fault(patched)
        found = _first_finding(way, chosen, folder)
    assert re.search(seen, found)


def _first_finding(way, seeds, folder):
    """Return what the loop says of the first mutant that it complains of."""
    for index in range(40):
        one = tamper.tampered(seeds, 11, index, (way,))
        how = random.Random(index)  # noqa: S311 - repeatable, not secret
        found = protected.try_tampered(one, folder, how)
        if found:
            return found
    return ""

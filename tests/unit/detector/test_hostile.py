"""Every file of the attacks table goes through `detect`, and nothing happens."""

import math
import struct

import numpy as np
import torch

from safemodel import SafeModelError, detect
from safemodel._detector.pairing import paired
from safemodel._detector.weights import Held
from safemodel.detection import Candidate, extract
from tests.vectors.test_vectors import LIGHT


def test_a_vector_runs_nothing_and_is_looked_at_or_refused(canary):
    """Its payload never runs; what is wrong with it is one of our errors."""
    seen = set()
    for vector in LIGHT:
        try:
            found = detect(vector.assemble())
        except SafeModelError as error:
            seen.add(type(error).__name__)
        else:
            seen.add(found.verdict.value)
            assert math.isfinite(found.score), vector.name
        assert not canary.trips, vector.name
    assert {"no evidence", "MalformedFileError", "LimitExceededError"} <= seen


def test_a_head_that_claims_any_length_costs_what_there_is():
    """An ELF of a terabyte, in a tensor of a few numbers."""
    head = bytearray(64)
    head[:7] = b"\x7fELF\x02\x01\x01"
    struct.pack_into("<HHI", head, 16, 2, 62, 1)
    struct.pack_into("<Q", head, 40, 1 << 39)
    words = np.zeros(5_000, np.uint32)
    words[:64] = np.frombuffer(bytes(head), np.uint8)
    random = np.random.default_rng(1)
    words |= random.integers(0x3C000000, 0x3D000000, 5_000).astype(
        np.uint32
    ) & np.uint32(0xFFFFFF00)
    weights = {"w": torch.from_numpy(words.view(np.float32))}
    (candidate, *_) = detect(weights).candidates
    assert candidate.length >= 1 << 39
    assert len(extract(weights, candidate)) == 5_000


def test_names_that_all_end_alike_are_paired_in_no_time():
    """A prefix in front of ten thousand names: each is looked up, none is compared."""
    names = [f"a.{at}.weight" for at in range(10_000)]
    count = 0

    class Name(str):
        __slots__ = ()

        def endswith(self, *args):
            nonlocal count
            count += 1
            return super().endswith(*args)

    def held(name):
        return Held(Name(name), "float32", 4, "weight", (4,), 4, lambda: [bytes(16)])

    pairs, missing = paired(
        map(held, names), [held(f"module.{name}") for name in names]
    )
    assert {name: one.name for name, one in pairs.items()} == {
        name: f"module.{name}" for name in names
    }
    assert missing == ()
    assert count == 0


def test_a_candidate_that_is_made_up_reads_no_more_than_there_is():
    """Whoever writes a report can write any place into it."""
    weights = {"w": torch.ones(100)}
    made = Candidate(
        kind="ELF", tensor="w", start=99, skip=500, bits=8, order="low-first",
        length=1 << 60, entropy=0.0, compressed=0.0,
    )  # fmt: skip
    assert extract(weights, made) == b""

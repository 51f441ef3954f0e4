"""Detections full of hostile names, and of thousands of tensors."""

import numpy as np
import torch

from safemodel import detect
from safemodel._detector.evidence import Candidate, Evidence
from safemodel._detector.opening import any_opened
from safemodel._detector.results import (
    BlindSpot,
    Change,
    Detection,
    Remedy,
    Room,
    TensorDetection,
    Verdict,
)
from tests.unit.detector.helpers_detector import trained
from tests.unit.disarm.helpers_report import HOSTILE


def mapping(names=HOSTILE, size=900):
    """Return tensors of such names, with nothing in them."""
    random = np.random.default_rng(11)
    return {name: torch.from_numpy(trained(random, size)) for name in names}


def looked_at(weights):
    """Return a detection of a mapping, of which the first tensor only was examined."""
    name, first = next(iter(weights.items()))
    found = detect({name: first})
    with any_opened(weights) as source:
        tensors = tuple(
            TensorDetection(
                name=one.name, dtype=one.dtype, role=one.role, size=one.size,
                score=0.0, p_value=1.0, bits=0, suspicious=False,
            )
            for one in source.tensors
        )  # fmt: skip
    return Detection(**{**vars(found), "by_tensor": tensors})


def suspicious(weights, **members):
    """Return a detection that has something against every tensor of a mapping."""
    clean = looked_at(weights)
    tensors = tuple(
        TensorDetection(**{**vars(one), "p_value": 1e-9, "score": 0.9, "bits": 3,
                           "suspicious": True})
        for one in clean.by_tensor
    )  # fmt: skip
    evidence = tuple(
        Evidence(test="bits", what="something", tensor=one.name, start=300, end=600,
                 statistic=12.5, effect=0.1, bits=3, p_value=1e-9)
        for one in tensors
    )  # fmt: skip
    usual = {
        "verdict": Verdict.SUSPICIOUS, "score": 0.9, "bits": 3,
        "by_tensor": tensors, "evidence": evidence,
    }  # fmt: skip
    return Detection(**{**vars(clean), **usual, **members})


def hostile(names=HOSTILE):
    """Return a mapping, and a detection with the names in each text it has."""
    weights = mapping(names)
    found = suspicious(weights)
    tensors = [one.name for one in found.by_tensor]
    evidence = tuple(
        Evidence(**{**vars(one), "test": name, "what": name})
        for one, name in zip(found.evidence, names, strict=True)
    )
    candidates = tuple(
        Candidate(kind=name, tensor=tensor, start=301, skip=0, bits=3,
                  order="high-first", length=0, entropy=7.0, compressed=1.0)
        for name, tensor in zip(names, tensors, strict=True)
    )  # fmt: skip
    rooms = tuple(
        Room(dtype=name, kind="weights", numbers=9, bits=2, partly=2, share=1.0,
             bytes=2, scrubbed=2)
        for name in names
    )  # fmt: skip
    remedies = tuple(
        Remedy(bits=2, call=name, command=name, left=0, change={name: 0.5})
        for name in names
    )
    members = {
        "path": names[0], "format": names[1], "detector_id": names[2],
        "version": names[3], "reference": names[4], "evidence": evidence,
        "candidates": candidates,
        "changes": (Change(name=tensors[0], reference="x", state=names[5], size=900),),
        "blind_spot": BlindSpot(bits={}, bytes=9, rooms=rooms, remedies=remedies,
                                left=3),
    }  # fmt: skip
    return weights, Detection(**{**vars(found), **members})

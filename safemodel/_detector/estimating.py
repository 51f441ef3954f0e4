"""How many low bits of each weight were replaced, by what the evidence says."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from safemodel._detector.evidence import Evidence


def replaced_bits(evidence: Iterable[Evidence]) -> int:
    """Return the number that the strongest evidence which has one gives; else 0."""
    known = [one for one in evidence if one.bits]
    return min(known, key=lambda one: one.p_value).bits if known else 0

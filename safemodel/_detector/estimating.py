"""How many low bits of each weight were replaced, by what the evidence says.

A reference counts them, and a file that is recognised is read with them; of all other
tests the strongest says which number fits best.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from safemodel._detector.evidence import Evidence

_EXACT = {"reference": 0, "signature": 1}


def replaced_bits(evidence: Iterable[Evidence]) -> int:
    """Return the number that the most exact evidence which has one gives; else 0."""
    known = [one for one in evidence if one.bits]
    if not known:
        return 0
    # Of every second byte of a text, one sees that it is text as well.
    best = min(known, key=lambda o: (_EXACT.get(o.test, 2), o.p_value, -o.bits))
    return best.bits

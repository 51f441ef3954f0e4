"""A laboratory that hides payloads in weights, to measure detectors and defences.

The methods are the published ones, bit for bit where bits are published; docs/stego.md
says which, and what is not known of them. Payloads are ordinary programs of this
machine, in the forms an attacker would give them: there is no malware here, and what
is hidden is never run.
"""

from safemodel.evaluation.stego._files import hide
from safemodel.evaluation.stego._hiding import (
    Embedding,
    Span,
    capacity,
    embed,
    extract,
    listen,
    recovery,
)
from safemodel.evaluation.stego._material import payload
from safemodel.evaluation.stego._methods import (
    ByteSubstitution,
    Lsb,
    Method,
    SpreadSpectrum,
)
from safemodel.evaluation.stego._spread import Signal

__all__ = [
    "ByteSubstitution",
    "Embedding",
    "Lsb",
    "Method",
    "Signal",
    "Span",
    "SpreadSpectrum",
    "capacity",
    "embed",
    "extract",
    "hide",
    "listen",
    "payload",
    "recovery",
]

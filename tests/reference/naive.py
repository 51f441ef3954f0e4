"""Every kernel once more, one Python integer at a time, from the definition.

A float format is described here by its own fields, not by the masks kernels take.
"""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Format:
    """A floating-point format.

    Attributes:
        exponent_bits: Width of the exponent.
        mantissa_bits: Width of the mantissa.
        nans: "ieee": an exponent of ones is NaN or infinity; "ones": only a word of
            ones but for the sign is NaN; "minus zero": only minus zero is NaN.
    """

    exponent_bits: int
    mantissa_bits: int
    nans: str = "ieee"

    def fields(self, word: int) -> tuple[int, int, int]:
        """Return sign, exponent and mantissa."""
        mantissa = word % 2**self.mantissa_bits
        rest = word // 2**self.mantissa_bits
        return (
            rest // 2**self.exponent_bits,
            rest % 2**self.exponent_bits,
            mantissa,
        )

    def word(self, sign: int, exponent: int, mantissa: int) -> int:
        """Return the word of three fields."""
        head = sign * 2**self.exponent_bits + exponent
        return head * 2**self.mantissa_bits + mantissa

    def special(self, word: int) -> bool:
        """Return whether a word is NaN or an infinity."""
        sign, exponent, mantissa = self.fields(word)
        largest = 2**self.exponent_bits - 1
        if self.nans == "ieee":
            return exponent == largest
        if self.nans == "ones":
            return exponent == largest and mantissa == 2**self.mantissa_bits - 1
        return (sign, exponent, mantissa) == (1, 0, 0)

    def value(self, word: int) -> Fraction:
        """Return what a word that is not special stands for, but for a power of two."""
        sign, exponent, mantissa = self.fields(word)
        significand = Fraction(mantissa, 2**self.mantissa_bits) + (exponent > 0)
        return (-1) ** sign * significand * Fraction(2) ** max(exponent, 1)


FORMATS = {
    "float64": Format(11, 52),
    "float32": Format(8, 23),
    "float16": Format(5, 10),
    "bfloat16": Format(8, 7),
    "float8_e5m2": Format(5, 2),
    "float8_e4m3fn": Format(4, 3, "ones"),
    "float8_e5m2fnuz": Format(5, 2, "minus zero"),
    "float8_e4m3fnuz": Format(4, 3, "minus zero"),
}


def replace(word: int, noise: int, bits: int, form: Format) -> int:
    """Return a word with low mantissa bits from noise; zeros where the exponent is."""
    sign, exponent, mantissa = form.fields(word)
    low = noise % 2**bits if exponent else 0
    return _guarded(word, (sign, exponent, mantissa - mantissa % 2**bits + low), form)


def clear(word: int, bits: int, form: Format) -> int:
    """Return a word with zeros for low mantissa bits."""
    sign, exponent, mantissa = form.fields(word)
    return _guarded(word, (sign, exponent, mantissa - mantissa % 2**bits), form)


def round_even(word: int, bits: int, form: Format) -> int:
    """Return the nearest word with zeros for low mantissa bits, within its exponent."""
    sign, exponent, mantissa = form.fields(word)
    # Python rounds halves of fractions to even.
    steps = round(Fraction(mantissa, 2**bits))
    largest = 2 ** (form.mantissa_bits - bits) - 1
    return _guarded(word, (sign, exponent, min(steps, largest) * 2**bits), form)


def _guarded(word: int, fields: tuple[int, int, int], form: Format) -> int:
    """Return the new word; special words stay, and no other becomes one."""
    if form.special(word):
        return word
    new = form.word(*fields)
    if not form.special(new):
        return new
    sign, exponent, mantissa = fields
    return form.word(sign, exponent, mantissa + (1 if mantissa % 2 == 0 else -1))

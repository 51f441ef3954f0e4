"""Letters of five by seven pixels, for pictures that are made without a font.

Each letter is seven rows, from top to bottom, as a digit to the base of 32.
"""

from __future__ import annotations

WIDTH, HEIGHT = 5, 7
ADVANCE = 6
"""Pixels from one letter to the next."""

_ROWS = {
    "A": "ehhvhhh", "B": "uhhuhhu", "C": "ehggghe", "D": "uhhhhhu", "E": "vgguggv",
    "F": "vgguggg", "G": "ehgnhhe", "H": "hhhvhhh", "I": "e44444e", "J": "72222ic",
    "K": "hikokih", "L": "ggggggv", "M": "hrllhhh", "N": "hhpljhh", "O": "ehhhhhe",
    "P": "uhhuggg", "Q": "ehhhlid", "R": "uhhukih", "S": "fgge11u", "T": "v444444",
    "U": "hhhhhhe", "V": "hhhhha4", "W": "hhhllla", "X": "hha4ahh", "Y": "hhha444",
    "Z": "v1248gv", "a": "00e1fhf", "b": "ggmphhu", "c": "00egghe", "d": "11djhhf",
    "e": "00ehvge", "f": "698s888", "g": "0fhhf1e", "h": "ggmphhh", "i": "40c444e",
    "j": "20622ic", "k": "ggikoki", "l": "c44444e", "m": "00qllhh", "n": "00mphhh",
    "o": "00ehhhe", "p": "00uhugg", "q": "00djf11", "r": "00mpggg", "s": "00fge1u",
    "t": "88s8896", "u": "00hhhjd", "v": "00hhha4", "w": "00hhlla", "x": "00ha4ah",
    "y": "00hhf1e", "z": "00v248v", "0": "ehjlphe", "1": "4c4444e", "2": "eh1248v",
    "3": "v2421he", "4": "26aiv22", "5": "vgu11he", "6": "68guhhe", "7": "v124888",
    "8": "ehhehhe", "9": "ehhf12c", ".": "00000cc", ",": "0000c48", ":": "0cc0cc0",
    ";": "0cc0c48", "-": "000v000", "_": "000000v", "/": "01248g0", "\\": "0g84210",
    "(": "2488842", ")": "8422248", "[": "e88888e", "]": "e22222e", "{": "2448442",
    "}": "8442448", "<": "248g842", ">": "8421248", "=": "00v0v00", "+": "044v440",
    "*": "04lel40", "%": "op248j3", "'": "4480000", '"': "aaa0000", "!": "4444004",
    "?": "eh12404", "#": "aavavaa", "@": "eh1dlle", "$": "4fke5u4", "&": "cik8lid",
    "~": "008l200", "|": "4444444", "^": "4ah0000", "`": "8420000", " ": "0000000",
}  # fmt: skip
_UNKNOWN = "vhhhhhv"


def letter(character: str) -> tuple[tuple[bool, ...], ...]:
    """Return which pixels of a letter are set, row by row; a box for what has none.

    >>> ["".join(".#"[one] for one in row) for row in letter("L")][-2:]
    ['#....', '#####']
    """
    rows = _ROWS.get(character, _UNKNOWN)
    return tuple(
        tuple(bool(int(row, 32) >> (WIDTH - 1 - at) & 1) for at in range(WIDTH))
        for row in rows
    )

"""What `detect` found, as one picture: the bits of each tensor, and the evidence.

Rules:

1. Text of a file is drawn pixel by pixel, letters of ASCII only; all else is a box.
2. The picture is bounded: so many rows, so many maps, so many letters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safemodel._report.detect_text import p_text
from safemodel._report.letters import ADVANCE, letter
from safemodel._report.png import png
from safemodel._report.words import count_text, score_text, shown, size_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from safemodel._report.pictured import Mark, Pictured, Pixels

WIDTH = 1104
PAPER, INK, QUIET, RED, LINE = 16, 17, 18, 19, 20
_PALETTE = (
    *((17 * level,) * 3 for level in range(16)),
    (255, 255, 255), (27, 31, 36), (89, 99, 110), (196, 20, 32), (216, 222, 228),
)  # fmt: skip
EDGE = 24
_ROW = 16
_STRIP, _STRIP_WIDTH = 350, 256
_ALONG, _ALONG_WIDTH = 630, 320
_AGAINST = 970
_NAME = 52
_LINE = 150
MAPS = 3
_MAP_WIDTH = WIDTH - 2 * EDGE


class Canvas:
    """Rows of pixels, numbers of colours, of which there are more as they are needed.

    Attributes:
        rows: A byte a pixel.
    """

    def __init__(self) -> None:
        self.rows: list[bytearray] = []

    def fill(self, x: int, y: int, width: int, height: int, colour: int) -> None:
        """Fill a rectangle."""
        width = min(width, WIDTH - x)
        for row in self._down_to(y, height):
            row[x : x + width] = bytes([colour]) * width

    def text(self, x: int, y: int, said: str, colour: int, scale: int = 1) -> None:
        """Write a line (rule 1)."""
        for at, character in enumerate(said):
            left = x + at * ADVANCE * scale
            if left + ADVANCE * scale > WIDTH:
                return
            for down, pixels in enumerate(letter(character)):
                for right, is_set in enumerate(pixels):
                    if is_set:
                        self.fill(
                            left + right * scale, y + down * scale, scale, scale, colour
                        )

    def picture(self, x: int, y: int, pixels: Pixels, width: int, height: int) -> None:
        """Draw levels of gray as large as that; nothing is smoothed."""
        many = len(pixels.levels) // pixels.width
        across = [at * pixels.width // width for at in range(width)]
        for down, row in enumerate(self._down_to(y, height)):
            first = down * many // height * pixels.width
            source = pixels.levels[first : first + pixels.width]
            row[x : x + width] = bytes(source[at] for at in across)

    def png(self) -> bytes:
        """Return it as PNG."""
        return png(b"".join(self.rows), WIDTH, palette=_PALETTE)

    def _down_to(self, y: int, height: int) -> list[bytearray]:
        while len(self.rows) < y + height:
            self.rows.append(bytearray([PAPER]) * WIDTH)
        return self.rows[y : y + height]


def plot(found: Any, pictured: Sequence[Pictured]) -> bytes:
    """Return one picture of what was found, as PNG."""
    canvas = Canvas()
    y = _head(canvas, found)
    y = _tensors(canvas, y, found, pictured)
    maps = [one for one in pictured if one.map is not None]
    maps.sort(key=lambda one: _order(found, one))
    for one in maps[:MAPS]:
        y = _map(canvas, y + 20, found.by_tensor[one.at], one)
    canvas.fill(0, y, WIDTH, EDGE, PAPER)
    return canvas.png()


def _order(found: Any, one: Pictured) -> tuple[bool, float, int, int]:
    tensor = found.by_tensor[one.at]
    return not tensor.suspicious, tensor.p_value, -tensor.size, one.at


def _head(canvas: Canvas, found: Any) -> int:
    """Write what is to be said of the file; return how far down that goes."""
    name = (found.path or "no path").rstrip("/").rpartition("/")[2]
    canvas.text(EDGE, EDGE, shown(name)[:80], INK, 2)
    y = EDGE + 26
    for said, colour, scale in _said(found):
        canvas.text(EDGE, y, said[:_LINE], colour, scale)
        y += 12 * scale
    return y + 8


def _said(found: Any) -> Iterator[tuple[str, int, int]]:
    unseen = size_text(found.blind_spot.bytes)
    score = f"score {score_text(found.score)}, threshold {found.threshold:g}"
    if found.verdict.value == "suspicious":
        bits = f", about {count_text(found.bits, 'low bit')}" if found.bits else ""
        yield f"SUSPICIOUS{bits} ({score})", RED, 2
    else:
        yield f"NO EVIDENCE, which is no proof ({score})", INK, 2
    yield f"Up to {unseen} of encrypted data could lie here unseen.", QUIET, 1
    yield "Middle gray: as many ones as zeros. Lighter: more ones.", QUIET, 1
    yield "Upper bits are never even. Look at low bits that are not.", QUIET, 1


def _tensors(canvas: Canvas, y: int, found: Any, pictured: Sequence[Pictured]) -> int:
    """Draw a row a tensor: its name, its bits, the evidence along it."""
    canvas.text(EDGE, y, "tensor", QUIET)
    canvas.text(_STRIP, y, "bits: sign ... bit 0 on the right", QUIET)
    canvas.text(_ALONG, y, "along the tensor: red is evidence", QUIET)
    y += 14
    for one in pictured:
        tensor = found.by_tensor[one.at]
        colour = RED if tensor.suspicious else INK
        canvas.text(EDGE, y + 3, _cut(shown(tensor.name), _NAME), colour)
        width = min(_STRIP_WIDTH, one.bits * 8)
        right = _STRIP + _STRIP_WIDTH
        canvas.fill(right - width - 1, y, width + 2, 13, LINE)
        canvas.picture(right - width, y + 1, one.row, width, 11)
        if tensor.bits:
            low = min(tensor.bits, one.bits) * width // one.bits
            canvas.fill(right - low, y + 13, low, 2, RED)
        _bar(canvas, _ALONG, y + 4, _ALONG_WIDTH, one.marks)
        said = p_text(tensor.p_value) if tensor.suspicious else ""
        canvas.text(_AGAINST, y + 3, said, RED)
        y += _ROW
    more = len(found.by_tensor) - len(pictured)
    if more > 0:
        canvas.text(EDGE, y + 3, f"and {count_text(more, 'more tensor')}", QUIET)
        y += _ROW
    return y


def _map(canvas: Canvas, y: int, tensor: Any, one: Pictured) -> int:
    """Draw the bits along a tensor, and the evidence below; return where it ends."""
    if one.map is None:
        return y
    size = f"{count_text(tensor.size, 'number')}, {tensor.dtype}"
    colour = RED if tensor.suspicious else INK
    said = f"{_cut(shown(tensor.name), 100)}  bit {one.bits - 1} (top) to bit 0: {size}"
    canvas.text(EDGE, y, said, colour)
    each = 384 // one.bits if one.bits > 32 else 192 // max(one.bits, 16)
    height = one.bits * max(each, 6)
    canvas.fill(EDGE - 1, y + 11, _MAP_WIDTH + 2, height + 2, LINE)
    canvas.picture(EDGE, y + 12, one.map, _MAP_WIDTH, height)
    y += 12 + height + 3
    _bar(canvas, EDGE, y, _MAP_WIDTH, one.marks)
    return y + 6


def _bar(canvas: Canvas, x: int, y: int, width: int, marks: Sequence[Mark]) -> None:
    """Draw where evidence is along a tensor."""
    canvas.fill(x, y, width, 5, LINE)
    for mark in marks:
        left = int(mark.start * width)
        canvas.fill(x + left, y, max(2, round(mark.end * width) - left), 5, RED)


def _cut(text: str, most: int) -> str:
    """Return the end of a text that is too long: that is what tells names apart."""
    return text if len(text) <= most else f"...{text[3 - most :]}"

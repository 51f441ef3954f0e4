"""How many files came out how, and which exit code that is."""

from __future__ import annotations

from safemodel.reports import FileReport, Status

CLEAN, REFUSED, UNREADABLE = 0, 1, 2
_PLAIN = (
    "an empty file", "an HTML page", "a plain text", "a JSON text", "an XML document",
    "a script", "a Python script", "Python source", "a PNG image", "a JPEG image",
    "a GIF image", "a WebP image", "a PDF document", "JSON text",
)  # fmt: skip


def is_other(report: FileReport) -> bool:
    """Tell whether a file is one that lies beside models: text, pictures, JSON.

    Nobody would open it as a model, so it does not count as one that was not read.
    """
    return report.status is Status.UNSUPPORTED and report.format.startswith(_PLAIN)


class Tally:
    """Counts reports by what became of the file."""

    def __init__(self) -> None:
        self.counts: dict[Status, int] = dict.fromkeys(Status, 0)
        self.others = 0
        self._named_others = 0

    def add(self, report: FileReport) -> None:
        """Count a report."""
        if is_other(report):
            self.others += 1
        else:
            self.counts[report.status] += 1

    @property
    def exit_code(self) -> int:
        """The exit code: what is refused counts more than what is not known."""
        if self.counts[Status.REFUSED]:
            return REFUSED
        if self.counts[Status.UNREADABLE] or self.counts[Status.UNSUPPORTED]:
            return UNREADABLE
        return CLEAN

    def sentence(self) -> str:
        """Return the counts as a line."""
        total = sum(self.counts.values()) + self.others
        parts = [
            f"{count:,} {status.value}"
            for status, count in self.counts.items()
            if count
        ]
        if self.others:
            parts.append(f"{self.others:,} no model")
        files = "1 file" if total == 1 else f"{total:,} files"
        return f"{files}: {', '.join(parts)}" if parts else "no files"

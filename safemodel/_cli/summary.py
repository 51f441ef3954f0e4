"""How many files came out how, and which exit code that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel.reports import FileReport, Severity, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safemodel.reports import Finding

CLEAN, REFUSED, UNREADABLE = 0, 1, 2
_PLAIN = (
    "an empty file", "an HTML page", "a plain text", "a JSON text", "an XML document",
    "a script", "a Python script", "Python source", "a PNG image", "a JPEG image",
    "a GIF image", "a WebP image", "a PDF document", "JSON text",
)  # fmt: skip
_MODEL_NAMES = (
    ".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".npy", ".npz", ".safetensors",
    ".jit", ".ptl", ".joblib",
)  # fmt: skip


def is_other(report: FileReport) -> bool:
    """Tell whether a file is one that lies beside models: text, pictures, JSON.

    Nobody would open it as a model, so it does not count as one that was not read. What
    is called like a model does: a page that was saved as ``model.pt`` is a download
    that failed.
    """
    return (
        report.status is Status.UNSUPPORTED
        and report.format.startswith(_PLAIN)
        and not report.path.lower().endswith(_MODEL_NAMES)
        # Somebody might unpickle it all the same.
        and not any(found.severity is not Severity.INFO for found in _others(report))
    )


def is_danger(report: FileReport) -> bool:
    """Tell whether a file is refused and would have run what is known to do harm."""
    return report.status is Status.REFUSED and any(
        finding.severity is Severity.DANGER for finding in report.findings
    )


def _others(report: FileReport) -> Iterator[Finding]:
    """Yield the findings of a file but for its format."""
    return (found for found in report.findings if found.code != "unsupported-format")


class Tally:
    """Counts reports by what became of the file."""

    def __init__(self) -> None:
        self.counts: dict[Status, int] = dict.fromkeys(Status, 0)
        self.others = 0
        self.dangers = 0

    def add(self, report: FileReport) -> None:
        """Count a report."""
        if is_other(report):
            self.others += 1
        else:
            self.counts[report.status] += 1
            self.dangers += is_danger(report)

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
        parts = []
        for status, count in self.counts.items():
            if count:
                parts.append(f"{count:,} {status.value}")
                if status is Status.REFUSED and self.dangers:
                    parts[-1] += f" ({self.dangers:,} danger)"
        if self.others:
            parts.append(f"{self.others:,} no model")
        files = "1 file" if total == 1 else f"{total:,} files"
        return f"{files}: {', '.join(parts)}" if parts else "no files"

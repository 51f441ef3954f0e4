"""Look through a folder of downloads before anything is loaded."""

import tempfile
from pathlib import Path

import torch

from safemodel import scan_files

with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary)
    torch.save({"weight": torch.zeros(3)}, folder / "good.pt")
    # A pickle that asks for os.system("true"): written by hand, never loaded.
    (folder / "bad.bin").write_bytes(
        b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R."
    )

    # What could not be read is `unreadable`, not clean: ask for the status.
    for report in scan_files([folder, folder / "missing.pt"]):
        print(f"{report.status.value:<12}{Path(report.path).name}")
        for finding in report.findings:
            where = f"{finding.record}@{finding.position} {finding.opcode}"
            print(f"    {finding.message}{finding.arguments}  [{where}]")

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

    for report in scan_files([folder]):
        print("REFUSED" if report.refused else "ok     ", Path(report.path).name)
        for finding in report.findings:
            print("        ", finding.message)

"""What `make demo` runs: a real checkpoint, a hostile twin of it, and both opened.

Everything is made here, in a temporary folder. The hostile file holds a payload that
would only write a marker file; nothing ever loads it in a way that could run it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from safemodel import ForbiddenGlobalError, inspect_file, safe_load

console = Console(highlight=False)


def train() -> dict[str, object]:
    """Train a tiny model for a moment and return what people usually save."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(20):
        inputs = torch.randn(32, 16)
        loss = torch.nn.functional.mse_loss(model(inputs), inputs[:, :4])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {
        "state_dict": model.state_dict(),
        "optimizer": optimiser.state_dict(),
        "epoch": 20,
        "best_loss": np.float64(loss.item()),
        "args": argparse.Namespace(lr=1e-3, data="somewhere"),
    }


def hostile_twin(checkpoint: Path, twin: Path, marker: Path) -> None:
    """Write a copy whose pickle first asks for ``os.system("touch marker")``.

    The call goes in right after the PROTO opcode and its result is popped, so every
    weight after it is where it was: such a file loads, and works, anywhere.
    """
    command = f"touch '{marker}'".encode()
    payload = b"".join(
        (
            b"cos\nsystem\n",  # GLOBAL: what would be called
            b"X" + len(command).to_bytes(4, "little") + command,  # its argument
            b"\x85R0",  # TUPLE1, REDUCE: the call; POP: forget the result
        )
    )
    with zipfile.ZipFile(checkpoint) as source, zipfile.ZipFile(twin, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("/data.pkl"):
                data = data[:2] + payload + data[2:]
            target.writestr(name, data)


def same_bits(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Return whether two state dicts hold the same names and the same bits."""
    return list(left) == list(right) and all(
        torch.equal(left[name].view(torch.uint8), right[name].view(torch.uint8))
        for name in left
    )


def torch_answer(path: Path) -> str:
    """Return what torch's protected loader says about a file, in a few words."""
    try:
        torch.load(path, weights_only=True)
    except Exception as error:  # noqa: BLE001  # torch raises whatever it meets
        named = re.search(r"GLOBAL (\S+)", str(error))
        return f"refuses: {named[1]}" if named else "refuses"
    return "opens"


def our_answer(path: Path, *, weights_only: bool | None) -> str:
    """Return what `safe_load` says about a file, in a few words."""
    try:
        safe_load(path, weights_only=weights_only)
    except ForbiddenGlobalError as error:
        return f"refuses: {error.module}.{error.name}"
    return "opens"


def step(number: int, text: str) -> None:
    """Print the heading of one step."""
    console.print(f"\n[bold cyan]{number}.[/] [bold]{text}[/]")


def scan(path: Path) -> int:
    """Run the ``safemodel scan`` command on a file, show it, return its exit code."""
    console.print(f"[dim]$ safemodel scan {path.name}[/]")
    done = subprocess.run(
        [sys.executable, "-m", "safemodel", "scan", path.name],
        cwd=path.parent,
        check=False,
        capture_output=True,
        text=True,
    )
    console.print(done.stdout.strip(), markup=False)
    console.print(f"[dim]exit code {done.returncode}[/]")
    return done.returncode


def show_answers(files: list[Path]) -> None:
    """Print what each loader says about each file."""
    table = Table("file", "torch.load", "safe_load", "safe_load, weights_only=False")
    for path in files:
        table.add_row(
            path.name,
            torch_answer(path),
            our_answer(path, weights_only=None),
            our_answer(path, weights_only=False),
        )
    console.print(table)
    console.print(
        "[dim]torch.load is run with weights_only=True; without it, it would have run"
        " the payload, so that is not tried here.[/]"
    )


def demo(folder: Path) -> None:
    """Go through the story in a folder."""
    checkpoint, twin = folder / "checkpoint.pt", folder / "twin.pt"
    marker = folder / "payload-ran"

    step(1, "A checkpoint as people save them: weights, optimiser, arguments, a score")
    saved = train()
    torch.save(saved, checkpoint)
    report = inspect_file(checkpoint)
    console.print(f"checkpoint.pt names {len(report.globals)} globals")
    clean = scan(checkpoint)

    step(2, "Its hostile twin: the same weights, and one call that would run first")
    hostile_twin(checkpoint, twin, marker)
    refused = scan(twin)

    step(3, "Who opens what")
    show_answers([checkpoint, twin])

    step(4, "What the twin is still good for: its weights, and nothing was run")
    rescued = safe_load(twin, weights_only=False)
    equal = same_bits(rescued["state_dict"], saved["state_dict"])
    table = Table("tensor", "shape", "dtype")
    for name, tensor in rescued["state_dict"].items():
        table.add_row(name, str(tuple(tensor.shape)), str(tensor.dtype))
    console.print(table)
    console.print(f"weights equal bit for bit: [bold]{equal}[/]")
    console.print(f"arguments: {rescued['args']}", markup=False)
    console.print(f"best loss: {rescued['best_loss']:.4f}")
    console.print(f"the payload ran: [bold]{marker.exists()}[/]")
    if not equal or marker.exists() or (clean, refused) != (0, 1):
        sys.exit("the demo did not go as it must")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        demo(Path(temporary))

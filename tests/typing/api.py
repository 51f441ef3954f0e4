"""Every public name, used as a caller would; checked by mypy, never run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, assert_type

import torch

from safemodel import (
    SALVAGE,
    STRICT,
    ChecksumError,
    Detection,
    Detector,
    ForbiddenCallError,
    ForbiddenGlobalError,
    ForbiddenOpcodeError,
    LimitExceededError,
    Limits,
    MalformedFileError,
    Opaque,
    Policy,
    ProtectionKey,
    SafeModelError,
    SafeModelWarning,
    Scrub,
    StorageBoundsError,
    TruncatedFileError,
    UnpatchedCallError,
    UnsafeFileError,
    UnsupportedFormatError,
    Verdict,
    __version__,
    detect,
    disarm,
    inspect_file,
    patch,
    patched,
    protect,
    restore,
    rotate,
    safe_load,
    scan_files,
    state_dict,
    unpatch,
    verify,
)
from safemodel.detection import extract
from safemodel.evaluation import PayloadRecovery, payload_recovery, stego
from safemodel.monkeypatch import OpenedFile, early_references, is_patched
from safemodel.protection import (
    KeyRing,
    ProtectReport,
    RestoreReport,
    RotateReport,
    VerifyReport,
)
from safemodel.reports import DisarmReport, FileReport, Finding
from safemodel.scrub import scrub_array

assert_type(__version__, str)


def loading(model: torch.nn.Module) -> None:
    """Take every call that torch.load takes."""
    assert_type(safe_load("model.pt"), Any)
    safe_load(Path("model.pt"), "cpu")
    safe_load(b"bytes")
    safe_load(bytearray(8), map_location=torch.device("cpu"))
    safe_load(io.BytesIO(), {"cuda:0": "cpu"})
    safe_load("model.pt", lambda storage, location: storage)  # noqa: ARG005  # torch's
    safe_load("model.pt", None, None, weights_only=True, mmap=True)
    safe_load("model.pt", weights_only=False, encoding="latin1", errors="strict")
    safe_load("model.pt", verify_checksums=False)
    safe_load("model.pt", mmap=True, verify_checksums="all")
    checkpoint = safe_load("model.pt", policy=SALVAGE, limits=Limits(max_depth=10))
    model.load_state_dict(state_dict(checkpoint))


def detecting(model: torch.nn.Module) -> bool:
    """What goes into detect, and what comes out."""
    found = detect("model.pt", detector=Detector.bundled(), reference=b"bytes")
    assert_type(found, Detection)
    detect(model, detector="x-ray", limits=Limits())
    detect({"w": torch.ones(2)}, reference=model)
    assert_type(found.false_positive_rate, float | None)
    assert_type(found.blind_spot.command, str)
    assert_type(extract("model.pt", found.candidates[0], length=3), bytes)
    assert_type(Detection.from_dict(found.to_dict()).to_json(indent=1), str)
    return found.verdict is Verdict.SUSPICIOUS


class Config:
    """A class of the caller."""


def make_config(args: tuple[object, ...], state: object, /) -> Config:
    """Return a `Config`; the state is the caller's to check."""
    if args or state is None:
        raise ValueError
    return Config()


def policies() -> Policy:
    """Policies and limits are values."""
    assert_type(STRICT, Policy)
    assert_type(Limits().max_depth, int)
    assert_type(Limits().max_amplification, float)
    assert_type(STRICT.with_extra({"my.pkg.Config": make_config}), Policy)
    return Policy(others="opaque", extra={"my.pkg.Config": make_config})


def opaque(value: Opaque) -> None:
    """What an opaque value says of itself."""
    assert_type(value.qualified_name, str)
    assert_type(value.args, tuple[object, ...])
    assert_type(value["lr"], object)
    assert_type(value.state_dict(), dict[str, object])
    for name in value:
        assert_type(name, str)


def errors() -> None:  # one branch an error
    """Errors by what a caller does next, and the facts they carry."""
    try:
        safe_load("model.pt")
    except ForbiddenGlobalError as error:
        assert_type(error.module, str)
        assert_type(error.globals, tuple[tuple[str, str, str, int], ...])
    except ForbiddenOpcodeError as error:
        assert_type(error.opcode, str)
    except ForbiddenCallError as error:
        assert_type(error.reason, str)
    except LimitExceededError as error:
        assert_type(error.limit, str)
    except UnsafeFileError:
        pass
    except ChecksumError as error:
        assert_type(error.expected, int)
    except (TruncatedFileError, StorageBoundsError) as error:
        assert_type(error.needed, int)
    except MalformedFileError as error:
        assert_type(error.position, int | None)
    except UnsupportedFormatError as error:
        assert_type(error.what, str)
    except SafeModelError:
        pass


def looking() -> None:
    """Look into files without loading them."""
    report = inspect_file("model.pt", policy=STRICT, limits=Limits())
    assert_type(report, FileReport)
    assert_type(report.refused, bool)
    assert_type(report.globals, tuple[str, ...])
    assert_type(report.to_json(), str)
    for scanned in scan_files(["models", Path("more")], jobs=2):
        assert_type(scanned, FileReport)
        assert_type(scanned.findings, tuple[Finding, ...])


def scrubbing() -> None:
    """Overwrite low bits by a number, by a bound, and piece by piece."""
    scrub = Scrub(bits="auto", method="round", max_relative_change=2**-10)
    assert_type(scrub.bits_for("float32"), int)
    numbers = torch.ones(4).numpy()
    assert_type(scrub_array(numbers, "float32", Scrub(bits=12), threads=1), int)


def evaluating(before: torch.Tensor, after: torch.Tensor) -> None:
    """Ask what is left of a payload."""
    left = payload_recovery(before, after, b"1", bits=8, copies=3, confidence=0.999)
    assert_type(left, PayloadRecovery)
    assert_type(left.capacity_high, float)
    assert_type(left.recovered, bool)


def hiding(weights: dict[str, torch.Tensor], after: torch.Tensor) -> None:
    """Hide a payload, read it, and measure a defence."""
    method: stego.Method = stego.Lsb(bits=4, share=0.05, key=b"key", matching=True)
    data = stego.payload("encrypted", 1000, path=Path("program"), key=bytes(32))
    assert_type(data, bytes)
    hidden, embedding = stego.embed(weights, data, method, tensors=["a", "b"])
    assert_type(hidden, dict[str, Any])
    assert_type(embedding, stego.Embedding)
    assert_type(embedding.where, tuple[stego.Span, ...])
    tensor, _ = stego.embed(after, data, stego.ByteSubstitution(count=2), in_place=True)
    assert_type(tensor, torch.Tensor)
    assert_type(stego.extract(hidden, method, 1000, tensors=["a"]), bytes)
    assert_type(stego.capacity(after, method, dtype="bfloat16"), int)
    left = stego.recovery(tensor, after, data, method, confidence=0.9)
    assert_type(left, PayloadRecovery)
    assert_type(stego.hide("in.pt", Path("out.pt"), data, method), stego.Embedding)
    spread = stego.SpreadSpectrum(gamma=1e-3, coded=False)
    assert_type(stego.listen(weights, spread, 1000), stego.Signal)


def disarms() -> None:
    """Write a new file, with and without scrubbing."""
    report = disarm("model.pt", "out.safetensors", scrub=Scrub(bits=12), overwrite=True)
    size: int = report.result.size
    names: list[str] = [tensor.name for tensor in report.tensors]
    page: str = report.to_html()
    again: DisarmReport = DisarmReport.from_dict(report.to_dict())
    print(size, names, report.to_json(indent=1), page, again)


def protecting(model: torch.nn.Module) -> None:
    """Protect, verify, restore and rotate, with one key or several."""
    key = ProtectionKey.generate()
    assert_type(protect("m.pt", "p.pt", key=key), ProtectReport)
    protect(model, Path("p.pt"), key=key, confidential=True, epoch=3, expires=4)
    protect(model.state_dict(), "p.pt", key=key, overwrite=True, limits=Limits())
    keys = KeyRing([key])
    assert_type(verify("p.pt", key=keys, min_epoch=3, state="epochs"), VerifyReport)
    verify(b"bytes", public_key=bytes(32))
    assert_type(restore("p.pt", "m.pt", key=keys), RestoreReport)
    assert_type(rotate("p.pt", "p.pt", key=key, overwrite=True), RotateReport)
    rotate("p.pt", "q.pt", key=keys, new_key=key, expires=None, confidential=False)
    safe_load("p.pt", key=key, min_epoch=1, state=Path("epochs"))


def patching() -> None:
    """Have other people's code open files safely."""
    seen: list[OpenedFile] = []
    patch(policy=SALVAGE, audit=seen.append, pickle_in=["package.io"])
    unpatch()
    with patched(on_refuse="opaque", torchscript="tensors"):
        assert_type(early_references(), list[str])
        assert_type(is_patched(), bool)
    assert_type(seen[0].sha256, str)
    assert_type(UnpatchedCallError("torch.load", "hint").call, str)
    raise SafeModelWarning

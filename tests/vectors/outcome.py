"""What loading a file did: the error or the result, and what else happened.

`Watch` is an audit hook that is armed around one call: a loader that never runs
anything opens its input and touches nothing else.
"""

from __future__ import annotations

import argparse
import codecs
import sys
import traceback
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from safemodel import safe_load
from safemodel._graph.opaque import Opaque
from safemodel.errors import SafeModelError
from safemodel.testing import CANARY

ATTRIBUTES = (
    "position",
    "limit",
    "reason",
    "what",
    "globals",
    "name",
    "record",
    "opcode",
)
_DEEPEST = 12
# Events that concern neither the outside world nor code of the file: reading the
# input through a map, and what numpy and torch raise while making an array.
_HARMLESS = frozenset({"mmap.__new__", "sys._getframe", "builtins.id"})
# Codecs the library itself uses, which Python imports when they are first used.
_CODECS = ("unicode_escape", "raw_unicode_escape", "latin-1", "cp437", "ascii", "utf-8")


@dataclass
class Outcome:
    """How one call ended."""

    error: str = ""
    message: str = ""
    attributes: dict[str, object] = field(default_factory=dict)
    result: str = ""
    events: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    tripped: bool = False


class Watch:
    """Records audit events while armed; a hook cannot be removed, so one serves all."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.allowed = ""
        self.armed = False
        for codec in _CODECS:
            codecs.lookup(codec)
        sys.addaudithook(self._event)

    def _event(self, event: str, args: tuple[object, ...]) -> None:
        if not self.armed or event in _HARMLESS:
            return
        if event == "open" and str(args[0]) == self.allowed:
            self.allowed = ""  # once: a second open could give other bytes
            return
        self.seen.append(f"{event} {args!r:.120}")

    def run(self, action: Callable[[], object], *, allowed: str) -> object:
        """Call an action; `seen` then holds every event but one open of a path."""
        self.seen, self.allowed, self.armed = [], allowed, True
        try:
            return action()
        finally:
            self.armed = False


WATCH = Watch()


def load_outcome(source: Path | bytes, *, opaque: bool, **options: object) -> Outcome:
    """Return what `safe_load` does with a file."""
    outcome = Outcome()
    modules = set(sys.modules)
    CANARY.reset()
    value: object = None
    try:
        value = WATCH.run(
            lambda: safe_load(source, weights_only=not opaque, **options),
            allowed=str(source) if isinstance(source, Path) else "",
        )
    except SafeModelError as error:
        outcome.error = type(error).__name__
        outcome.message = str(error)
        outcome.attributes = {
            name: getattr(error, name) for name in ATTRIBUTES if hasattr(error, name)
        }
    # Whatever else escapes is a bug that the caller reports.
    except Exception as error:  # noqa: BLE001
        outcome.error = f"foreign {type(error).__name__}"
        outcome.message = "".join(traceback.format_exception(error)[-3:])
    else:
        outcome.result = describe(value)
    outcome.events = list(WATCH.seen)
    outcome.modules = sorted(set(sys.modules) - modules)
    outcome.tripped = bool(CANARY.trips)
    return outcome


def describe(value: object, _above: tuple[int, ...] = ()) -> str:
    """Return a value as one line of text: types and contents, cut where deep."""
    if id(value) in _above:
        return "<cycle>"
    if len(_above) > _DEEPEST:
        return "..."
    above = (*_above, id(value))
    kind = type(value)
    if kind is dict or kind is OrderedDict or kind is defaultdict:
        inner = "{" + ", ".join(
            f"{describe(key, above)}: {describe(item, above)}"
            for key, item in list(value.items())[:20]
        ) + "}"  # fmt: skip
        return inner if kind is dict else f"{kind.__name__}({inner})"
    if kind in (list, tuple, set, frozenset):
        items = list(value)[:20]
        inner = ", ".join(describe(item, above) for item in items)
        return f"{kind.__name__}({inner})"
    return _describe_leaf(value, above)


def _describe_leaf(value: object, above: tuple[int, ...]) -> str:
    kind = type(value)
    if isinstance(value, torch.Tensor):
        dense = value.detach()
        if dense.is_quantized:
            dense = dense.dequantize()
        if dense.layout is not torch.strided:
            dense = dense.to_dense()
        shown = [] if dense.is_meta else dense.reshape(-1)[:20].tolist()
        shape = tuple(value.shape)
        return f"{kind.__name__}({str(value.dtype)[6:]}, {shape}, {shown})"
    if isinstance(value, np.ndarray):
        shown = [describe(item, above) for item in value.ravel()[:20].tolist()]
        return f"ndarray({value.dtype.str}, {value.shape}, [{', '.join(shown)}])"
    if isinstance(value, np.generic):
        return f"{kind.__name__}({value.item()!r})"
    if isinstance(value, Opaque):
        parts = [value.qualified_name]
        parts += [describe(arg, above) for arg in value.args]
        if value.state is not None:
            parts.append(f"state={describe(value.state, above)}")
        if value.pairs:
            parts.append(f"pairs={describe(value.pairs, above)}")
        if value.elements:
            parts.append(f"elements={describe(value.elements, above)}")
        return f"Opaque({', '.join(parts)})"
    if isinstance(value, argparse.Namespace):
        return f"Namespace({describe(vars(value), above)})"
    if isinstance(value, (torch.dtype, torch.device, torch.Size)):
        return str(value)
    if isinstance(value, (torch.UntypedStorage, torch.TypedStorage)):
        return f"{kind.__name__}({value.nbytes()})"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)})"

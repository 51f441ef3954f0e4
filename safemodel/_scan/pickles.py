"""One parsed pickle → findings: what it names, and what it would have called.

The names that are allowed are those of the check itself: the same tables, the same
spelling. What is not allowed is told apart by colour only (`danger`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safemodel._graph.allowlist import (
    ALLOWED_ARGUMENTS,
    ALLOWED_CALLS,
    ALLOWED_VALUES,
    STORAGE_DTYPES,
)
from safemodel._graph.reconstructors.aliases import canonical
from safemodel._scan.danger import lowered, severity_of
from safemodel._scan.render import (
    call_arguments,
    dotted_name,
    record_name,
)
from safemodel._unpickle import opcodes as op
from safemodel._unpickle.nodes import UNCHECKED, Call, GlobalRef
from safemodel.reports import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from safemodel._unpickle.parsed import Pickle

_MAX_CALLS_OF_A_NAME = 5
_MAX_FINDINGS = 200
_RANK = {Severity.DANGER: 0, Severity.WARNING: 1, Severity.INFO: 2}
_DELEGATES = frozenset({("copyreg", "_reconstructor"), ("copyreg", "__newobj__")})
_SCRIPT = "__torch__"
_ENCODE = ("_codecs", "encode")
_FROM_BYTES = ("torch.storage", "_load_from_bytes")


def is_allowed(ref: GlobalRef, extra: Collection[str] = ()) -> bool:
    """Tell whether the check accepts a name, whatever is then done with it."""
    name = canonical(ref.module, ref.name)
    return (
        name in ALLOWED_CALLS
        or name in ALLOWED_VALUES
        or name in ALLOWED_ARGUMENTS
        or name in STORAGE_DTYPES
        or (bool(extra) and f"{ref.module}.{ref.name}" in extra)
    )


class PickleFindings:
    """What one pickle names and would have called.

    Args:
        pickle: As far as it could be parsed.
        data: The bytes it was parsed from.
        record: Name of its record.
        base: Where ``data`` starts in that record.
        inert: Why `safe_load` never reads it; "" if it does.
        extra: Dotted names the caller's policy accepts.
        script: Whether it is of a TorchScript archive, whose own classes are data.
    """

    def __init__(
        self,
        pickle: Pickle,
        data: bytes,
        record: str,
        *,
        base: int = 0,
        inert: str = "",
        extra: Collection[str] = (),
        script: bool = False,
    ) -> None:
        self._pickle = pickle
        self._data = data
        self._record = record_name(record)
        self._base = base
        self._inert = inert
        self.refused = [
            ref
            for ref in pickle.globals
            if not is_allowed(ref, extra)
            and not (script and ref.module.split(".", 1)[0] == _SCRIPT)
        ]
        self.holds_files = any(
            canonical(ref.module, ref.name) == _FROM_BYTES for ref in pickle.globals
        )

    def run(self) -> list[Finding]:
        """Return one finding for each name that is not allowed and call of it."""
        if not self.refused:
            return []
        calls, results = self._calls_by_target()
        # The most alarming ones, if there are too many to make a finding of each.
        listed = sorted(self.refused, key=_rank_of)[:_MAX_FINDINGS]
        found: list[Finding] = []
        for ref in listed:
            made = calls.get(ref)
            if made is None:
                found.append(self._named(ref))
                continue
            found += [self._called(call, ref) for call in made[:_MAX_CALLS_OF_A_NAME]]
            if len(made) > _MAX_CALLS_OF_A_NAME:
                found.append(self._more(ref, len(made) - _MAX_CALLS_OF_A_NAME))
        found += map(self._result_called, results[:_MAX_CALLS_OF_A_NAME])
        return self._bounded(found, len(self.refused) - len(listed))

    def _bounded(self, found: list[Finding], more: int) -> list[Finding]:
        """Return findings in the order of the pickle, not too many of them."""
        found.sort(key=lambda finding: finding.position or 0)
        more += max(len(found) - _MAX_FINDINGS, 0)
        if not more:
            return found
        kept = sorted(found, key=lambda one: _RANK[one.severity])[:_MAX_FINDINGS]
        kept.sort(key=lambda finding: finding.position or 0)
        note = f"{more:,} more findings in this pickle are not listed"
        kept.append(
            Finding(
                severity=Severity.INFO,
                code="more-findings",
                message=note,
                record=self._record,
            )
        )
        return kept

    def _calls_by_target(self) -> tuple[dict[GlobalRef, list[Call]], list[Call]]:
        """Return the calls of each refused name, and those of the result of a call."""
        refused = set(self.refused)
        by_target: dict[GlobalRef, list[Call]] = {}
        results: list[Call] = []
        seen: set[int] = set()
        for call in self._pickle.calls:
            if type(call) is not Call or id(call) in seen:
                continue
            seen.add(id(call))
            target: Any = call.target
            if type(target) is not GlobalRef:
                results.append(call)
                continue
            if canonical(target.module, target.name) in _DELEGATES and call.args:
                target = call.args[0]
            if type(target) is GlobalRef and target in refused:
                by_target.setdefault(target, []).append(call)
        return by_target, results

    def _colour(self, severity: Severity) -> Severity:
        return lowered(severity) if self._inert else severity

    def _finding(self, severity: Severity, message: str, **members: Any) -> Finding:
        """Return a finding of this pickle."""
        if self._inert:
            message = f"{message} ({self._inert})"
        return Finding(
            severity=self._colour(severity),
            code="inert-global" if self._inert else "forbidden-global",
            message=message,
            record=self._record,
            **members,
        )

    def _named(self, ref: GlobalRef) -> Finding:
        """Return the finding for a name that nothing calls."""
        name = dotted_name(ref)
        code = self._data[ref.position] if ref.position < len(self._data) else 0
        return self._finding(
            severity_of(ref.module, ref.name),
            f"names {name}",
            name=name,
            opcode=op.OPCODE_NAMES.get(code, ""),
            position=self._base + ref.position,
        )

    def _called(self, call: Call, ref: GlobalRef) -> Finding:
        """Return the finding for a call."""
        name, arguments = dotted_name(ref), call_arguments(call)
        return self._finding(
            severity_of(ref.module, ref.name),
            f"would call {name}",
            name=name,
            arguments=arguments,
            opcode=op.OPCODE_NAMES[call.opcode],
            position=self._base + call.position,
        )

    def _more(self, ref: GlobalRef, count: int) -> Finding:
        """Return the finding for the calls that are not listed."""
        name = dotted_name(ref)
        return self._finding(
            severity_of(ref.module, ref.name),
            f"would call {name} {count:,} more times",
            name=name,
            position=self._base + ref.position,
        )

    def _result_called(self, call: Call) -> Finding:
        """Return the finding for what calls the result of a call."""
        name = dotted_name(call.target)
        return self._finding(
            Severity.DANGER,
            f"would call the result of {name}",
            name=name,
            arguments=call_arguments(call),
            opcode=op.OPCODE_NAMES[call.opcode],
            position=self._base + call.position,
        )


def _rank_of(ref: GlobalRef) -> int:
    return _RANK[severity_of(ref.module, ref.name)]


def nested_bytes(pickle: Pickle) -> Iterator[tuple[bytes, Call]]:
    """Yield bytes that a call of this pickle would be given, as in `pickle.loads`."""
    seen: set[int] = set()
    for call in pickle.calls:
        if type(call) is not Call or id(call) in seen:
            continue
        seen.add(id(call))
        state = () if call.state is UNCHECKED else (call.state,)
        for arg in (*call.args[:16], *state):
            value = _as_bytes(arg)
            if value is not None:
                yield value, call


def _as_bytes(arg: Any) -> bytes | None:
    """Return bytes, or what protocols before 3 write for them."""
    if type(arg) is bytes:
        return arg
    if type(arg) is bytearray:
        return bytes(arg)
    if type(arg) is not Call or len(arg.args) != 2:
        return None
    target: Any = arg.target
    text, codec = arg.args
    if (
        type(target) is GlobalRef
        and canonical(target.module, target.name) == _ENCODE
        and type(text) is str
        and codec in ("latin1", "latin-1")
    ):
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError:
            return None
    return None


def call_at(pickle: Pickle, position: int | None) -> Call | None:
    """Return the call at a position, which an error speaks of."""
    for call in pickle.calls:
        if type(call) is Call and call.position == position:
            return call
    return None


def global_names(pickle: Pickle) -> Iterator[str]:
    """Yield every dotted name of a pickle, escaped."""
    for ref in pickle.globals:
        yield dotted_name(ref)

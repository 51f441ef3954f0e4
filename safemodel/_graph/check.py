"""Nodes → checked graph: the one place where a file is refused for what it asks.

Rules:

1. A global is allowed by its exact (module, name), after old spellings are made one;
   never by package, never by attribute, never by pattern.
2. Every global of every pickle of a file is looked at before the file is refused, so
   that one error names them all.
3. Calls are checked in the order of the file: arguments before the call that takes
   them. A checker sees data only, and answers with data.
4. In opaque mode a call outside the allowlist becomes a record of itself. Nothing
   inside an allowed call's schema gets laxer.
5. The result of a call is never called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safemodel._graph.allowlist import (
    ALLOWED_ARGUMENTS,
    ALLOWED_CALLS,
    ALLOWED_VALUES,
    STORAGE_DTYPES,
)
from safemodel._graph.composite_specs import (
    OpaqueSpec,
    TensorGraph,
)
from safemodel._graph.extra_calls import extra_spec, named_spec
from safemodel._graph.opaque_calls import name_classes, opaque_record, state_of
from safemodel._graph.reconstructors.aliases import canonical
from safemodel._graph.reconstructors.common import CheckContext, Checker, ref_name
from safemodel._graph.specs import Spec
from safemodel._graph.tensor_calls import check_tensor
from safemodel._graph.walk import walk
from safemodel._graph.weights import weight_of
from safemodel._unpickle.keys import KeyGuard
from safemodel._unpickle.nodes import (
    UNCHECKED,
    Call,
    GlobalRef,
    PersistentRef,
    TensorCall,
)
from safemodel.errors import (
    ForbiddenCallError,
    ForbiddenGlobalError,
    LimitExceededError,
    MalformedFileError,
    SafeModelError,
)
from safemodel.policy import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from safemodel._containers.records import Record
    from safemodel._graph.specs import StorageSpec
    from safemodel._unpickle.parsed import Pickle
    from safemodel.limits import Limits
    from safemodel.policy import Policy

_RECONSTRUCTOR = ("copyreg", "_reconstructor")
_SCRIPT = "__torch__"


class FileCheck:
    """The check of one file, all of its pickles and archives included.

    Use it as: `add_pickle` for every pickle, `add_specs` for what other formats hold,
    then `finish` with the root.
    """

    def __init__(self, policy: Policy, limits: Limits, byte_count: int) -> None:
        self.policy = policy
        self.limits = limits
        self.refused: dict[tuple[str, str, str], int] = {}
        # TorchScript: its own classes stand for data in every mode.
        self.script = False
        self.nesting = 0
        self._inflated = 0
        self._graph = TensorGraph(None, byte_count)
        self._opaque: dict[str, None] = {}
        # Name of an opaque value → that of what calling it gives, one text for all.
        self._results: dict[str, str] = {}
        self._context = CheckContext(
            limits,
            byte_count=byte_count,
            specs=self._graph.specs,
            dropped=self._graph.dropped,
            refused=self._outside_schema,
        )

    def add_pickle(
        self,
        pickle: Pickle,
        *,
        record: str,
        persistent: Callable[[PersistentRef], object],
        storage: Callable[[TensorCall], StorageSpec],
        load_nested: Callable[[bytes, Call], object],
        memory_record: Callable[[bytes], Record],
    ) -> object:
        """Check one pickle; return its value, whose nodes now have theirs.

        Args:
            pickle: As the machine read it.
            record: Name of its record, for errors.
            persistent: Turns a persistent id into a storage spec.
            storage: Gives the storage of a tensor.
            load_nested: Reads a file inside a pickle (`_load_from_bytes`).
            memory_record: Makes a record of bytes inside a pickle.

        Raises:
            UnsafeFileError: What it asks for is outside the policy or the limits.
            MalformedFileError: Its parts do not fit together.
        """
        context = self._context
        outer = context.record, context.load_nested, context.memory_record
        context.record = record
        context.load_nested, context.memory_record = load_nested, memory_record
        try:
            context.pickle_bytes += pickle.end - pickle.start
            self._globals(pickle.globals, record)
            for ref in pickle.persistent:
                ref.value = persistent(ref)
            self._calls(pickle, storage)
        except SafeModelError as error:
            self.refuse(error.locate(record=record))
            raise
        finally:
            context.record, context.load_nested, context.memory_record = outer
        return pickle.root

    def add_call(self, call: Call, record: str) -> object:
        """Check a call that no pickle spells out; return its value.

        Raises:
            UnsafeFileError: As `add_pickle`.
            MalformedFileError: As `add_pickle`.
        """
        target: Any = call.target
        try:
            entry = ALLOWED_CALLS[target.module, target.name]
            return entry.checker(call, self._context)
        except SafeModelError as error:
            raise error.locate(record=record) from error.__cause__

    def add_specs(self, specs: Iterable[Spec]) -> None:
        """Add leaf specs that no pickle made."""
        self._graph.specs.extend(specs)

    @property
    def storages(self) -> Mapping[str, StorageSpec]:
        """The storages found so far, by keys unique within the file."""
        return self._graph.storages

    def add_storages(self, storages: Iterable[StorageSpec], prefix: str = "") -> None:
        """Add storages under keys made unique by the archive they are in."""
        for spec in storages:
            # The name of one member may stand before the keys of thousands.
            self._context.add_amplified(len(prefix))
            self._graph.storages[f"{prefix}{spec.key}"] = spec

    def add_unused(self, names: Iterable[str]) -> None:
        """Note records that hold bytes nothing refers to."""
        for name in names:
            self.add_amplified(len(name))
            self._graph.unused.append(name)

    def add_amplified(self, nbytes: int) -> None:
        """Count bytes that the file asks for without holding them."""
        self._context.add_amplified(nbytes)

    def add_record(self, record: Record) -> None:
        """Count what a record inflates to: there may be many, and archives in them."""
        if record.size == record.stored_size:
            return
        self._inflated += record.size
        limits, size = self.limits, self._graph.byte_count
        if self._inflated > max(
            limits.min_amplified_bytes, limits.max_inflation * size
        ):
            raise LimitExceededError(
                "max_inflation",
                allowed=limits.max_inflation,
                requested=round(self._inflated / max(size, 1), 1),
            )

    def add_bytes(self, count: int) -> None:
        """Count the bytes of a file beside the first one."""
        self._graph.byte_count += count
        self._context.byte_count += count

    def nested(self) -> None:
        """Count one level of a file within a file; undo with `unnested`."""
        self.nesting += 1
        if self.nesting > self.limits.max_nesting:
            raise LimitExceededError(
                "max_nesting", allowed=self.limits.max_nesting, requested=self.nesting
            )

    def unnested(self) -> None:
        """Leave a level that `nested` entered."""
        self.nesting -= 1

    def finish(self, root: object) -> TensorGraph:
        """Return the checked graph, or refuse the file.

        Raises:
            ForbiddenGlobalError: The policy refuses globals; it lists all of them.
            UnsafeFileError: The result is too deep or too large.
            MalformedFileError: It holds something that cannot be built.
        """
        self.refuse()
        graph, limits = self._graph, self.limits
        if len(graph.specs) > limits.max_tensors:
            raise LimitExceededError(
                "max_tensors", allowed=limits.max_tensors, requested=len(graph.specs)
            )
        graph.root = root
        graph.opaque = list(self._opaque)
        guard = KeyGuard(limits)
        guard.has_long_text = True
        order = walk(root, limits, guard, self._context.charge)
        graph.mutables, graph.immutables = order.mutables, order.immutables
        return graph

    def let_go(self) -> None:
        """End what refers to this and to which this refers.

        Else all that was read would stay in memory until a collector comes by.
        """
        vars(self).pop("_context", None)

    def refuse(self, error: SafeModelError | None = None) -> None:
        """Refuse the file if it names globals outside the allowlist.

        What it is refused for comes before what else is wrong with it: the error.

        Raises:
            ForbiddenGlobalError: It lists all of them.
        """
        if self.refused and type(error) is not ForbiddenGlobalError:
            raise ForbiddenGlobalError(
                [(*name, position) for name, position in self.refused.items()]
            ) from error

    def _globals(self, refs: list[GlobalRef], record: str) -> None:
        """Rule 1 for every global, whether it is called or not."""
        for ref in refs:
            name = canonical(ref.module, ref.name)
            make = ALLOWED_VALUES.get(name)
            if make is not None:
                ref.value = value = make.make()
                if isinstance(value, Spec):
                    self._graph.specs.append(value)
                continue
            self._context.add_amplified(len(ref.module) + len(ref.name))
            dotted = f"{ref.module}.{ref.name}"
            ref.value = self._named(dotted)
            if self.script and ref.module.split(".", 1)[0] == _SCRIPT:
                self._opaque[dotted] = None
            elif not (
                name in ALLOWED_CALLS
                or name in ALLOWED_ARGUMENTS
                or name in STORAGE_DTYPES
                or dotted in self.policy.extra
            ):
                self._outside(ref.module, ref.name, record, ref.position)

    def _named(self, dotted: str) -> Spec:
        """Return what a name that is not called stands for."""
        own = self.policy.extra.get(dotted)
        if isinstance(own, Recipe) and own.stands_for is not None:
            return named_spec(dotted, own.stands_for)
        return OpaqueSpec(dotted)

    def _outside(self, module: str, name: str, record: str, position: int) -> None:
        """Note a name outside the allowlist, as the policy wants."""
        if self.policy.others == "refuse":
            self.refused.setdefault((module, name, record), position)
        else:
            self._opaque[f"{module}.{name}"] = None

    def _calls(
        self, pickle: Pickle, storage: Callable[[TensorCall], StorageSpec]
    ) -> None:
        """Rule 3."""
        context = self._context
        if any(type(ref.value) is GlobalRef for ref in pickle.persistent):
            name_classes(pickle)
        table: dict[GlobalRef, Checker] = {}
        for ref in pickle.globals:
            if f"{ref.module}.{ref.name}" in self.policy.extra:
                table[ref] = self._extra
                continue
            name = canonical(ref.module, ref.name)
            entry = ALLOWED_CALLS.get(name)
            table[ref] = self._opaque_call if entry is None else entry.checker
        made: set[int] = set()
        for call in pickle.calls:
            if isinstance(call, TensorCall):
                call.value = check_tensor(call, storage(call), context)
                continue
            if call.state is not UNCHECKED and id(call) not in made:
                # Its state may hold what was made after it.
                made.add(id(call))
                continue
            checker: Checker = self._call_of_result
            if type(call.target) is GlobalRef:
                checker = table[call.target]
            call.value = value = checker(call, context)
            context.charge(weight_of(value))

    def _extra(self, call: Call, context: CheckContext) -> object:
        """A global of the caller's own."""
        target: Any = call.target
        name = f"{target.module}.{target.name}"
        return extra_spec(call, name, self.policy.extra[name], call.args, context)

    def _opaque_call(self, call: Call, context: CheckContext) -> object:
        """Rule 4. A name that is refused is noted already; the rest are no calls."""
        target: Any = call.target
        name = (target.module, target.name, context.record)
        dotted = ref_name(target)
        noted = name in self.refused or dotted in self._opaque
        if self.policy.others == "refuse" and not noted:
            raise ForbiddenCallError(
                dotted,
                "may be named, but not called",
                position=call.position,
                record=context.record,
            )
        return opaque_record(call, dotted, call.args, context)

    def _outside_schema(self, call: Call, dotted: str) -> object:
        """An allowed call that needs a class which is not allowed."""
        target: Any = call.target
        if dotted in self.policy.extra:
            own, made = self.policy.extra[dotted], call
            # What copyreg's functions say is NEWOBJ of the class itself; the arguments
            # and items of any other call are not the class's.
            if ref_name(target) != dotted:
                made = Call(target, (), call.opcode, call.position)
                made.state = call.state
            return extra_spec(made, dotted, own, made.args, self._context)
        if dotted not in self._opaque:
            module, _, name = dotted.rpartition(".")
            self._outside(module, name, self._context.record, call.position)
        made_empty = canonical(target.module, target.name) == _RECONSTRUCTOR
        args = () if made_empty else call.args
        return opaque_record(call, dotted, args, self._context)

    def _call_of_result(self, call: Call, context: CheckContext) -> object:
        """Rule 5."""
        target = call.target
        if type(target) is not Call:
            raise MalformedFileError(
                f"a {type(target).__name__} is called",
                record=context.record,
                position=call.position,
            )
        made: Any = target.value
        if type(made) is not OpaqueSpec:
            raise ForbiddenCallError(
                "the result of a call",
                "is called itself",
                position=call.position,
                record=context.record,
            )
        name = made.name
        if not name.endswith("(...)"):
            name = self._results.setdefault(name, f"{name}(...)")
        return OpaqueSpec(
            name, (made, *call.args), call.kwargs, state_of(call), call.pairs,
            call.elements,
        )  # fmt: skip

"""Globals that a caller's policy accepts: what its code will get."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from safemodel._graph.composite_specs import ExtraSpec, MappingSpec, SequenceSpec
from safemodel._graph.opaque_calls import state_of
from safemodel.errors import ForbiddenCallError
from safemodel.policy import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from safemodel._graph.reconstructors.common import CheckContext
    from safemodel._graph.specs import Spec
    from safemodel._unpickle.nodes import Call
    from safemodel.policy import Reconstructor


def named_spec(name: str, stands_for: object) -> ExtraSpec:
    """Return the spec of a name that nothing calls."""
    return ExtraSpec(name, lambda _args, _state: stands_for, (), None)


def extra_spec(
    call: Call,
    name: str,
    own: Reconstructor | Recipe,
    args: tuple[object, ...],
    context: CheckContext,
) -> ExtraSpec:
    """Return the spec of an object that the caller's own code makes.

    Args:
        call: The call.
        name: Dotted name of the global.
        own: What the policy has for it.
        args: The constructor's arguments.
        context: Of the file.

    Raises:
        ForbiddenCallError: The code has no argument for something that it gets.
    """

    def refuse(reason: str) -> NoReturn:
        raise ForbiddenCallError(
            name, reason, position=call.position, record=context.record
        )

    recipe = own if isinstance(own, Recipe) else Recipe(make=own)
    if recipe.make is None:
        refuse("may be named, but not called")
    if call.kwargs:
        refuse("a Reconstructor takes no keyword arguments")
    state = _without(state_of(call), recipe.ignores, context)
    if not recipe.takes_items:
        if call.pairs is not None or call.elements is not None:
            refuse("a Reconstructor takes arguments and a state, not items")
        return ExtraSpec(name, recipe.make, args, state)
    if call.pairs is not None and call.elements is not None:
        refuse("it gets items as a dictionary and as a list")
    # Not one longer tuple: any number of calls may share their arguments.
    return ExtraSpec(name, _with_items(recipe.make), (args, _items(call)), state)


def _with_items(make: Callable[..., object]) -> Reconstructor:
    def reconstruct(given: Any, state: object, /) -> object:
        args, items = given
        return make(args, state, items)

    return reconstruct


def _items(call: Call) -> Spec | None:
    """Return what the file puts into an object, as a container of its own."""
    if call.pairs is not None:
        return MappingSpec("dict", call.pairs)
    if call.elements is not None:
        return SequenceSpec("list", call.elements)
    return None


def _without(state: object, ignored: tuple[str, ...], context: CheckContext) -> object:
    """Return a state without some of its attributes."""
    if type(state) is not dict or not any(name in state for name in ignored):
        return state
    # Each call gets a copy, and one state may serve any number of calls.
    context.copy(state, 16 * len(state))
    return {key: value for key, value in state.items() if key not in ignored}

"""Frozen values with named members, as `dataclasses` makes them, at no start-up cost.

Importing `dataclasses` takes 10 ms and each class half a millisecond, a good part of
what `safemodel scan` may take to start. Type checkers see dataclasses here, and so do
`dataclasses.fields`, `replace` and `asdict`: what they look for is made when they ask.
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn, dataclass_transform


class _OnDemand:
    """An attribute of a `Value` class that a real dataclass would have."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, _: object, owner: type[Value]) -> Any:
        import inspect
        from dataclasses import field, make_dataclass
        from functools import partial

        members: list[tuple[str, Any, Any]] = []
        for name, kind in owner.__annotations__.items():
            if name not in owner._defaults:
                made = field()
            elif type(owner._defaults[name]).__hash__ is None:
                made = field(default_factory=partial(owner._defaults.get, name))
            else:
                made = field(default=owner._defaults[name])
            members.append((name, kind, made))
        twin: Any = make_dataclass(owner.__name__, members, frozen=True, kw_only=True)
        if self._name == "__signature__":
            return inspect.signature(twin)
        return twin.__dataclass_fields__


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Value:
    """Base of values whose members are given by keyword and never change."""

    _defaults: ClassVar[dict[str, Any]] = {}
    __dataclass_fields__: ClassVar[dict[str, Any]] = _OnDemand("__dataclass_fields__")  # type: ignore[assignment]  # a descriptor
    __signature__: ClassVar[Any] = _OnDemand("__signature__")

    def __init_subclass__(cls) -> None:
        cls._defaults = {
            name: cls.__dict__[name]
            for name in cls.__annotations__
            if name in cls.__dict__
        }

    def __init__(self, **members: Any) -> None:
        given = {**self._defaults, **members}
        expected = type(self).__annotations__
        if given.keys() != expected.keys():
            odd = sorted(given.keys() ^ expected.keys())
            raise TypeError(f"{type(self).__name__}: missing or unknown: {odd}")
        # In one order, however they were given: hashes depend on it.
        self.__dict__.update({name: given[name] for name in expected})
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check the members; for subclasses."""

    def __setattr__(self, name: str, value: object) -> NoReturn:
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({shown})"

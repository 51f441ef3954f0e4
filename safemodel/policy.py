"""What to do with globals outside the allowlist: a frozen value passed to a call.

There is no process-wide allowlist to add to, and no environment variable to switch
anything off: what a call accepts can be read where the call is made.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol, Self

from safemodel._value import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Reconstructor(Protocol):
    """The caller's own code for one global: checks its data, returns an object.

    Called with the constructor's arguments and the state the file gives (None if
    none). Both hold only plain data, tensors, arrays and `Opaque` values, all of
    them already built. It is called as the file's content decides, so it must check
    what it is given; whatever it raises reaches the caller unchanged.
    """

    def __call__(self, args: tuple[object, ...], state: object, /) -> object:
        """Return the object that these arguments and this state describe."""


class Recipe(Value):
    """How to read a global where arguments and state are not all there is to it.

    Attributes:
        make: What makes an object of a call, as a `Reconstructor`. None: the name may
            be there, but not be called.
        takes_items: ``make`` is called with a third argument: what the file puts into
            an object whose class derives from `dict`, `list` or `set`, as a dictionary
            or a list; None if it puts nothing there.
        ignores: Attributes in the state that are left out before anything is built. An
            object that refers back to what holds it can be made without that reference.
        stands_for: What the caller gets where the file names the global and does not
            call it, such as the class of that name; None: an `Opaque`.
    """

    make: Callable[..., object] | None = None
    takes_items: bool = False
    ignores: tuple[str, ...] = ()
    stands_for: object = None

    def __post_init__(self) -> None:
        if self.make is not None and not callable(self.make):
            raise TypeError("what makes an object is not callable")
        if type(self.ignores) is not tuple:
            raise TypeError("ignores is a tuple of names")


class Policy(Value):
    """Which globals a file may name.

    Attributes:
        others: What happens to globals outside the allowlist: "refuse" raises
            `ForbiddenGlobalError`; "opaque" puts an inert `Opaque` in their place.
        extra: Dotted name (``package.module.Name``) to the caller's `Reconstructor` or
            `Recipe`.
    """

    others: Literal["refuse", "opaque"] = "refuse"
    extra: Mapping[str, Reconstructor | Recipe] = MappingProxyType({})

    def __post_init__(self) -> None:
        if self.others not in ("refuse", "opaque"):
            raise ValueError(f"others must be 'refuse' or 'opaque': {self.others!r}")
        for name, reconstructor in self.extra.items():
            if type(name) is not str or "." not in name:
                raise ValueError(f"not a dotted name: {name!r}")
            if not isinstance(reconstructor, Recipe) and not callable(reconstructor):
                raise TypeError(f"the reconstructor of {name} is not callable")
        # A private copy: a caller who mutates the dictionary later changes nothing.
        self.__dict__["extra"] = MappingProxyType(dict(self.extra))

    def with_extra(self, extra: Mapping[str, Reconstructor | Recipe], /) -> Self:
        """Return a copy that also accepts ``extra``; this policy stays as it is.

        Args:
            extra: As of the class; it wins over what this policy has of a name.

        Raises:
            TypeError: A reconstructor is not callable.
            ValueError: A name is not dotted.
        """
        return type(self)(**{**vars(self), "extra": {**self.extra, **extra}})


STRICT = Policy()
SALVAGE = Policy(others="opaque")

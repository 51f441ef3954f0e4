"""What stands in the place of `pickle` inside a module that unpickles files.

numpy and pandas read a file themselves up to where a pickle begins, and hand that to
`pickle`. So the name `pickle` in those modules is what is replaced: headers, memory
maps, lazy members and compression stay theirs, and early references are reached too.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from safemodel._patch.bounded import bounded
from safemodel._patch.opening import load_other
from safemodel.errors import UnpatchedCallError

if TYPE_CHECKING:
    from collections.abc import Callable


OF_PICKLE = frozenset(
    {
        "_pickle", "pickle", "pickle5", "cloudpickle", "cloudpickle.cloudpickle",
        "cloudpickle.cloudpickle_fast", "dill", "dill._dill",
        "joblib.externals.cloudpickle", "joblib.externals.cloudpickle.cloudpickle",
    }
)  # fmt: skip
"""Modules that unpickle."""


class InertPickle(ModuleType):
    """A module like `pickle`, which reads pickles as data and writes them as before."""

    def __init__(self, original: Any, call: str, failure: Any = None) -> None:
        super().__init__(original.__name__, f"pickle, as {call} has it")
        self._original = original
        self._call = call
        if failure is not None:
            self.UnpicklingError = failure

        class Unpickler(InertUnpickler):
            name = f"{call}.Unpickler"

        self.Unpickler = self._Unpickler = Unpickler

    def __getattr__(self, name: str) -> Any:
        # What writes pickles, and the names of errors, are no way to run a file.
        if name.startswith(("load", "_load")) or name == "decode_long":
            raise AttributeError(name)
        found = getattr(self._original, name)
        if isinstance(found, ModuleType) and found.__name__ in OF_PICKLE:
            return InertPickle(found, self._call)
        return found

    def load(
        self,
        file: Any,
        *,
        fix_imports: bool = True,
        encoding: str = "ASCII",
        errors: str = "strict",
        buffers: Any = None,
    ) -> Any:
        """Read a pickle from where a file stands."""
        return _load(self._call + ".load", file, fix_imports, encoding, errors, buffers)

    def loads(
        self,
        data: Any,
        /,
        *,
        fix_imports: bool = True,
        encoding: str = "ASCII",
        errors: str = "strict",
        buffers: Any = None,
    ) -> Any:
        """Read a pickle from bytes."""
        call = self._call + ".loads"
        return _load(call, data, fix_imports, encoding, errors, buffers)


class InertUnpickler:
    """A class like `pickle.Unpickler`; a subclass's `find_class` is never asked.

    Attributes:
        name: What it is called in the log.
    """

    name = "pickle.Unpickler"

    def __init__(
        self,
        file: Any,
        *,
        fix_imports: bool = True,
        encoding: str = "ASCII",
        errors: str = "strict",
        buffers: Any = None,
    ) -> None:
        self._arguments = file, fix_imports, encoding, errors, buffers

    def load(self) -> Any:
        """Read a pickle from where the file stands."""
        return _load(self.name, *self._arguments)


def inert_pickle(call: str, failure: Any = None) -> Callable[[Any], Any]:
    """Return what makes the replacement of a module's `pickle`.

    Args:
        call: What calls it, for the log.
        failure: What the module raises where it would raise an `UnpicklingError`.
    """
    return lambda original: InertPickle(original, call, failure)


def inert_function(call: str, name: str) -> Callable[[Any], Any]:
    """Return what replaces a function or class that was taken from `pickle`.

    Anything else of that name stays what it is.
    """

    def make(original: Any) -> Any:
        if getattr(original, "__module__", None) not in OF_PICKLE:
            return original
        module = InertPickle(ModuleType("pickle"), call)
        return getattr(module, name)

    return make


def inert_unpickler(call: str) -> Callable[[Any], Any]:
    """Return what replaces a class that derives from `pickle.Unpickler`.

    Its own methods are never asked: they say what a file may name, or look it up.
    """

    def make(original: Any) -> Any:
        class Unpickler(original):  # type: ignore[misc]  # it may be any class
            def __init__(self, *arguments: Any, **named: Any) -> None:
                # Its signature is its own: what it reads is known by what it can do.
                given = (*arguments, *named.values())
                files = [one for one in given if hasattr(one, "read")]
                if len(files) != 1:
                    raise UnpatchedCallError(call, "it reads no file that is known")
                text = {key: named[key] for key in _TEXT if key in named}
                self._inert = InertUnpickler(files[0], **text)
                self._inert.name = f"{call}.{original.__name__}"

            def load(self) -> Any:
                """Read a pickle from where the file stands."""
                return self._inert.load()

        Unpickler.__name__ = Unpickler.__qualname__ = original.__name__
        return Unpickler

    return make


_TEXT = ("encoding", "errors")


def _load(
    call: str, f: Any, fix_imports: bool, encoding: str, errors: str, buffers: Any
) -> Any:
    del fix_imports  # always on, as in `safe_load`
    if buffers is not None:
        raise TypeError("buffers outside a pickle are not read here (safemodel.patch)")
    # pickle's own default gives an error for what is not ASCII; text is UTF-8 in all
    # pickles but those of Python 2, whose text stays bytes where it is neither.
    encoding = "utf-8" if encoding == "ASCII" else encoding
    return load_other(call, f, opened=bounded, encoding=encoding, errors=errors)

"""Modules that are imported after the names in them were to be replaced.

A finder at the head of `sys.meta_path` lets the other finders find such a module, and
puts a loader around theirs that tells us when the module is complete. Nothing is
imported here, and no other module is looked at.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import ModuleType

    from safemodel._patch.targets import Target


class LateImports:
    """Calls back for each target whose module has just been imported."""

    def __init__(self, imported: Callable[[Target, Any], None]) -> None:
        self._imported = imported
        self._waiting: dict[str, list[Target]] = {}

    def watch(self, targets: Iterable[Target]) -> None:
        """Wait for the modules of these, too."""
        for target in targets:
            waiting = self._waiting.setdefault(target.module, [])
            if target not in waiting:
                waiting.append(target)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def stop(self) -> None:
        """Wait for nothing any more."""
        self._waiting.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> Any:
        """Return the spec that others find, with a loader that tells us the end."""
        if name not in self._waiting:
            return None
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            spec = find(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader, self)
                return spec
        return None

    def complete(self, module: Any) -> None:
        """Take note that a module has been imported."""
        for target in list(self._waiting.get(module.__name__, ())):
            self._imported(target, module)


class _Loader:
    """Somebody's loader, and a word to us when it is done."""

    def __init__(self, loader: Any, late: LateImports) -> None:
        self._loader = loader
        self._late = late

    def create_module(self, spec: Any) -> Any:
        """Make the module as the loader itself would."""
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        """Run the module's code, then tell."""
        # What asks the module for its loader later gets the real one.
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._late.complete(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

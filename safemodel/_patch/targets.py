"""What is replaced, by module and name, and by what.

A *replacement* takes the calls of code that never heard of us. A *guard* stands further
in, where only code arrives that took a loader before it was replaced: it refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from safemodel._patch import opening
from safemodel._patch.inert_pickle import inert_pickle
from safemodel._patch.joblib_files import joblib_loader, joblib_seam
from safemodel._patch.lazy_arrays import lazy_archive, lazy_archive_of_old
from safemodel._patch.settings import current
from safemodel.errors import (
    MalformedFileError,
    SafeModelError,
    UnpatchedCallError,
    UnsupportedFormatError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Target(NamedTuple):
    """One name that is replaced.

    Attributes:
        module: The module that has it.
        name: Its name there; dotted for a member of a class; `ALL_PICKLE` for whatever
            unpickles there.
        make: original → replacement.
    """

    module: str
    name: str
    make: Callable[[Any], Any]


ALL_PICKLE = "*"


def _loader(_: Any) -> Any:
    return opening.load


def _guard(call: str, hint: str) -> Callable[[Any], Any]:
    def make(_: Any) -> Any:
        def guard(*_: object, **__: object) -> Any:
            raise UnpatchedCallError(call, hint)

        return guard

    return make


def _torchscript(_: Any) -> Any:
    def load(
        f: Any,
        map_location: Any = None,
        _extra_files: Any = None,
        _restore_shapes: bool = False,
    ) -> Any:
        """Give the tensors of a TorchScript archive, if that was asked for.

        Raises:
            UnsupportedFormatError: It was not: such an archive is a program.
        """
        settings = current()
        if settings is None or settings.torchscript == "refuse":
            return opening.watched("torch.jit.load", f, _refuse_torchscript)
        return opening.load_other("torch.jit.load", f, map_location=map_location)

    return load


def _refuse_torchscript() -> Any:
    raise UnsupportedFormatError(
        "a TorchScript archive, asked for as a program: safemodel.patch() runs none;"
        " patch(torchscript='tensors') gives its tensors and attributes"
    )


def _package_importer(_: Any) -> Any:
    def refuse(self: Any, file_or_buffer: Any, *_: Any, **__: Any) -> None:
        """Refuse: a package is Python code."""
        del self
        call = "torch.package.PackageImporter"
        opening.watched(call, file_or_buffer, _refuse_package)

    return refuse


def _refuse_package() -> Any:
    raise UnsupportedFormatError(
        "a torch.package archive: it is Python code that its loader runs, and"
        " safemodel.patch() runs none"
    )


def _joblib_of_old(_: Any) -> Any:
    def refuse(filename: Any) -> Any:
        """Refuse: the format of joblib before 0.10, which others take for a pickle."""
        return opening.watched("joblib.load", filename, _refuse_joblib_of_old)

    return refuse


def _refuse_joblib_of_old() -> Any:
    raise UnsupportedFormatError("a joblib file in the format of joblib before 0.10")


def _unwrapped(original: Any) -> Any:
    """Return a loader of numpy's that gives our errors as they are.

    It takes whatever reading a pickle raises for the file's fault and raises an
    `UnpicklingError`, which callers answer by loading again without protection.
    """

    def load(*arguments: Any, **named: Any) -> Any:
        try:
            return original(*arguments, **named)
        except Exception as error:
            if isinstance(error.__cause__, SafeModelError):
                raise error.__cause__ from None
            raise

    load.__doc__ = original.__doc__
    return load


_IMPORT_LATER = "import it after patch(), or call it by its full name"
_TORCH = (
    Target("torch.serialization", "load", _loader),
    Target("torch", "load", _loader),
    Target("torch.serialization", "_load", _guard("torch.load", _IMPORT_LATER)),
    Target("torch.serialization", "_legacy_load", _guard("torch.load", _IMPORT_LATER)),
    Target("torch.jit._serialization", "load", _torchscript),
    Target("torch.jit", "load", _torchscript),
    Target("torch._C", "import_ir_module", _guard("torch.jit.load", _IMPORT_LATER)),
    Target("torch._C", "import_ir_module_from_buffer",
           _guard("torch.jit.load", _IMPORT_LATER)),
    Target("torch._C", "_load_jit_module_from_file",
           _guard("torch.jit.jit_module_from_flatbuffer", "TorchScript is not run")),
    Target("torch._C", "_load_jit_module_from_bytes",
           _guard("torch.jit.jit_module_from_flatbuffer", "TorchScript is not run")),
    Target("torch.package.package_importer", "PackageImporter.__init__",
           _package_importer),
)  # fmt: skip
# numpy raises an UnpicklingError for whatever goes wrong in a pickle: none of ours is.
_NUMPY_PICKLE = inert_pickle("numpy.load", MalformedFileError)
_NUMPY = (
    Target("numpy.lib._format_impl", "pickle", _NUMPY_PICKLE),
    Target("numpy.lib._npyio_impl", "pickle", _NUMPY_PICKLE),
    Target("numpy.lib.format", "pickle", _NUMPY_PICKLE),
    Target("numpy.lib.npyio", "pickle", _NUMPY_PICKLE),
    Target("numpy", "load", _unwrapped),
    Target("numpy.lib._npyio_impl", "NpzFile", lazy_archive),
    Target("numpy.lib.npyio", "NpzFile", lazy_archive_of_old),
)
# pandas tries again with an unpickler of its own where the first one raises.
_PANDAS = tuple(
    Target("pandas.io.pickle", name, inert_pickle("pandas.read_pickle"))
    for name in ("pickle", "pickle_compat", "pc")
)
_JOBLIB = (
    Target("joblib.numpy_pickle", "load", joblib_loader),
    Target("joblib", "load", joblib_loader),
    Target("joblib.numpy_pickle", "_unpickle", joblib_seam),
    Target("joblib.numpy_pickle", "load_compatibility", _joblib_of_old),
    Target("joblib.numpy_pickle_compat", "load_compatibility", _joblib_of_old),
    Target("sklearn.externals.joblib.numpy_pickle", "load", joblib_loader),
)


def targets_in(modules: Iterable[str]) -> tuple[Target, ...]:
    """Return what replaces `pickle` in modules, whatever it is called there."""
    return tuple(Target(module, ALL_PICKLE, _loader) for module in modules)


_AGENTS = targets_in(
    f"stable_baselines3.common.{name}"
    for name in ("save_util", "vec_env.vec_normalize")
)
TARGETS = _TORCH + _NUMPY + _PANDAS + _JOBLIB + _AGENTS

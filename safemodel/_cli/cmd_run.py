"""``safemodel run``: run a program whose model files are opened by `safe_load`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safemodel._patch.start import Wanted

_EPILOG = """\
exit codes:
  that of the program; 2 if there is no such program, or if the workers of the program
  could not be patched (python -E, -I or -S)

The interpreters that the program starts are patched as well: workers of
multiprocessing, torchrun (safemodel run -m torch.distributed.run ...), and others that
it starts as processes, which end at once if they cannot be patched.
"""
_CANNOT = 2
_INTERRUPTED = 130


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb's arguments."""
    parser = verbs.add_parser(
        "run",
        help="run a program whose model files are opened safely",
        description="Run a Python program as it is; torch.load and its like open files"
        " as safe_load does, in it and in the processes that it starts.",
        usage="safemodel run [options] (SCRIPT | -m MODULE) [arguments of the program]",
        epilog=_EPILOG,
    )
    _add_settings(parser)
    # All that follows, as for python: options after a program's name are the program's.
    parser.add_argument(
        "-m",
        dest="module",
        metavar="MODULE",
        nargs=argparse.REMAINDER,
        help="run a module, as python -m does",
    )
    parser.add_argument(
        "program", nargs=argparse.REMAINDER, metavar="SCRIPT", help=argparse.SUPPRESS
    )
    parser.set_defaults(run=run, parser=parser)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Declare how files are opened."""
    parser.add_argument(
        "--opaque",
        action="store_true",
        help="put inert values in the place of globals that are not allowed, instead of"
        " refusing the file",
    )
    parser.add_argument(
        "--torchscript-tensors",
        action="store_true",
        help="let torch.jit.load give the tensors of TorchScript archives as data",
    )
    parser.add_argument(
        "--pickle-in",
        action="append",
        default=[],
        metavar="MODULE",
        help="let pickle read files as data in this module; may be given again",
    )
    parser.add_argument(
        "--audit-wall",
        action="store_true",
        help="end any load that is about to import something or to start a process, by"
        " an audit hook",
    )
    parser.add_argument(
        "--log",
        metavar="FILE",
        help="append a line of JSON for each model file that is opened",
    )


def run(options: argparse.Namespace) -> int:
    """Run the program; return its exit code."""
    from safemodel._patch.start import Wanted, apply, is_module_name

    arguments: list[str] = options.program if options.module is None else options.module
    if not arguments:
        options.parser.error("a script, or -m and a module, is needed")
    if options.module is None and not os.path.exists(arguments[0]):  # noqa: PTH110 - pathlib costs start-up time
        sys.stderr.write(f"safemodel: no such file: {arguments[0]}\n")
        return _CANNOT
    if odd := [one for one in options.pickle_in if not is_module_name(one)]:
        options.parser.error(f"--pickle-in: {odd[0]!r} is no name of a module")
    if sys.flags.ignore_environment or sys.flags.no_site:
        sys.stderr.write(
            "safemodel: python -E, -I and -S keep the interpreters that a program"
            " starts from being patched\n"
        )
        return _CANNOT
    asked = Wanted(
        on_refuse="opaque" if options.opaque else "raise",
        torchscript="tensors" if options.torchscript_tensors else "refuse",
        audit_wall=options.audit_wall,
        pickle_in=tuple(options.pickle_in),
    )
    _prepare_children(asked, options.log)
    apply(asked)
    return _run_program(arguments, is_module=options.module is not None)


def _prepare_children(asked: Wanted, log: str | None) -> None:
    """Have the interpreters that the program starts patched, too."""
    from safemodel._patch import on_path
    from safemodel._patch.journal import LOG_VARIABLE
    from safemodel._patch.start import VARIABLE

    os.environ[VARIABLE] = asked.to_text()
    if log is not None:
        os.environ[LOG_VARIABLE] = log
    before = os.environ.get("PYTHONPATH", "")
    folders = [next(iter(on_path.__path__)), *([before] if before else [])]
    os.environ["PYTHONPATH"] = os.pathsep.join(folders)


def _run_program(arguments: list[str], *, is_module: bool) -> int:
    """Run a program as the main module; return its exit code."""
    import runpy
    from types import ModuleType

    try:
        sys.argv[:] = arguments
        if is_module:
            # As `python -m`: the current folder is searched first.
            sys.path.insert(0, os.getcwd())  # noqa: PTH109 - pathlib costs start-up time
            sys.modules["__main__"] = ModuleType("__main__")
            # Not run_module: its main module is gone when exit handlers still run.
            runpy._run_module_as_main(arguments[0])  # type: ignore[attr-defined]
        else:
            sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))  # noqa: PTH100, PTH120 - pathlib costs start-up time
            _run_script(arguments[0])
    except SystemExit:
        raise
    except KeyboardInterrupt:
        return _INTERRUPTED
    # Whatever ends the program is shown as its own end, without our frames.
    except BaseException as error:  # noqa: BLE001
        shown = error.with_traceback(_of_program(error))
        sys.excepthook(type(shown), shown, shown.__traceback__)
        return 1
    return 0


def _run_script(path: str) -> None:
    """Run a script, a folder or an archive with a main module in it."""
    import io
    import runpy
    from types import ModuleType

    if os.path.isdir(path) or not path.endswith((".py", ".pyw")):  # noqa: PTH112 - pathlib costs start-up time
        runpy.run_path(path, run_name="__main__")
        return
    # Not run_path: its main module is gone when threads and exit handlers still run.
    main = ModuleType("__main__")
    main.__file__ = path
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    with io.open_code(os.path.abspath(path)) as source:  # noqa: PTH100 - pathlib costs start-up time
        code: Any = compile(source.read(), path, "exec", dont_inherit=True)
    exec(code, main.__dict__)  # noqa: S102 - the user's own program, which they asked to run


def _of_program(error: BaseException) -> Any:
    """Return the part of a traceback that is the program's."""
    trace = error.__traceback__
    ours = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib costs start-up time
    while trace is not None and trace.tb_next is not None:
        file = trace.tb_frame.f_code.co_filename
        if not (file.startswith(ours) or "runpy" in file):
            break
        trace = trace.tb_next
    return trace

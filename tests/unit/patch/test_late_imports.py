"""Modules that are imported after `patch`: in a fresh interpreter each."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAMS = {
    "torch is imported after the patch": """
        import sys
        import safemodel
        safemodel.patch()
        assert "torch" not in sys.modules
        from torch import load
        import torch
        assert load is torch.load is torch.serialization.load
        assert load.__module__ == "safemodel._patch.opening"
        import torch.jit, torch.package
        assert torch.jit.load.__module__.startswith("safemodel.")
        safemodel.unpatch()
        assert torch.load.__module__ == torch.serialization.load.__module__
        assert torch.load.__module__ == "torch.serialization"
        assert torch.serialization._load.__module__ == "torch.serialization"
        assert torch.jit.load.__module__ == "torch.jit._serialization"
    """,
    "numpy is imported after the patch": """
        import io, sys
        import safemodel
        with safemodel.patched():
            assert "numpy" not in sys.modules
            import numpy
            import numpy.lib._npyio_impl as inside
            assert type(inside.pickle).__name__ == "InertPickle"
        import pickle
        assert inside.pickle is pickle
        assert numpy.load.__module__ == "numpy"
    """,
    "a named module that is imported once more": """
        import importlib, pathlib, sys, tempfile
        import safemodel
        folder = tempfile.mkdtemp()
        sys.path.insert(0, folder)
        pathlib.Path(folder, "reloaded.py").write_text("import pickle\\n")
        import pickle, reloaded
        with safemodel.patched(pickle_in=["reloaded"]):
            importlib.reload(reloaded)
            assert type(reloaded.pickle).__name__ == "InertPickle"
            importlib.reload(reloaded)
            assert type(reloaded.pickle).__name__ == "InertPickle"
        assert reloaded.pickle is pickle
    """,
    "a module that fails to import can be imported again": """
        import pathlib, sys, tempfile
        import safemodel
        folder = tempfile.mkdtemp()
        sys.path.insert(0, folder)
        path = pathlib.Path(folder, "fails_once.py")
        path.write_text("import pickle\\nraise KeyError\\n")
        with safemodel.patched(pickle_in=["fails_once"]):
            try:
                import fails_once
            except KeyError:
                pass
            path.write_text("import pickle\\nsize = 1234\\n")
            import fails_once
            assert type(fails_once.pickle).__name__ == "InertPickle"
            assert type(fails_once.__loader__).__name__ == "SourceFileLoader"
            assert fails_once.__spec__.loader is fails_once.__loader__
        assert type(fails_once.pickle).__name__ == "module"
        assert not [one for one in sys.meta_path if "safemodel" in type(one).__module__]
    """,
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_in_a_fresh_interpreter(program):
    """The program ends without an error."""
    lines = [line.removeprefix(" " * 8) for line in program.splitlines()]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")

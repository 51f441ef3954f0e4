"""The layers of the architecture, and the house rules, as tests.

Each rule is a function from source text to breaches, so each has two tests: the
package keeps it, and a text that breaks it is caught.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "safemodel"

FOLDERS = "benchmarks clients examples safemodel tests tools training".split()
"""All that holds Python."""

LAYERS = {
    "_value": -1.0,
    "_version": -1.0,
    "errors": 0.0,
    "limits": 0.0,
    "policy": 0.0,
    "reports": 0.0,
    "_report": 0.0,  # what reports look like to people
    "_types": 0.0,
    "_collector": 0.0,
    "_containers": 1.0,
    "_unpickle": 1.0,
    "_graph": 1.0,
    "_formats": 1.5,  # one module a format: ties the three of layer 1 together
    "_scan": 1.75,  # looks further into a file than the check does, and builds nothing
    "_kernels": 2.0,
    "scrub": 2.5,  # over the kernels and below whatever writes tensors
    "_build": 3.0,
    "_rewrite": 3.5,  # writes what `_build` would have built, without torch
    "_protect": 3.75,  # keys, seals and tags: below what opens and writes files
    "_detector": 3.8,  # reads what `_rewrite` reads, and decides what is in it
    "_load": 4.0,
    "_disarm": 4.0,
    "protection": 4.0,
    "detection": 4.0,
    "scanning": 4.0,
    "evaluation": 4.5,  # the laboratory: opens files, and nothing below asks for it
    "_patch": 4.75,  # stands in the place of other loaders, over `safe_load`
    "_testing": 4.9,
    "testing": 5.0,
    "monkeypatch": 4.8,
    "recipes": 5.0,
    "__init__": 5.0,
    "_cli": 6.0,
    "pytest_plugin": 6.0,
    "__main__": 7.0,
}

SAME_LAYER = {
    # importing module's package → what it may import beside it
    # The nodes it reads, the opcodes they came from, and the guard of keys: what an
    # opcode may make of a dictionary and what a checked call may is one rule.
    "_graph": (
        "safemodel._unpickle.nodes",
        "safemodel._unpickle.opcodes",
        "safemodel._unpickle.keys",
        # Where the machine puts what it found behind a BUILD of joblib's.
        "safemodel._unpickle.joblib_arrays",
        "safemodel._unpickle.parsed",
    ),
    "reports": (
        "safemodel.errors",
        "safemodel.limits",
        "safemodel.policy",
        "safemodel._report",  # a report prints itself
    ),
}

THIRD_PARTY = {"torch", "numpy", "numba", "safetensors", "cryptography", "blake3"}
THIRD_PARTY |= {"rich", "typing_extensions", "zlib_ng", "jinja2", "llvmlite", "pytest"}
AT_MODULE_LEVEL = {
    0.0: {"typing_extensions"},
    2.0: {"numpy", "numba"},
    3.0: {"torch", "numpy", "safetensors", "zlib_ng"},
    3.5: {"numpy"},
    3.75: {"blake3", "numpy"},
    3.8: {"numpy"},
    4.5: {"numpy"},
    6.0: {"rich"},  # of a module that is imported for a terminal only
}
"""Third-party packages a layer may import at module level; no entry: none."""

INSIDE_FUNCTIONS = {
    2.0: {"numpy", "numba"},
    2.5: {"numpy", "cryptography"},
    3.0: {"torch", "numpy", "safetensors"},
    3.5: {"safetensors", "blake3"},
    3.75: {"cryptography", "numpy"},
    3.8: {"torch", "numpy"},
    4.0: {"torch", "numpy", "blake3"},
    4.5: {"torch", "numpy", "safetensors", "cryptography"},
    5.0: {"torch", "numpy"},
    6.0: {"rich", "torch"},
}

MORE_THAN_LAYER = {
    "_unpickle/windows.py": {"numpy"},
    "_kernels/_chacha.py": {"llvmlite"},  # comes with numba
    "_kernels/_draws.py": {"llvmlite"},
    "_kernels/_lines.py": {"llvmlite"},
    "_kernels/_native.py": {"llvmlite"},
    "_kernels/_rounds.py": {"llvmlite"},
    "_report/pages.py": {"jinja2"},  # imported for a page only
    "_detector/prototype_file.py": {"safetensors"},  # what `save` writes with
    "pytest_plugin.py": {"pytest"},
    "_testing/stego_model.py": {"numpy", "safetensors"},
    "_detector/xray_networks.py": {"torch"},  # imported for that detector only
}
"""Modules that may import more than their layer: what, at module level."""

UNPICKLERS = {"pickle", "_pickle", "marshal", "dill", "cloudpickle", "joblib", "shelve"}
RESOLVERS = {"importlib", "imp", "pkgutil", "runpy", "ctypes", "copyreg", "pydoc"}
MAY_RESOLVE = {
    "_kernels/_native.py": {"ctypes"},  # calls what was compiled there, by address
}
"""Modules that may import one of those: what."""

CALLS = {"eval", "exec", "compile", "__import__"}

LONG_FUNCTIONS = {
    "_containers/zip_archive.py:_locate": "the loop over records, as many as tensors",
    "_unpickle/machine.py:run": "the opcode loop: a call an opcode would double it",
}
"""Functions over 40 lines of code: "file:function" → why it is not split."""


DIRECTIVE = re.compile(
    r"# *(?:noqa|type: *ignore|mypy|pragma: no \w+)\b"
    r"(?:: *[A-Z]+\d+(?:, *[A-Z]+\d+)*|\[.*?\])?"
)
"""What silences a check, without the words behind it."""


UNSAID = {"safemodel/_detector/xray.py": "torch does not annotate `backward`"}
"""Files with a silenced check that cannot say why beside it → why."""


class Import(NamedTuple):
    name: str  # dotted; for `from a import b` both a and a.b are one entry: a.b
    line: int
    in_function: bool
    typing_only: bool


def imports(source: str) -> Iterator[Import]:
    """Yield every import with the circumstances that decide if it is allowed."""
    todo: list[tuple[ast.AST, bool, bool]] = [(ast.parse(source), False, False)]
    while todo:
        node, inside, typing_only = todo.pop()
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, inside, typing_only)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            for alias in node.names:
                name = f"{prefix}.{alias.name}"
                yield Import(name, node.lineno, inside, typing_only)
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += [(child, inside, True) for child in node.body]
            todo += [(child, inside, typing_only) for child in node.orelse]
        else:
            todo += [(c, inside, typing_only) for c in ast.iter_child_nodes(node)]


def own_package(file: str) -> str:
    """Return the top-level name a file of the package belongs to."""
    return file.split("/", maxsplit=1)[0].removesuffix(".py")


def layer_breaches(file: str, source: str) -> list[str]:
    """Return imports that do not point down."""
    own = own_package(file)
    layer = LAYERS.get(own)
    if layer is None:
        return [f"{file}: not in the layer table"]
    breaches = []
    for found in imports(source):
        where = f"{file}:{found.line}: {found.name}"
        top = found.name.split(".")[0]
        if found.name.startswith("."):
            breaches.append(f"{where}: relative import")
        elif top == "safemodel":
            if reason := _own_import_breach(own, layer, found):
                breaches.append(f"{where}: {reason}")
        elif top in THIRD_PARTY and not found.typing_only:
            table = INSIDE_FUNCTIONS if found.in_function else AT_MODULE_LEVEL
            if top not in table.get(layer, set()) | MORE_THAN_LAYER.get(file, set()):
                breaches.append(f"{where}: not in layer {layer}")
        elif top not in THIRD_PARTY and top not in sys.stdlib_module_names:
            breaches.append(f"{where}: not a dependency")
    return breaches


def _own_import_breach(own: str, layer: float, found: Import) -> str:
    """Return what is wrong with an import of the package's own modules, or ''."""
    parts = found.name.split(".")
    target = parts[1] if len(parts) > 1 and parts[1] in LAYERS else "__init__"
    below = LAYERS[target]
    if target == own:
        return ""
    if own == "_kernels":
        return "kernels import no other module of the package"
    if below > layer:
        return f"layer {layer} imports layer {below}"
    if below == layer:
        allowed = SAME_LAYER.get(own, ())
        named = any(found.name.startswith(name) for name in allowed)
        return "" if named or found.typing_only else "beside it, not below it"
    if target == "_kernels" and not (found.in_function or found.typing_only):
        return "kernels are compiled where they are first needed"
    if below == 3.0 and layer == 4.0 and not (found.in_function or found.typing_only):
        return "layer 4 imports what needs torch inside functions only"
    return ""


def ban_breaches(file: str, source: str) -> list[str]:
    """Return uses of what could run or resolve something a file names."""
    deciding = LAYERS.get(own_package(file), 0.0) <= 2.0
    modules = UNPICKLERS | (RESOLVERS if deciding else set())
    modules -= MAY_RESOLVE.get(file, set())
    breaches = [
        f"{file}:{found.line}: imports {found.name}"
        for found in imports(source)
        if found.name.split(".")[0] in modules
    ]
    for node in ast.walk(ast.parse(source)):
        if not deciding or not isinstance(node, ast.Call):
            continue
        where = f"{file}:{node.lineno}"
        called = node.func.id if isinstance(node.func, ast.Name) else ""
        if called in CALLS:
            breaches.append(f"{where}: calls {called}")
        by_name = called in {"getattr", "setattr", "hasattr", "delattr"}
        if by_name and not isinstance(node.args[1], ast.Constant):
            breaches.append(f"{where}: {called} with a variable name")
    return breaches


def njit_breaches(file: str, source: str) -> list[str]:
    """Return compilation by anything but the one module that decides the flags."""
    if file == "_kernels/_jit.py":
        return []
    compilers = {"njit", "jit", "vectorize", "guvectorize", "cfunc", "stencil"}
    return [
        f"{file}:{found.line}: {found.name}"
        for found in imports(source)
        if found.name == "numba" or found.name.removeprefix("numba.") in compilers
    ]


def size_breaches(file: str, source: str) -> list[str]:
    """Return a module over 400 lines, and functions over 40 lines of code."""
    breaches = []
    if (lines := len(source.splitlines())) > 400:
        breaches.append(f"{file}: {lines} lines")
    for name, length in function_lengths(source):
        if length > 40 and f"{file}:{name}" not in LONG_FUNCTIONS:
            breaches.append(f"{file}:{name}: {length} lines")
    return breaches


def function_lengths(source: str) -> Iterator[tuple[str, int]]:
    """Yield each function and the lines of its body, docstring not counted."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[ast.get_docstring(node) is not None :]
            first = body[0].lineno if body else 1
            yield node.name, (node.end_lineno or 0) - first + 1 if body else 0


def sources() -> list[tuple[str, str]]:
    """Return every module of the package: path within it, and text."""
    return [
        (path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


def silence_breaches(file: str, source: str) -> list[str]:
    """Return checks that are silenced without a word why, there or just above."""
    said: dict[int, str] = {}
    silent = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line = token.start[0]
            said[line] = DIRECTIVE.sub("", token.string)
            if DIRECTIVE.search(token.string) and not (
                re.search(r"\w", "".join(said.get(line - up, "") for up in range(3)))
                or file in UNSAID
            ):
                silent.append(f"{file}:{line}: {token.string}")
    return silent


RULES = (layer_breaches, ban_breaches, njit_breaches, size_breaches)


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps_the_rule(rule):
    """No module of the package breaks it."""
    found = sources()
    assert len(found) > 10
    assert [breach for file, text in found for breach in rule(file, text)] == []


def test_a_source_distribution_has_every_folder():
    """Its tests read all of them."""
    lines = (PACKAGE.parent / "MANIFEST.in").read_text(encoding="utf-8").splitlines()
    words = [line.split() for line in lines]
    grafted = {name for what, *names in words if what == "graft" for name in names}
    assert grafted | {"safemodel"} == {*FOLDERS, "docs"}
    included = [name for what, *names in words if what == "include" for name in names]
    top = {one.name for one in PACKAGE.parent.glob("*.md")}
    assert top - {"README.md"} <= set(included)
    assert all((PACKAGE.parent / name).is_file() for name in included)


@pytest.mark.parametrize("folder", FOLDERS)
def test_whatever_is_silenced_says_why(folder):
    """In the package, and in what lies beside it."""
    root = PACKAGE.parent
    paths = sorted((root / folder).rglob("*.py"))
    assert paths
    assert [
        breach
        for path in paths
        for breach in silence_breaches(
            path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
        )
    ] == []


@pytest.mark.parametrize(
    ("rule", "file", "source"),
    [
        (layer_breaches, "errors.py", "from safemodel._graph.specs import Spec"),
        (layer_breaches, "limits.py", "from safemodel.policy import Policy"),
        (layer_breaches, "_graph/specs.py", "import torch"),
        (layer_breaches, "_graph/specs.py", "def f():\n    import numpy"),
        (layer_breaches, "_unpickle/text_runs.py", "import numpy"),
        (layer_breaches, "_unpickle/windows.py", "import torch"),
        (layer_breaches, "_graph/check.py", "import safemodel._unpickle.machine"),
        (layer_breaches, "_unpickle/machine.py", "from safemodel._containers import x"),
        (layer_breaches, "_containers/x.py", "from safemodel._unpickle.nodes import x"),
        (layer_breaches, "_formats/tar.py", "from safemodel._build import tensors"),
        (layer_breaches, "_formats/tar.py", "from .zip import x"),
        (layer_breaches, "_formats/tar.py", "from safemodel import safe_load"),
        (layer_breaches, "_kernels/bits.py", "from safemodel.errors import quote"),
        (layer_breaches, "scrub.py", "import numpy"),
        (layer_breaches, "_report/text.py", "import jinja2"),
        (layer_breaches, "_report/text.py", "from safemodel.reports import Finding"),
        (layer_breaches, "_cli/tables.py", "import jinja2"),
        (layer_breaches, "scrub.py", "from safemodel._kernels import bits"),
        (layer_breaches, "_build/tensors.py", "from safemodel._load import safe_load"),
        (layer_breaches, "_build/tensors.py", "import rich"),
        (layer_breaches, "_load.py", "import torch"),
        (layer_breaches, "_load.py", "from safemodel._build.tensors import build"),
        (layer_breaches, "_load.py", "from safemodel.scanning import inspect_file"),
        (layer_breaches, "_cli/render.py", "import requests"),
        (layer_breaches, "helpers.py", ""),
        (ban_breaches, "_load.py", "import pickle"),
        (ban_breaches, "_cli/x.py", "from marshal import loads"),
        (ban_breaches, "_cli/x.py", "def f():\n    from dill import loads"),
        (ban_breaches, "_unpickle/machine.py", "import importlib.util"),
        (ban_breaches, "_kernels/permute.py", "import ctypes"),
        (ban_breaches, "_kernels/_native.py", "import importlib"),
        (ban_breaches, "_graph/check.py", "eval('1')"),
        (ban_breaches, "_graph/check.py", "exec('1')"),
        (ban_breaches, "_graph/check.py", "__import__('os')"),
        (ban_breaches, "_graph/check.py", "getattr(x, name)"),
        (ban_breaches, "_graph/check.py", "setattr(x, f'_{name}', 1)"),
        (njit_breaches, "_kernels/bits.py", "from numba import njit"),
        (njit_breaches, "_kernels/bits.py", "import numba"),
        (njit_breaches, "_build/tensors.py", "def f():\n    from numba import jit"),
        (silence_breaches, "errors.py", "x = 1  # noqa: E731, S101"),
        (silence_breaches, "errors.py", "# words\n\n\nx = 1  # type: ignore[arg-type]"),
        (silence_breaches, "errors.py", "x = 1  # pragma: no cover"),
        (size_breaches, "errors.py", "x = 1\n" * 401),
        (size_breaches, "errors.py", "def f():\n" + "    x = 1\n" * 41),
    ],
)
def test_a_breach_is_caught(rule, file, source):
    """The rule can fail: one bad text, one breach."""
    assert len(rule(file, source)) == 1


@pytest.mark.parametrize(
    ("rule", "file", "source"),
    [
        (layer_breaches, "_graph/check.py", "from safemodel._unpickle.nodes import x"),
        (
            layer_breaches,
            "_graph/specs.py",
            "if TYPE_CHECKING:\n    from safemodel._containers.source import Record",
        ),
        (layer_breaches, "_types.py", "if TYPE_CHECKING:\n    import torch"),
        (layer_breaches, "_report/pages.py", "import jinja2"),
        (layer_breaches, "reports.py", "def f():\n    import safemodel._report.html"),
        (layer_breaches, "_formats/tar.py", "from safemodel._containers import tar"),
        (layer_breaches, "_build/tensors.py", "import torch"),
        (layer_breaches, "_unpickle/windows.py", "import numpy"),
        (layer_breaches, "_load.py", "def f():\n    from safemodel._build import x"),
        (layer_breaches, "scrub.py", "def f():\n    from safemodel._kernels import x"),
        (layer_breaches, "__init__.py", "from safemodel._load import safe_load"),
        (ban_breaches, "_kernels/_native.py", "import ctypes"),
        (ban_breaches, "_cli/x.py", "getattr(x, name)"),
        (ban_breaches, "_graph/check.py", "getattr(x, 'name')"),
        (njit_breaches, "_kernels/_jit.py", "from numba import njit"),
        (silence_breaches, "errors.py", "x = 1  # noqa: E731, S101 - words"),
        (silence_breaches, "errors.py", "# words\nx = 1  # type: ignore[arg-type]"),
        (silence_breaches, "errors.py", "x = '# noqa'"),
        (size_breaches, "errors.py", "x = 1\n" * 400),
        (size_breaches, "errors.py", "def f():\n" + "    x = 1\n" * 40),
        (size_breaches, "errors.py", 'def f():\n    """\n' + "\n" * 50 + '    """\n'),
    ],
)
def test_what_is_allowed_passes(rule, file, source):
    """The other side of each bound is not a breach."""
    assert rule(file, source) == []


def test_no_silence_outlives_its_reason():
    """A file that need not say why has a check silenced."""
    for file in UNSAID:
        assert DIRECTIVE.search((PACKAGE.parent / file).read_text(encoding="utf-8"))


def test_no_exception_outlives_its_reason():
    """A function in the table of long ones is there, and is long."""
    lengths = {
        f"{file}:{name}": length
        for file, text in sources()
        for name, length in function_lengths(text)
    }
    stale = [name for name in LONG_FUNCTIONS if lengths.get(name, 0) <= 40]
    assert stale == []


HEAVY = ("torch", "numba", "numpy", "safetensors", "rich", "jinja2", "cryptography")
HEAVY += ("cryptography", "blake3")


def heavy_modules_after(statement: str) -> list[str]:
    """Return which heavy packages a fresh interpreter holds after a statement."""
    report = f"print([name for name in {HEAVY} if name in sys.modules])"
    program = f"import sys\n{statement}\n{report}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return list(ast.literal_eval(done.stdout.splitlines()[-1]))


def test_importing_the_package_imports_nothing_heavy():
    """Neither torch nor numba nor numpy: `import safemodel` stays cheap."""
    assert heavy_modules_after("import safemodel") == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["scan", "--help"],
        ["detect", "--help"],
        ["protect", "--help"],
        ["--version"],
    ],
)
def test_asking_for_help_imports_nothing_heavy(arguments):
    """Nor does anything else that looks at no file."""
    asking = f"""\
from safemodel._cli import main
try:
    main({arguments})
except SystemExit as end:
    assert not end.code
"""
    assert heavy_modules_after(asking) == []


def test_the_import_check_sees_a_heavy_import():
    """The check itself can fail."""
    assert heavy_modules_after("import safemodel, numpy") == ["numpy"]

"""The public names and signatures, against a snapshot that a reviewer reads.

After a change on purpose: ``python tests/test_public_api.py > tests/public_api.txt``,
and a line in the changelog.
"""

import enum
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from pathlib import Path

import safemodel

SNAPSHOT = Path(__file__).with_name("public_api.txt")
PACKAGE = Path(safemodel.__file__).parent


def public_modules() -> list[str]:
    """Return the package, and packages and modules in it without an underscore."""
    paths = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")]
    names = [
        path.parent.parts if path.stem == "__init__" else path.with_suffix("").parts
        for path in paths
    ]
    public = [name for name in names if not any(part[0] == "_" for part in name)]
    return sorted(".".join(("safemodel", *name)) for name in public)


def public_names(module: object) -> list[str]:
    """Return ``__all__``, or else what the module defines without an underscore."""
    named = getattr(module, "__all__", None)
    if named is not None:
        return sorted(named)
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and name != "TYPE_CHECKING"
        and getattr(value, "__module__", module.__name__) == module.__name__
    )


def signature(function: object) -> str:
    """Return a signature, annotations without the quotes that postpone them."""
    text = str(inspect.signature(function))
    return re.sub(r"""(: |-> )(["'])(.*?)\2(?=[,)]| =|$)""", r"\1\3", text)


def describe(prefix: str, value: object) -> Iterator[str]:
    """Yield lines for one public name: signature, and a class's public members."""
    if inspect.isfunction(value):
        yield f"{prefix}{signature(value)}"
        return
    if not inspect.isclass(value):
        yield f"{prefix}: {type(value).__name__}"
        return
    # A base without a public name is no part of the surface; what it gives is.
    own: dict[str, object] = {}
    shown = value.__bases__
    while len(shown) == 1 and shown[0].__name__.startswith("_"):
        own = {**vars(shown[0]), **own}
        shown = shown[0].__bases__
    own.update(vars(value))
    bases = ", ".join(base.__name__ for base in shown)
    yield f"class {prefix}({bases})"
    if issubclass(value, enum.Enum):
        yield from (f"    {member.name} = {member.value!r}" for member in value)
        return
    if is_dataclass(value):
        yield from (f"    {f.name}: {f.type}{default(f)}" for f in fields(value))
    elif "__init__" in vars(value) and not getattr(value, "_is_protocol", False):
        yield f"    __init__{signature(value.__init__)}"
    for name, member in sorted(own.items()):
        unwrapped = getattr(member, "__func__", member)
        if not name.startswith("_") and inspect.isfunction(unwrapped):
            yield f"    {name}{signature(unwrapped)}"
        elif not name.startswith("_") and isinstance(member, property):
            yield f"    {name}: property"


def default(field: Field[object]) -> str:
    """Return a field's default, if it is a value that text can show."""
    plain = isinstance(field.default, bool | int | float | str | None)
    return f" = {field.default!r}" if plain else ""


def snapshot() -> str:
    """Return the whole public surface as text."""
    lines = []
    for name in public_modules():
        module = importlib.import_module(name)
        lines.append(f"# {name}")
        for public in public_names(module):
            value = getattr(module, public)
            home = getattr(value, "__module__", name)
            if home != name and home in public_modules():
                lines.append(f"{public} from {home}")
            else:
                lines += describe(public, value)
        lines.append("")
    return "\n".join(lines)


def test_the_public_surface_is_the_one_on_file():
    """No name, argument or default changes unnoticed."""
    assert snapshot().splitlines() == SNAPSHOT.read_text().splitlines()


def test_a_changed_signature_would_show():
    """The text holds names, defaults and kinds of arguments."""

    def function(a, *, b=1):
        return a, b

    assert list(describe("f", function)) == ["f(a, *, b=1)"]


def test_every_public_name_is_there_and_documented():
    """``__all__`` is sorted, true, and each class and function has a docstring."""
    assert sorted(safemodel.__all__) == sorted(set(safemodel.__all__))
    for name in safemodel.__all__:
        value = getattr(safemodel, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name


if __name__ == "__main__":
    sys.stdout.write(snapshot())

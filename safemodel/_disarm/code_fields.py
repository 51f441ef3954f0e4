"""Which members of a JSON text make a loader run code, and a value without them.

Rules:

1. A member is told by its name, an entry of a list by its text, wherever they stand.
   Each has a reason, which the report gives.
2. What is removed is removed whole: no loader is given half of it.
3. This is a list of what loaders are known to do. Unlike the allowlist for weights it
   can miss something; docs/disarm.md says so.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from safemodel._scan.render import printable
from safemodel.reports import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Callable

ALWAYS = {
    "auto_map": "transformers imports the Python files it names",
    "custom_pipelines": "transformers imports the Python files it names",
    "custom_pipeline": "diffusers imports the Python file it names",
    "custom_generate": "transformers runs the Python code it names",
    "trust_remote_code": "some versions of transformers take it for your consent",
    "trust_repo": "torch.hub takes it for your consent",
    "auto_mapping": "peft imports the library it names",
    "kernel_config": "transformers loads the compiled kernels it names",
    "kernel_mapping": "transformers loads the compiled kernels it names",
    "_target_": "Hydra, NeMo and MONAI import and call what it names",
    "class_path": "Lightning and jsonargparse import and call what it names",
    "__kind__": "GluonTS imports and calls what it describes",
    ":serialized:": "Stable-Baselines3 unpickles it",
    "chat_template": "a Jinja template: a program that loaders run",
    "default_chat_template": "a Jinja template: a program that loaders run",
}
"""Name of a member → why it is removed whatever its value is."""

WORD_ONLY = dict.fromkeys(
    (
        "attn_implementation", "_attn_implementation", "_attn_implementation_internal",
        "experts_implementation", "_experts_implementation",
        "_experts_implementation_internal",
    ),
    "transformers loads compiled kernels from the repository it names",
)  # fmt: skip
"""The same, unless the value is a plain word such as "sdpa"."""

_NOT_OURS = "sentence-transformers and others import what it names"
DOTTED = {
    "type": (("sentence_transformers.",), _NOT_OURS),
    "activation_function": (("torch.nn.",), _NOT_OURS),
    "activation_fn": (("torch.nn.",), _NOT_OURS),
    "default_activation_function": (("torch.nn.",), _NOT_OURS),
    "sbert_ce_default_activation_function": (("torch.nn.",), _NOT_OURS),
    "tokenizer_class": (("sentence_transformers.",), _NOT_OURS),
    "characters_class": (("TTS.",), "Coqui TTS imports what it names"),
    "network_class_name": (
        ("dynamic_network_architectures.",), "nnU-Net imports and calls what it names",
    ),
}  # fmt: skip
"""The same of a dotted name, unless it begins so."""

_MEGATRON = "megatron.core"
_IMPORTED = "_kw_requires_import"
KERAS_CODE = frozenset(
    {
        "Lambda", "__lambda__", "function", "TorchModuleWrapper", "TFSMLayer",
        "TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod",
    }
)  # fmt: skip
"""Classes that run what their description holds or names: bytecode, pickles, saved
models, functions of TensorFlow."""
_KERAS_MODULES = ("keras", "tensorflow.keras", "tf_keras", "keras_hub", "keras_nlp")
_KERAS = "Keras imports, or runs the bytecode of, what it describes"

COMPONENT_LIBRARIES = frozenset(
    "diffusers transformers stable_diffusion stable_diffusion_safe latent_diffusion"
    " deepfloyd_if paint_by_example stable_cascade wuerstchen unidiffuser unclip"
    " versatile_diffusion audioldm2 kandinsky shap_e blip_diffusion".split()
)
"""Where the parts of a diffusers pipeline may come from: itself, and transformers."""

_PIPELINES = ("model_index.json", "modular_model_index.json")
_PIPELINE = "diffusers imports the module it names"
_TOKENS = ("tokenizer.json", "vocab.json", "added_tokens.json")
"""Texts in these, and names of numbers, are tokens: any of them may be one."""

_DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_IMPORT = re.compile(r"\b(?:import|from)\b")
_WORD = re.compile(r"[A-Za-z0-9_-]*")
_CODE_FILE = re.compile(
    r"\w\.(?:py[cdow]?|so|dll|dylib|sh|exe)(?:::?\w+|(?:\.\d+)+)?\s*\Z"
)
_REMOTE_CLASS = re.compile(r"[\w.-]+(?:/[\w.-]+)?--\w+(?:\.\w+)+")
_LONGEST_NAME = 4096
MAX_LISTED = 1000
"""Removals that are listed one by one."""


class Removed(NamedTuple):
    """A member or an entry that was taken out.

    Attributes:
        where: The way to it, as ``/a/b/0``, escaped.
        name: The name of the member, "" for an entry of a list, escaped.
        text: Its value, escaped and cut.
        why: The reason.
    """

    where: str
    name: str
    text: str
    why: str


_Way = tuple[Any, Any]
"""The way to a container: that to the one around it, and the name or place within."""


def without_code(root: Any, file_name: str) -> tuple[Any, list[Removed], int]:
    """Return a JSON value without what makes loaders run code.

    Args:
        root: The value; changed in place where it is a container.
        file_name: Name of the file: some loaders read one name only.

    Returns:
        The value; what was removed, at most `MAX_LISTED`; and how many there were.
    """
    removed: list[Removed] = []
    count = 0
    text_rule = _never if file_name in _TOKENS else _text_reason
    waiting: list[tuple[Any, _Way | None]] = [(root, None)]
    while waiting:
        value, way = waiting.pop()
        found = _reasons(value, text_rule, root is value and file_name in _PIPELINES)
        for key, why in found.items():
            count += 1
            if len(removed) < MAX_LISTED:
                removed.append(_removed(way, key, value, why))
        if type(value) is dict:
            for key in found:
                del value[key]
            pairs = list(value.items())
        else:
            if found:
                value[:] = [one for at, one in enumerate(value) if at not in found]
            pairs = list(enumerate(value))
        waiting += [
            (child, (way, key))
            for key, child in pairs
            if child and (type(child) is dict or type(child) is list)
        ]
    return root, removed, count


def as_findings(removed: list[Removed], count: int, member: str = "") -> list[Finding]:
    """Return what was taken out as findings.

    Args:
        removed: What is listed.
        count: How many there were.
        member: Of an archive: the JSON text it was taken out of, escaped.
    """
    findings = [
        Finding(
            severity=Severity.WARNING, code="code-field",
            message=f"{one.why}: removed {one.name or 'an entry'}",
            name=one.name, arguments=f"={one.text}", record=f"{member}{one.where}",
        )
        for one in removed
    ]  # fmt: skip
    if count > len(removed):
        message = f"{count - len(removed):,} more members were removed"
        findings.append(
            Finding(severity=Severity.WARNING, code="more-findings", message=message,
                    record=member)
        )  # fmt: skip
    return findings


class Cleaner:
    """Takes the same out of the JSON texts of an archive of models.

    Attributes:
        findings: What was taken out.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def __call__(self, value: Any, name: str) -> None:
        """Clean a value in place, given the name of its member."""
        _, removed, count = without_code(value, name.rpartition("/")[2])
        self.findings += as_findings(removed, count, printable(name))


def _reasons(
    value: Any, text_rule: Callable[[Any], str], is_pipeline: bool
) -> dict[Any, str]:
    """Return the members or entries of a container to remove, each with its reason."""
    if type(value) is list:
        if text_rule is _never:
            return {}
        entries = ((at, text_rule(entry)) for at, entry in enumerate(value))
        return {at: why for at, why in entries if why}
    if type(value) is not dict:
        return {}
    found = {}
    for key, member in value.items():
        if type(member) is int and text_rule is _never:
            continue
        why = _member_reason(key, member) or text_rule(member)
        if not why and is_pipeline and _is_foreign(member):
            why = _PIPELINE
        if why:
            found[key] = why
    if type(value.get("class_name")) is str:
        found.update(_keras_reasons(value))
    if _IMPORTED in value and not _imports_known(value):
        found[_IMPORTED] = "nnU-Net imports what the arguments name that it lists"
    return found


def _imports_known(value: dict[str, Any]) -> bool:
    """Tell whether the arguments that nnU-Net imports are parts of torch."""
    arguments, listed = value.get("arch_kwargs"), value[_IMPORTED]
    if type(arguments) is not dict or type(listed) is not list:
        return False
    named = [arguments.get(name) for name in listed if type(name) is str]
    return len(named) == len(listed) and all(
        one is None or (type(one) is str and one.startswith("torch.nn."))
        for one in named
    )


def _member_reason(key: str, value: Any) -> str:
    """Return why a member is removed, for its name; "" if it is not."""
    why = ALWAYS.get(key, "")
    if why:
        return why
    if key.startswith("py/"):
        return "jsonpickle imports and calls what it names"
    if key == "_class_name" and type(value) is not str:
        return _PIPELINE
    if key in WORD_ONLY:
        is_plain = value is None or type(value) is bool
        is_plain = is_plain or (type(value) is str and bool(_WORD.fullmatch(value)))
        return "" if is_plain else WORD_ONLY[key]
    if key in DOTTED and type(value) is str and "." in value:
        known, why = DOTTED[key]
        return "" if value.startswith(known) and _DOTTED_NAME.fullmatch(value) else why
    if key == "megatron_core" and value not in (None, _MEGATRON):
        return "peft imports the library it names"
    if key == "types" and type(value) is dict and not _are_known(value):
        return _NOT_OURS
    if key == "type_hint" and _is_foreign(value):
        return _PIPELINE
    return ""


def _are_known(types: dict[str, Any]) -> bool:
    """Tell whether the types of a router are all of sentence-transformers."""
    known, _ = DOTTED["type"]
    return all(
        value.startswith(known) and _DOTTED_NAME.fullmatch(value)
        for value in types.values()
        if type(value) is str and "." in value
    )


def _is_foreign(value: Any) -> bool:
    """Tell whether a pair of a module and a class names a module that is not known."""
    if type(value) is not list or len(value) < 2 or type(value[1]) is not str:
        return False
    return value[0] is not None and value[0] not in COMPONENT_LIBRARIES


def _keras_reasons(value: dict[str, Any]) -> dict[str, str]:
    """Return which members of a Keras object to remove."""
    found = {}
    # Keras joins module and name: "layers.Lambda" of "keras" is one, too.
    if value["class_name"].rpartition(".")[2] in KERAS_CODE:
        found = dict.fromkeys(("class_name", "config"), _KERAS)
    module = value.get("module")
    known = type(module) is str and any(
        f"{module}.".startswith(f"{name}.") for name in _KERAS_MODULES
    )
    if module is not None and not known:
        found["module"] = _KERAS
    return {name: why for name, why in found.items() if name in value}


def _text_reason(value: Any) -> str:
    """Return why a text is removed whatever its name is; "" if it is not."""
    if type(value) is not str or not any(mark in value for mark in "{$.-"):
        return ""
    for opening, closing in (("{%", "%}"), ("{{", "}}")):
        at = value.find(opening)
        if at >= 0 and value.find(closing, at) >= 0:
            return "a Jinja template: a program that loaders run"
    if value[:1] == "$" and ("(" in value or _IMPORT.search(value)):
        return "MONAI evaluates it as Python"
    if len(value) <= _LONGEST_NAME:
        if _CODE_FILE.search(value):
            return "it names a file of code"
        if _REMOTE_CLASS.fullmatch(value):
            return "it names a class in code of another repository"
    return ""


def _never(_: Any) -> str:
    """Return that a text stays."""
    return ""


def _removed(way: _Way | None, key: Any, container: Any, why: str) -> Removed:
    """Return the note of a removal."""
    steps = [str(key)]
    while way is not None:
        way, step = way
        steps.append(str(step))
    where = "/" + "/".join(printable(step, 60) for step in reversed(steps))
    name = printable(key, 60) if type(key) is str else ""
    return Removed(printable(where), name, _value_text(container[key]), why)


def _value_text(value: Any) -> str:
    """Return a value in a line that is safe to print."""
    if type(value) is dict:
        inside = ", ".join(
            f"{printable(str(key), 40)}: {_short(one)}"
            for key, one in list(value.items())[:4]
        )
        return printable("{" + inside + "}")
    if type(value) is list:
        return printable("[" + ", ".join(map(_short, value[:4])) + "]")
    return _short(value)


def _short(value: Any) -> str:
    if type(value) is dict or type(value) is list:
        return "{...}" if type(value) is dict else "[...]"
    return printable(value, 120) if type(value) is str else printable(str(value), 40)

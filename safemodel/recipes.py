"""Configuration classes of other libraries, as plain data.

Checkpoints often carry the settings of the run that made them, in a class of the
library that read them. These recipes give such settings back as dictionaries, lists
and texts, and run nothing of that library, which need not be installed:

    from safemodel import STRICT, recipes, safe_load

    policy = STRICT.with_extra({**recipes.OMEGACONF, **recipes.LIGHTNING})
    safe_load("model.ckpt", policy=policy)["hyper_parameters"]

Each is a mapping for `Policy.with_extra`. What does not look as the library writes it
is refused with `ForbiddenCallError`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn

from safemodel.errors import ForbiddenCallError
from safemodel.policy import Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LIGHTNING", "OMEGACONF", "TRAINING_ARGUMENTS"]

_SCALARS = frozenset({type(None), bool, int, float, str, bytes})


def _refuse(name: str) -> NoReturn:
    raise ForbiddenCallError(name, "it is not what the library of this class writes")


def _attribute_dict(name: str) -> Recipe:
    """Return the recipe of a dictionary whose items are attributes, too."""

    def make(args: tuple[object, ...], state: object, items: object) -> object:
        # Protocols 0 and 1 give the items as an argument.
        given = [*args, *([] if items is None else [items])] or [{}]
        if len(given) != 1 or state or type(given[0]) is not dict:
            _refuse(name)
        return given[0]

    return Recipe(make=make, takes_items=True, stands_for=dict)


def _content(name: str, kind: type, *others: type) -> Recipe:
    """Return the recipe of a container of omegaconf's: what is in it."""
    allowed = {kind, type(None), str, *others}

    def make(args: tuple[object, ...], state: object) -> object:
        if args or type(state) is not dict or "_content" not in state:
            _refuse(name)
        content = state["_content"]
        # None and a text (an interpolation, "???") stand for the whole container.
        if type(content) not in allowed:
            _refuse(name)
        return content

    return Recipe(make=make, ignores=_OF_NODES, stands_for=kind)


def _value(name: str) -> Recipe:
    """Return the recipe of a value in such a container."""

    def make(args: tuple[object, ...], state: object) -> object:
        if args or type(state) is not dict or type(state.get("_val")) not in _SCALARS:
            _refuse(name)
        return state["_val"]

    return Recipe(make=make, ignores=_OF_NODES)


def _nothing(_args: tuple[object, ...], _state: object) -> None:
    """Give nothing: what it says is about the library."""


def _attributes(name: str) -> Recipe:
    """Return the recipe of an object that is its attributes."""

    def make(args: tuple[object, ...], state: object) -> object:
        if args or type(state) is not dict:
            _refuse(name)
        return state

    return Recipe(make=make)


def _choice(name: str) -> Recipe:
    """Return the recipe of a member of an enumeration of texts: the text."""

    def make(args: tuple[object, ...], state: object) -> object:
        if len(args) != 1 or type(args[0]) is not str or state is not None:
            _refuse(name)
        return args[0]

    return Recipe(make=make)


_OF_NODES = ("_parent", "_metadata", "_flags_cache", "_re_parent")
_NODES = "Any Boolean Bytes Float Integer None Path String".split()

LIGHTNING: Mapping[str, Recipe] = MappingProxyType(
    {
        name: _attribute_dict(name)
        for name in (
            "lightning.fabric.utilities.data.AttributeDict",
            "lightning.pytorch.utilities.parsing.AttributeDict",
            "lightning_fabric.utilities.data.AttributeDict",
            "pytorch_lightning.utilities.parsing.AttributeDict",
        )
    }
)
"""Lightning's `AttributeDict`, which becomes a `dict`."""

OMEGACONF: Mapping[str, Recipe] = MappingProxyType(
    {
        "omegaconf.dictconfig.DictConfig": _content(
            "omegaconf.dictconfig.DictConfig", dict
        ),
        "omegaconf.listconfig.ListConfig": _content(
            "omegaconf.listconfig.ListConfig", list
        ),
        "omegaconf.base.UnionNode": _content(
            "omegaconf.base.UnionNode", dict, list, bool, int, float, bytes
        ),
        "omegaconf.base.Metadata": Recipe(make=_nothing),
        "omegaconf.base.ContainerMetadata": Recipe(make=_nothing),
        **{
            name: _value(name)
            for name in (f"omegaconf.nodes.{node}Node" for node in _NODES)
        },
        # Types that a metadata names.
        **{f"typing.{name}": Recipe() for name in ("Any", "Dict", "List", "Union")},
    }
)
"""`omegaconf`: `DictConfig` becomes a `dict`, `ListConfig` a `list`, and what is in
them plain values; interpolations stay the texts that they are."""

TRAINING_ARGUMENTS: Mapping[str, Recipe] = MappingProxyType(
    {
        **{
            name: _attributes(name)
            for name in (
                "transformers.training_args.TrainingArguments",
                "transformers.training_args_seq2seq.Seq2SeqTrainingArguments",
                "transformers.trainer_pt_utils.AcceleratorConfig",
                "accelerate.state.PartialState",
            )
        },
        **{
            name: _choice(name)
            for name in (
                "accelerate.utils.dataclasses.DistributedType",
                "transformers.debug_utils.DebugOption",
                "transformers.trainer_utils.EvaluationStrategy",
                "transformers.trainer_utils.FSDPOption",
                "transformers.trainer_utils.HubStrategy",
                "transformers.trainer_utils.IntervalStrategy",
                "transformers.trainer_utils.SaveStrategy",
                "transformers.trainer_utils.SchedulerType",
                "transformers.training_args.OptimizerNames",
                "transformers.training_args.ParallelMode",
            )
        },
    }
)
"""`TrainingArguments` of transformers: a `dict` of its attributes, choices as texts."""

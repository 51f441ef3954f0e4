"""What a tensor is for: a weight, a buffer, or the state of an optimiser.

Rules:

1. What lies under the ``state`` of a dictionary that has ``param_groups`` beside it is
   optimiser state: that is how torch writes an optimiser, under whatever name.
2. So is what has the name of a moment, wherever it is.
3. Statistics of normalisation layers, counters, masks and indices are buffers; so is
   anything of booleans or of integers wider than two bytes.
4. All else is a weight. An attacker may name tensors as he likes: a role decides which
   benign oddities are expected, never whether a tensor is looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

Role: TypeAlias = Literal["weight", "buffer", "optimiser", "slack"]

_MOMENTS = frozenset(
    {"exp_avg", "exp_avg_sq", "exp_inf", "max_exp_avg_sq", "momentum_buffer",
     "square_avg", "grad_avg", "acc_delta", "exp_avg_diff", "exp_avg_sq_row",
     "exp_avg_sq_col", "adagrad_sum", "previous_grad", "slow_buffer", "next_m"}
)  # fmt: skip
_BUFFERS = frozenset(
    {"running_mean", "running_var", "num_batches_tracked", "position_ids",
     "token_type_ids", "inv_freq", "rng_state", "masked_bias", "mask", "indices",
     "offsets", "sizes", "strides", "lengths"}
)  # fmt: skip
_INDICES = frozenset({"bool", "int64", "int32", "uint32", "uint64", "uint16", "qint32"})


def optimiser_paths(paths: Iterable[str]) -> tuple[str, ...]:
    """Return under which paths the state of an optimiser lies (rule 1).

    >>> optimiser_paths(["model.bias", "opt.param_groups[0].lr", "param_groups.0.lr"])
    ('opt.state.', 'state.')
    """
    found: dict[str, None] = {}
    for path in paths:
        head, name, _ = path.partition("param_groups")
        if name and (not head or head.endswith(".")):
            found[f"{head}state."] = None
    return tuple(found)


def role_of(name: str, dtype: str, optimisers: tuple[str, ...] = ()) -> Role:
    """Return what a tensor is for, by its path, its dtype and where optimisers are.

    >>> role_of("state.0.exp_avg", "float32"), role_of("conv.weight", "int8")
    ('optimiser', 'weight')
    """
    parts = name.split(".")
    if name.startswith(optimisers) or not _MOMENTS.isdisjoint(parts):
        return "optimiser"
    if parts[-1] in _BUFFERS or dtype in _INDICES:
        return "buffer"
    return "weight"

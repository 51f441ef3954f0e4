"""A folder in the layout of a model hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from safemodel import disarm
from safemodel.reports import DisarmReport
from tests.unit.disarm.helpers_disarm import saved

SHARDS = (
    {"embed.weight": torch.arange(12.0).reshape(3, 4), "tied": torch.ones(2)},
    {"head.weight": torch.tensor([1.5, float("nan"), -0.0]), "count": torch.tensor(7)},
)
NAMES = tuple(f"pytorch_model-0000{at}-of-00002.bin" for at in (1, 2))
INDEX = "pytorch_model.bin.index.json"
CONFIG = {
    "model_type": "tiny", "n_layer": 2, "eps": 1e-12, "tokens": [1, -2, 10**30],
    "name": "π\u2028", "none": None, "flag": True,
}  # fmt: skip


def fill(folder: Path, files: dict[str, Any]) -> Path:
    """Write files into a folder: bytes, text, or a value as JSON; return it."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            path.write_text(text, encoding="utf-8")
    return folder


def hub(folder: Path) -> Path:
    """Write a sharded model with what lies beside one; return the folder."""
    shards = {name: saved(part) for name, part in zip(NAMES, SHARDS, strict=True)}
    weight_map = {
        tensor: name
        for name, part in zip(NAMES, SHARDS, strict=True)
        for tensor in part
    }
    return fill(
        folder,
        {
            **shards,
            INDEX: {"metadata": {"total_size": 1, "x": "y"}, "weight_map": weight_map},
            "config.json": CONFIG,
            "README.md": "[![badge](https://example.org)]\n\n# Tiny\n\nimport torch\n",
            "LICENSE": "As you like.\n",
            "onnx/vocab.txt": "[PAD]\n[UNK]\n\u00e9\n",
        },
    )


def written(folder: Path) -> list[str]:
    """Return the paths of all files of a folder, hidden ones included."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    )


def left(report: DisarmReport) -> dict[str, str]:
    """Return what was left behind, and why."""
    return {one.name: one.why for one in report.left_behind}


def disarmed(tmp_path: Path, files: dict[str, Any], **options: Any) -> DisarmReport:
    """Write files, disarm them into the folder ``out``, and return the report."""
    return disarm(fill(tmp_path / "in", files), tmp_path / "out", **options)

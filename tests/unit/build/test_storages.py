"""Storages of their own memory, however the kernel provides it."""

from __future__ import annotations

import io

import pytest
import torch

from safemodel import safe_load
from safemodel._build import storages


@pytest.mark.parametrize("advice", ["as here", None])
def test_large_storages_hold_what_the_file_holds(monkeypatch, advice):
    """With pages of 2 MiB or without: it is advice to the kernel, and no more."""
    if advice is None:
        monkeypatch.setattr(storages, "_HUGE_PAGES", None)
    tensor = torch.arange(1_000_003, dtype=torch.int32)
    file = io.BytesIO()
    torch.save({"w": tensor, "tail": tensor[999_990:]}, file)

    loaded = safe_load(file.getvalue())

    assert torch.equal(loaded["w"], tensor)
    loaded["w"][-1] = -1
    assert loaded["tail"][-1] == -1

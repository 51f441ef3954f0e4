"""Checked specs → tensors, arrays and containers: the only place that makes them."""

from safemodel._build.objects import build

__all__ = ["build"]

"""Checked specs → tensors, arrays and containers: the only place that makes them."""

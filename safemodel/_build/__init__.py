"""Checked specs → tensors, arrays and containers: the only place that makes them.

`objects.build` is the way in. Nothing is imported here: what needs no torch
(`arrays`, `assemble`, `record_bytes`) can be used without.
"""

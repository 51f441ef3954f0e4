"""Reconstructors: one checker a global, from a call's arguments to a spec."""

"""Slow twins of the kernels, written from the definitions."""

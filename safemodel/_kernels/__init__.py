"""Compiled loops: contiguous arrays in, arrays out, nothing else."""

"""Checked graphs → new files. Nothing here hands on a byte that was not understood."""

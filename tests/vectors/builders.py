"""Files that are easier to describe in Python than as a list of bytes.

A vector names one with `build: NAME`; each docstring says what the bytes are.
"""

from __future__ import annotations

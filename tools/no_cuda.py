"""Fail if torch would bring, or anything has brought, CUDA packages.

Set-up runs this twice: after torch alone was installed without its dependencies,
so that nothing large is fetched by mistake, and once everything is there.
"""

from __future__ import annotations

import sys
from importlib.metadata import distributions, requires

HOW = (
    "Give pip an index or a folder with torch's CPU build (PIP_EXTRA_INDEX_URL or"
    " PIP_FIND_LINKS), then run make again."
)


def cuda_packages() -> list[str]:
    """Return what is installed, or required by torch unconditionally, of CUDA."""
    names = list(requires("torch") or ())
    names = [name for name in names if "extra ==" not in name]
    names += [distribution.metadata["Name"] or "" for distribution in distributions()]
    return sorted(
        name for name in names if name.lower().startswith(("nvidia", "cuda", "triton"))
    )


if __name__ == "__main__":
    found = cuda_packages()
    if found:
        sys.exit(f"the torch that pip found is a CUDA build: {', '.join(found)}. {HOW}")
    print("no CUDA packages: good")

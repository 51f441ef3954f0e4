"""Patch this interpreter as it starts, then let the next `sitecustomize` have its turn.

Python imports the first module of this name that it finds when it starts. `safemodel
run` puts this folder at the head of `PYTHONPATH`, so that the interpreters its program
starts are patched, too.
"""

import os
import sys

if os.environ.get("SAFEMODEL_PATCH"):
    try:
        from safemodel._patch.start import next_sitecustomize, start
    except ImportError as error:
        # An interpreter that has no safemodel would run unpatched, and look patched.
        sys.stderr.write(f"safemodel: this interpreter cannot be patched: {error}\n")
        sys.stderr.flush()
        os._exit(78)
    start()
    next_sitecustomize(os.path.dirname(__file__))  # noqa: PTH120 - pathlib costs start-up time

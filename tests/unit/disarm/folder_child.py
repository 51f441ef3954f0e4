"""Disarm a folder: argv is the folder, the new one, and a limit of bytes a file."""

from __future__ import annotations

import resource
import signal
import sys

from safemodel import disarm

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if len(sys.argv) > 3:
        limit = int(sys.argv[3])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.stdout.write("started\n")
    sys.stdout.flush()
    disarm(sys.argv[1], sys.argv[2])

"""``python -m safemodel`` is the ``safemodel`` command."""

import sys

from safemodel._cli import main

if __name__ == "__main__":
    sys.exit(main())

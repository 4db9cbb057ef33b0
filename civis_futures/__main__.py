"""``python -m civis_futures``: the command ``civis-futures``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())

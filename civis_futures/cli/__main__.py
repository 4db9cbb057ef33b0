"""``python -m civis_futures.cli``."""

import sys

from . import main

sys.exit(main())

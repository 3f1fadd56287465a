"""``python -m smoacs`` is the command ``smoacs``."""

import sys

from smoacs.cli import main

sys.exit(main())

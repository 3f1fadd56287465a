"""``python -m smoacs.training CONFIG.yaml``."""

import sys

from smoacs.training import train

train(sys.argv[1])

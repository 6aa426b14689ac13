"""Imported first, this lets the tests here run a whole Sluis, and verify its signatures."""

import sys
from pathlib import Path

for name in ("e2e", "signing"):
    sys.path.insert(0, str(Path(__file__).parents[1] / name))

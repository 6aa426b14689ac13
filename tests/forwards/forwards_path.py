"""Imported first, this lets the tests here use the running Sluis of `tests/e2e`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

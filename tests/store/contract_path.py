"""Imported first, this lets the tests here use the values and the child of the contract suite."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

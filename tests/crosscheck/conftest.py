"""Makes the scripts of tools/crosscheck/ importable, as they import each other."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "crosscheck"))

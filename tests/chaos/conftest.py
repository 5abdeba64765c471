"""What is tested here are the modules of `scripts/chaos`, which is no package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "chaos"))

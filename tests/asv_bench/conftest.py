"""Make the plugin importable as asv finds it, without installing it."""

from __future__ import annotations

import sys
from pathlib import Path

PLUGIN = Path(__file__).parents[2] / "asv_bench" / "plugin"

sys.path.append(str(PLUGIN))

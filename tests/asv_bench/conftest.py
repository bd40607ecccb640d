"""Make importable what lies beside the package: the plugin, and the dashboard."""

from __future__ import annotations

import sys
from pathlib import Path

ASV_BENCH = Path(__file__).parents[2] / "asv_bench"

# The plugin as asv finds it, without installing it.
sys.path += [str(ASV_BENCH / "plugin"), str(ASV_BENCH)]

"""Peak memory of a whole process tree, for asv and for scripts.

asv imports this package in every process, and a plugin that cannot be imported
vanishes without a word: so nothing is imported here before it is asked for.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asv_bench_peaktree._watch import Peak, can_measure, watch

__all__ = ["Peak", "__version__", "can_measure", "watch"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    if name in __all__:
        from asv_bench_peaktree import _watch

        return getattr(_watch, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

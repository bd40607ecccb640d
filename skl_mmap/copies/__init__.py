"""How often estimators copy X, where, why, and what helps."""

from skl_mmap.copies._check import assert_no_copy, check_copies
from skl_mmap.copies._known_layouts import find_layout, used_steps
from skl_mmap.copies._numpy_memory import (
    NumpyHook,
    find_site,
    is_hookable,
    read_stack,
)
from skl_mmap.copies._prober import Prober
from skl_mmap.copies._report import CopyReport
from skl_mmap.copies._results import (
    CopySite,
    Layout,
    LayoutResult,
    MethodCopies,
    Reason,
    Suggestion,
)

__all__ = [
    "CopyReport",
    "CopySite",
    "Layout",
    "LayoutResult",
    "MethodCopies",
    "NumpyHook",
    "Prober",
    "Reason",
    "Suggestion",
    "assert_no_copy",
    "check_copies",
    "find_layout",
    "find_site",
    "is_hookable",
    "read_stack",
    "used_steps",
]

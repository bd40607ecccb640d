"""How often estimators copy X, where, why, and what helps."""

from skl_mmap.copies._check import assert_no_copy, check_copies
from skl_mmap.copies._report import CopyReport
from skl_mmap.copies._results import (
    CopySite,
    Layout,
    LayoutResult,
    MethodCopies,
    Suggestion,
)

__all__ = [
    "CopyReport",
    "CopySite",
    "Layout",
    "LayoutResult",
    "MethodCopies",
    "Suggestion",
    "assert_no_copy",
    "check_copies",
]

"""Reports on the memory of a job, in numbers, words and pictures."""

from skl_mmap.report._findings import Suggestion, explain
from skl_mmap.report._memory_report import Holder, MemoryReport, TaskCost, measure

__all__ = ["Holder", "MemoryReport", "Suggestion", "TaskCost", "explain", "measure"]

"""What a job has cost, in numbers and in words."""

from skl_mmap.report._findings import Suggestion, explain
from skl_mmap.report._memory_report import Holder, MemoryReport, TaskCost, measure

__all__ = ["Holder", "MemoryReport", "Suggestion", "TaskCost", "explain", "measure"]

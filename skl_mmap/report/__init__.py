"""What a job has cost, in numbers and in words."""

from skl_mmap.report._memory_report import MemoryReport, TaskCost

__all__ = ["MemoryReport", "TaskCost"]

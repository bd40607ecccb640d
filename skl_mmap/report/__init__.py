"""What a job has cost, in numbers and in words."""

from skl_mmap.report._holders import Holder
from skl_mmap.report._live_report import LiveReport, measure
from skl_mmap.report._memory_report import MemoryReport, SamplingCost
from skl_mmap.report._suggestions import Suggestion
from skl_mmap.report._task_cost import TaskCost

__all__ = [
    "Holder",
    "LiveReport",
    "MemoryReport",
    "SamplingCost",
    "Suggestion",
    "TaskCost",
    "measure",
]

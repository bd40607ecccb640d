"""The meta-estimator that shares its inputs and says what a fit has cost."""

from skl_mmap.estimators._memmapped import Memmapped

__all__ = ["Memmapped"]

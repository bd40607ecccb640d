"""What folds would cost: the same plan as a worker's, not carried out."""

from skl_mmap.preview._check_folds import check_folds
from skl_mmap.preview._file_folds import KFoldCosts, Layout, kfold_costs
from skl_mmap.preview._fold_report import Fold, FoldReport, FoldRows

__all__ = [
    "Fold",
    "FoldReport",
    "FoldRows",
    "KFoldCosts",
    "Layout",
    "check_folds",
    "kfold_costs",
]

"""Versions of libraries that behave differently in some way that tests look at."""

from __future__ import annotations

import sklearn
from sklearn.utils.fixes import parse_version, sp_version

SKLEARN = parse_version(sklearn.__version__)

# Weights of ensembles by position are a warning, and checks of weights differ.
IS_BEFORE_SKLEARN_1_7 = SKLEARN < parse_version("1.7")
# The norms of columns in coordinate descent are those of a squared copy.
IS_BEFORE_SKLEARN_1_8 = SKLEARN < parse_version("1.8")
# Later, lstsq copies in native code.
IS_BEFORE_SCIPY_1_18 = sp_version < parse_version("1.18")

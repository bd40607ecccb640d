"""Attributes of a meta-estimator that are those of the estimator inside it.

::

    outer.predict ------> Memmapped.__getattr__ ------> bound_method("predict")
                                                          looks like inner.predict,
    outer.predict(X) ---> outer._run_method("predict", X)   signature included

Nothing is listed here but what has to be treated in another way: whatever the inner
estimator has, the outer one has too, and nothing else. Other libraries ask for methods
by ``hasattr`` and for parameters by ``inspect.signature``; both get the inner answer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

__all__ = ["FITTING_METHODS", "FitMethod", "bound_method", "is_configuring"]

# These make a new fitted estimator; all others use the one that is there.
FITTING_METHODS = frozenset({"fit", "fit_predict", "fit_transform", "partial_fit"})


def bound_method(outer: Any, inner: Any, name: str) -> Callable[..., Any]:
    """Return the method of the outer estimator that stands for one of the inner.

    Raises
    ------
    AttributeError
        If the inner estimator has none of this name.
    """
    method = getattr(inner, name)
    # A partial object and not a closure, so that it can be pickled.
    bound = functools.partial(_run_method, outer, name)
    functools.update_wrapper(bound, method)
    return bound


def _run_method(outer: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    return outer._run_method(name, *args, **kwargs)


def is_configuring(name: str) -> bool:
    """Whether a method says how later calls work: ``set_output``, ``set_fit_request``.

    They are called before the estimator is fitted, and return it.
    """
    return name.startswith("set_")


class FitMethod:
    """The method ``fit``, with the signature that it has in the inner estimator."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        functools.update_wrapper(self, function)

    def __get__(self, outer: Any, owner: type) -> Any:
        return self if outer is None else bound_method(outer, outer.estimator, "fit")

    def __call__(self, outer: Any, *args: Any, **kwargs: Any) -> Any:
        return self._function(outer, *args, **kwargs)

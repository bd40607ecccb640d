"""The tree of errors and warnings."""

from __future__ import annotations

import builtins
import pickle
import re

import cloudpickle
import pytest

from skl_mmap import exceptions

PUBLIC = [getattr(exceptions, name) for name in exceptions.__all__]
# Every class is one of these.
TOO_GENERAL = {object, BaseException, Exception}
BUILTINS = {t for t in vars(builtins).values() if isinstance(t, type)} - TOO_GENERAL


def test_all_lists_every_exception() -> None:
    defined = {
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and value.__module__ == exceptions.__name__
    }
    assert set(exceptions.__all__) == defined


@pytest.mark.parametrize("pickler", [pickle, cloudpickle], ids=lambda m: m.__name__)
@pytest.mark.parametrize("exception", PUBLIC)
def test_survives_pickling(exception: type[Exception], pickler: object) -> None:
    before = exception("X has 3 rows, y has 2")
    after = pickle.loads(pickler.dumps(before))  # type: ignore[attr-defined]
    assert type(after) is exception
    assert after.args == before.args
    assert str(after) == "X has 3 rows, y has 2"


@pytest.mark.parametrize("exception", PUBLIC)
def test_is_in_the_documented_tree_with_its_builtin_type(
    exception: type[Exception],
) -> None:
    assert exceptions.__doc__ is not None
    line = re.search(
        rf"^.*\b{exception.__name__}\b.*$", exceptions.__doc__, re.MULTILINE
    )
    assert line is not None
    documented = set(re.findall(r"\(also (\w+)\)", line[0]))
    assert documented == {
        base.__name__ for base in exception.__bases__ if base in BUILTINS
    }


@pytest.mark.parametrize("exception", PUBLIC)
def test_belongs_to_the_tree(exception: type[Exception]) -> None:
    root = (
        exceptions.SklMmapWarning
        if issubclass(exception, Warning)
        else exceptions.SklMmapError
    )
    assert issubclass(exception, root)


@pytest.mark.parametrize(
    "exception", [e for e in PUBLIC if e is not exceptions.SklMmapError]
)
def test_is_also_a_builtin_type(exception: type[Exception]) -> None:
    assert BUILTINS & set(exception.__mro__)

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from skl_mmap.exceptions import FileFormatError, InvalidParameterError
from skl_mmap.files import _npy, load
from skl_mmap.memory import SharedArray, can_remap, describe, find_mapping

needs_mapping = pytest.mark.skipif(not can_remap(), reason="maps pages freely")


def save(path: Path, array: Any, version: tuple[int, int] | None = None) -> Path:
    with open(path, "wb") as file:
        np.lib.format.write_array(file, np.asanyarray(array), version=version)
    return path


@needs_mapping
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_a_file_is_mapped_where_it_lies(
    order: Any, version: tuple[int, int], tmp_path: Path
) -> None:
    array = np.asarray(np.arange(400_000.0).reshape(-1, 4), order=order)
    path = save(tmp_path / "anything", array, version)
    X = load(path)
    assert isinstance(X, SharedArray)
    assert X.flags.c_contiguous == (order == "C")
    np.testing.assert_array_equal(X, array)
    described = describe(X)
    assert described is not None
    status = os.stat(path)
    assert described[1].identity == (status.st_dev, status.st_ino)
    X[0] = -1
    assert np.load(path)[0, 0] == 0  # copy-on-write
    assert not load(path, mmap_mode="r").flags.writeable


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    array=npst.arrays(
        dtype=npst.floating_dtypes() | npst.integer_dtypes() | npst.boolean_dtypes(),
        shape=npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    ),
    is_fortran=st.booleans(),
)
def test_every_array_makes_the_round_trip(
    array: Any, is_fortran: bool, tmp_path: Path
) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.asfortranarray(array) if is_fortran else array)
    expected = np.load(path)
    X = load(path)
    assert X.dtype == expected.dtype
    assert X.shape == expected.shape
    np.testing.assert_array_equal(X, expected)
    assert type(X) is (SharedArray if X.nbytes else np.ndarray)


def test_structured_arrays_keep_their_fields(tmp_path: Path) -> None:
    array = np.array([(1, 2.5), (3, 4.5)], dtype=[("a", "i4"), ("b", "f8")])
    X = load(save(tmp_path / "x.npy", array))
    assert X["b"].tolist() == [2.5, 4.5]


@needs_mapping
@pytest.mark.parametrize(
    ("columns", "target"),
    [
        ([1, 2, 3], None),
        ([3, 1], 0),
        (slice(None, None, -1), None),
        (slice(1, None), 0),
        (None, 0),
        (None, -1),
        ([-1], 2),
        ([4, 3, 2, 1, 0], None),
    ],
)
def test_evenly_spaced_columns_are_views(
    columns: Any, target: int | None, tmp_path: Path
) -> None:
    array = np.arange(50.0).reshape(-1, 5)
    path = save(tmp_path / "x.npy", array)
    result = load(path, columns=columns, target=target)
    X = result if target is None else result[0]
    wanted = columns
    if columns is None:
        wanted = [place for place in range(5) if place != target % 5]  # type: ignore[operator]
    np.testing.assert_array_equal(X, array[:, wanted])
    found = find_mapping(np.asarray(X))
    assert found is not None
    assert found[0].n_bytes == array.nbytes
    if target is not None:
        np.testing.assert_array_equal(result[1], array[:, target])


def test_other_columns_are_copied_to_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_npy, "_CHUNK_BYTES", 64)
    array = np.arange(50.0).reshape(-1, 5)
    path = save(tmp_path / "x.npy", array)
    for columns, target in (([0, 3, 1], None), (None, 2)):
        result = load(path, columns=columns, target=target)
        X = result if target is None else result[0]
        wanted = columns or [0, 1, 3, 4]
        assert isinstance(X, SharedArray)
        assert X.flags.c_contiguous
        np.testing.assert_array_equal(X, array[:, wanted])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(50,), (10, 5), (5, 2, 5)])
def test_other_types_are_converted_in_parts(
    order: Any, shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_npy, "_CHUNK_BYTES", 64)
    array = np.asarray(np.arange(50, dtype=">i4").reshape(shape), order=order)
    X = load(save(tmp_path / "x.npy", array), dtype="float32")
    assert X.dtype == np.float32
    assert X.flags.f_contiguous == array.flags.f_contiguous
    np.testing.assert_array_equal(X, array)


@pytest.mark.parametrize("order", ["C", "F"])
def test_values_that_do_not_fit_are_named(order: Any, tmp_path: Path) -> None:
    array = np.zeros((4, 3), order=order)
    array[2, 1] = 0.5
    path = save(tmp_path / "x.npy", array)
    with pytest.raises(FileFormatError, match=r"element \[2, 1\]: 0.5"):
        load(path, dtype=int)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"as_frame": True}, "no names of columns"),
        ({"columns": ["a"]}, "'a' is not a column"),
        ({"columns": "a"}, "neither a list of positions"),
        ({"columns": [5]}, "5 is not a column"),
        ({"columns": [True]}, "True is not a column"),
        ({"columns": []}, "gives no column"),
        ({"columns": [1, -4]}, "one twice"),
        ({"columns": [1], "target": 1}, "or the target"),
        ({"target": -6}, "-6 is not a column"),
        ({"dtype": object}, "not a type"),
    ],
)
def test_bad_parameters_are_explained(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = save(tmp_path / "x.npy", np.zeros((4, 5)))
    with pytest.raises(InvalidParameterError, match=message):
        load(path, **options)


def test_columns_need_two_dimensions(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", np.zeros(4))
    with pytest.raises(InvalidParameterError, match=r"shape \(4,\)"):
        load(path, target=0)


def test_objects_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", np.array([None, "a"], dtype=object))
    with pytest.raises(InvalidParameterError, match="Python objects"):
        load(path)


def test_text_cannot_become_numbers(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", np.array(["a", "b"]))
    assert load(path).tolist() == ["a", "b"]
    with pytest.raises(InvalidParameterError, match="<U1, which cannot become float"):
        load(path, dtype=float)


@pytest.mark.parametrize("n_bytes", [-1, 7, 9, 11, 100, 128])
def test_a_file_that_was_cut_off_is_an_error(n_bytes: int, tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", np.zeros((4, 5)))
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(FileFormatError, match=r"x\.npy is not a complete"):
        load(path)


@pytest.mark.parametrize(
    ("old", "new"), [(b"'<f8'", b"'xf8'"), (b"(4, 5)", b"(4,-5)"), (b"{", b"[")]
)
def test_a_damaged_header_is_an_error(old: bytes, new: bytes, tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", np.zeros((4, 5)))
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(FileFormatError, match=r"x\.npy is not a complete"):
        load(path)

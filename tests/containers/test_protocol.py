"""A new kind of input is one class and one line: then all of the package knows it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.model_selection import KFold

import skl_mmap
from skl_mmap.containers import (
    Container,
    RowSize,
    container_of,
    known_containers,
    register,
)
from skl_mmap.memory import (
    Cost,
    SegmentWriter,
    SharedArray,
    can_remap,
    map_array,
    plan_rows,
    share_array,
)
from tests.memory.sharing import take_counted

pytestmark = pytest.mark.skipif(not can_remap(), reason="maps pages freely")


class Images:
    """Grey pictures of one size, with a name that all of them have in common."""

    def __init__(self, pixels: Any, name: str) -> None:
        self.pixels = pixels
        self.name = name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.pixels.shape[:1]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: Any) -> Images:
        return Images(self.pixels[rows], self.name)


class ImageContainer(Container):
    def classes(self) -> tuple[type[Any], ...]:
        return (Images,)

    def n_bytes(self, X: Images) -> int:
        return int(X.pixels.nbytes)

    def plan(self, X: Images, rows: Any, geometry_of: Any) -> Cost:
        return plan_rows(geometry_of(X.pixels), rows).cost

    def row_size(self, X: Images) -> RowSize:
        n_bytes = math.prod(X.pixels.shape[1:]) * X.pixels.itemsize
        return RowSize(n_bytes, n_bytes)

    def take_apart(self, X: Images, min_bytes: int) -> Any:
        return (Images, (X.pixels, X.name)) if X.pixels.nbytes >= min_bytes else None

    def share(self, X: Images, placement: Any, settings: Any) -> Images:
        return Images(share_array(X.pixels, placement, settings), X.name)

    def gather(
        self, X: Images, permutation: Any, placement: Any, settings: Any, name: str
    ) -> Images:
        with SegmentWriter(placement, name, X.pixels.nbytes) as writer:
            writer.write(X.pixels[permutation])
            segment = writer.finish()
        pixels = map_array(segment, X.pixels.dtype, X.pixels.shape, settings)
        return Images(pixels, X.name)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register(ImageContainer())
    yield
    del known_containers()[Images]  # type: ignore[attr-defined]


def make_images() -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, (9001, 28, 30), dtype=np.uint8)
    return Images(pixels, "digits")


def fit(X: Images, train: Any) -> tuple[str, str, int, int]:
    """Select rows as a task does; say what they are, and what they have cost."""
    take_counted()
    selected = X[train]
    mapped_bytes, _ = take_counted()
    weights = np.arange(selected.pixels.size, dtype=np.uint64) + 1
    total = int((selected.pixels.ravel() * weights).sum())
    return selected.name, type(selected.pixels).__name__, total, mapped_bytes


def run(X: Images, cv: Any, backend: str, **options: Any) -> list[Any]:
    with joblib.parallel_config(backend, n_jobs=2, **options):
        return joblib.Parallel()(
            joblib.delayed(fit)(X, train=train) for train, _ in cv.split(X)
        )


def test_workers_map_its_folds() -> None:
    X = make_images()
    for (name, kind, total, n_mapped), expected in zip(
        run(X, KFold(5), "mmap"), run(X, KFold(5), "loky"), strict=True
    ):
        assert (name, total) == (expected[0], expected[2])
        assert kind == "SharedArray"
        assert n_mapped > 0.39 * X.pixels.nbytes


def test_rows_may_be_ordered_by_page() -> None:
    X = make_images()
    mapped = [n for *_, n in run(X, KFold(5), "mmap", row_order="any")]
    assert min(mapped) > 0.7 * X.pixels.nbytes
    (ordered, _), *_ = skl_mmap.PageFriendly(KFold(5)).split(X)
    assert set(ordered) == set(range(1801, 9001))


def test_its_folds_are_predicted() -> None:
    X = make_images()
    report = skl_mmap.check_folds(5, X)
    mapped = [n for *_, n in run(X, KFold(5), "mmap")]
    assert [fold.train.mapped_bytes for fold in report.folds] == mapped
    assert report.title.endswith("on Images (9001,), row_order='exact'")


def test_it_is_shared_and_arranged() -> None:
    X = make_images()
    shared = skl_mmap.share(X)
    assert isinstance(shared.pixels, SharedArray)
    folds = KFold(4, shuffle=True, random_state=0)
    arranged, _, cv = skl_mmap.arrange(X, cv=folds)
    assert isinstance(arranged.pixels, SharedArray)
    np.testing.assert_array_equal(arranged.pixels, X.pixels[cv.permutation])
    np.testing.assert_array_equal(cv.restore(arranged).pixels, X.pixels)
    report = skl_mmap.check_folds(cv, arranged)
    assert report.mapped_bytes > 0.9 * 4 * X.pixels.nbytes


def test_it_is_not_known_otherwise() -> None:
    class Other(Images):
        pass

    assert container_of(Other(np.ones((3, 2, 2)), "other")) is None

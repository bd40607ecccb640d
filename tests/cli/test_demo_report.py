from __future__ import annotations

import math
from dataclasses import replace

import pytest

from skl_mmap.cli._bench import PEERS, Comparison, PeerResult, Run
from skl_mmap.cli._demo import conclude, explain_copies, to_dict

SCORES = (0.5, 0.25, math.nan)
NEXT = (math.nextafter(0.5, 1), 0.25, math.nan)


def make_run(
    backend: str,
    scores: tuple[float, ...] = SCORES,
    growth: int = 200,
    **values: object,
) -> Run:
    fields: dict[str, object] = {
        "backend": backend,
        "shape": [10, 5],
        "data_bytes": 100,
        "scores": list(scores),
        "wall_seconds": 2.0,
        "baseline_bytes": 1000,
        "peak_bytes": 1000 + growth,
        "peak_growth_bytes": growth,
        "mapped_bytes": None,
        "copied_bytes": None,
        "copy_reasons": None,
    }
    return Run.from_result({**fields, **values})


def compare(*runs: Run, row_order: str = "exact", depends: bool = True) -> Comparison:
    mmap = replace(PEERS["mmap"], options={"row_order": row_order})
    peers = {**PEERS, "mmap": mmap}
    results = tuple(PeerResult(peers[run.backend], (run,)) for run in runs)
    return Comparison("flights", results, None if depends else 1e-9, "fold")


def test_equal_scores_are_equal_to_the_last_bit_nan_included() -> None:
    comparison = compare(make_run("loky"), make_run("mmap", growth=50))
    assert comparison.find_unequal() is None
    assert to_dict(comparison, "exact")["scores_equal"]
    assert to_dict(comparison, "exact")["max_score_difference"] == 0
    assert "with the same scores to the last bit" in conclude(comparison)


@pytest.mark.parametrize("backends", [("loky", "mmap"), ("loky", "threading")])
def test_one_bit_of_difference_is_found(backends: tuple[str, str]) -> None:
    comparison = compare(make_run(backends[0]), make_run(backends[1], NEXT))
    message = comparison.find_unequal()
    assert message is not None
    for part in ("flights", *backends, "fold 0", "0.5 ", "0.5000000000000001"):
        assert part in message
    assert not to_dict(comparison, "exact")["scores_equal"]
    assert "scores differ" in conclude(comparison)


def test_rounding_is_no_difference_if_only_the_order_of_rows_is_another() -> None:
    runs = make_run("loky"), make_run("mmap", NEXT)
    comparison = compare(*runs, row_order="any", depends=False)
    assert comparison.find_unequal() is None
    assert to_dict(comparison, "any")["scores_checked"]
    assert "rounding" in conclude(comparison)


@pytest.mark.parametrize("score", [0.5001, math.nan])
def test_more_than_rounding_is_found_in_any_order(score: float) -> None:
    runs = make_run("loky"), make_run("mmap", (score, 0.25, math.nan))
    comparison = compare(*runs, row_order="any", depends=False)
    assert "within 1e-09" in str(comparison.find_unequal())


def test_a_model_that_depends_on_the_order_is_not_checked_and_that_is_said() -> None:
    runs = make_run("loky"), make_run("mmap", (0.4, 0.2, 0.1))
    comparison = compare(*runs, row_order="any")
    assert comparison.find_unequal() is None
    assert not to_dict(comparison, "any")["scores_checked"]
    assert "not checked" in conclude(comparison)


def test_other_backends_are_checked_to_the_last_bit_in_any_order() -> None:
    runs = make_run("loky"), make_run("threading", NEXT), make_run("mmap")
    assert "to the last bit" in str(compare(*runs, row_order="any").find_unequal())


def test_the_conclusion_says_less_or_more_as_it_is() -> None:
    loky = make_run("loky", growth=2 << 20)
    less = compare(loky, make_run("mmap", growth=1 << 20))
    more = compare(loky, make_run("mmap", growth=3 << 20))
    assert "1.0 MiB less" in conclude(less)
    assert "1.0 MiB more" in conclude(more)


def test_without_mmap_nothing_is_claimed() -> None:
    comparison = compare(make_run("loky"), make_run("threading", growth=120))
    assert "loky 2.00 and threading 1.20" in conclude(comparison)
    assert "are needed to compare" in conclude(comparison)


def test_copies_are_explained_largest_first() -> None:
    mmap = make_run("mmap", copied_bytes=7, copy_reasons={"too short": 2, "crooked": 5})
    assert explain_copies(compare(make_run("loky"), mmap)) == [
        "mmap copied 5 B: crooked",
        "mmap copied 2 B: too short",
    ]

"""The dashboard in a headless Chromium that has no internet."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dashboard
import pytest
from web import assets, check
from web.check import ChromiumError, find_chromium, open_page
from web.server import make_server, serving

CHROMIUM = find_chromium()
HAS_PLAYWRIGHT = importlib.util.find_spec("playwright") is not None


def needs_chromium(test: Callable[..., None]) -> Callable[..., None]:
    for is_missing, reason in (
        (CHROMIUM is None, "there is no Chromium: install one, or set CHROMIUM"),
        (not HAS_PLAYWRIGHT, "playwright, which drives Chromium, is not installed"),
    ):
        test = pytest.mark.skipif(is_missing, reason=reason)(test)
    return test


CONFIGURATION = {
    "version": 1,
    "project": "example",
    "repo": ".",
    "branches": ["HEAD"],
    "environment_type": "existing",
    "benchmark_dir": "benchmarks",
}

SUITE = """\
class Memory:
    params = [[1, 2, 4], ["loky", "mmap"]]
    param_names = ["n_jobs", "backend"]

    def track_peak(self, n_jobs, backend):
        return 1e7 * (5 + (n_jobs if backend == "loky" else 1))

    track_peak.unit = "bytes"
"""


def test_folder_is_served_to_this_machine(tmp_path: Path) -> None:
    (tmp_path / "page.txt").write_text("text")
    with serving(tmp_path) as url:
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{url}page.txt") as answer:
            assert answer.read() == b"text"
            assert answer.headers["Cache-Control"] == "no-store"


def test_port_in_use_is_an_error(tmp_path: Path) -> None:
    with (
        make_server(tmp_path, 0) as server,
        pytest.raises(OSError, match="in use"),
    ):
        make_server(tmp_path, server.server_address[1])


@pytest.mark.skipif(shutil.which("git") is None, reason="asks git for the commit")
def test_folder_without_history_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "FOLDER", tmp_path)
    with pytest.raises(dashboard.DashboardError, match=r"no git checkout.*-e bench"):
        dashboard.find_commit()


def test_missing_browser_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    with pytest.raises(dashboard.DashboardError, match=r"no Chromium.*CHROMIUM"):
        dashboard.check(None)


@needs_chromium
def test_browser_tells_problems_of_a_page(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        "<script>document.write(`<script src="
        "http://localhost:${location.port}/a.js></scr` + `ipt>`)</script>"
        "<script>console.error('said', 5); console.log('trifle')</script>"
        "<script>undefinedFunction()</script><p id=end></p>"
    )
    (tmp_path / "a.js").touch()
    assert CHROMIUM is not None
    with serving(tmp_path) as url, open_page(CHROMIUM) as (page, problems):
        page.goto(f"{url}index.html")
        page.wait_for_selector("#end", state="attached")
        assert page.evaluate("[1, 2].map(x => 2 * x)") == [2, 4]
    found = "\n".join(problems)
    assert "console: said 5" in found
    assert "undefinedFunction is not defined" in found
    # No name leads anywhere, not even that of this machine.
    assert "ERR_NAME_NOT_RESOLVED" in found
    assert "trifle" not in found


@needs_chromium
def test_waiting_ends_with_the_problems_of_the_page(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<script>oops()</script>")

    def wait(url: str) -> None:
        with open_page(str(CHROMIUM), timeout_seconds=0.5) as (page, _):
            page.goto(f"{url}index.html", timeout=20_000)
            page.wait_for_function("document.getElementById('never') !== null")

    message = r"(?s)Timeout.*oops is not defined"
    with serving(tmp_path) as url, pytest.raises(ChromiumError, match=message):
        wait(url)


@needs_chromium
def test_expression_that_fails_is_an_error() -> None:
    assert CHROMIUM is not None
    with (
        pytest.raises(ChromiumError, match="nothing is not defined"),
        open_page(CHROMIUM) as (page, _),
    ):
        page.evaluate("nothing.at.all")


@pytest.mark.skipif(not HAS_PLAYWRIGHT, reason="playwright is not installed")
def test_program_that_is_no_browser_is_an_error() -> None:
    program = shutil.which("true")
    if program is None:
        pytest.skip("there is no program called true")
    with pytest.raises(ChromiumError, match="has been closed"), open_page(program):
        pass


def test_missing_playwright_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    with (
        pytest.raises(ChromiumError, match="pip install playwright"),
        open_page("chromium"),
    ):
        pass


def run(*command: str, cwd: Path) -> None:
    variables = {"HOME": str(cwd / "home"), "GIT_CONFIG_COUNT": "2"}
    for index, (key, value) in enumerate(
        {"user.name": "Test", "user.email": "test@example.org"}.items()
    ):
        variables |= {
            f"GIT_CONFIG_KEY_{index}": key,
            f"GIT_CONFIG_VALUE_{index}": value,
        }
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dashboard of a small suite, with its scripts beside it."""
    pytest.importorskip("asv", reason="asv makes the page")
    if shutil.which("git") is None or shutil.which("npm") is None:
        pytest.skip("asv needs git, and the page's scripts come from npm")
    folder = tmp_path_factory.mktemp("dashboard")
    (folder / "home").mkdir()
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "__init__.py").touch()
    (folder / "benchmarks" / "memory.py").write_text(SUITE)
    (folder / "asv.conf.json").write_text(json.dumps(CONFIGURATION))
    asv = [sys.executable, "-m", "asv"]
    for command in (
        ["git", "init", "-q"],
        ["git", "add", "benchmarks", "asv.conf.json"],
        ["git", "commit", "-q", "-m", "suite"],
        [*asv, "machine", "--yes"],
        [*asv, "run", "--python=same", "--set-commit-hash=HEAD"],
        [*asv, "publish", "--no-pull"],
    ):
        run(*command, cwd=folder)
    assets.use_assets(folder / "html", assets.fetch_assets(folder / "assets"))
    return folder / "html"


@needs_chromium
def test_memory_over_workers_is_shown_with_its_unit(html: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    picture = tmp_path / "page.png"
    graph = check.look_at_graph(
        html, CHROMIUM, "memory.Memory.track_peak", "n_jobs", picture
    )
    assert graph.problems == ()
    assert [curve.split(";")[0] for curve in graph.curves] == [
        "backend-loky",
        "backend-mmap",
    ]
    assert (graph.x_label, graph.y_label) == ("n_jobs", "megabytes")
    assert {"1.0", "2.0", "4.0"} <= set(graph.x_ticks)
    # The curves are at 60, and from 60 to 90 MB.
    assert {"60.0", "100"} <= set(graph.y_ticks)
    assert graph.n_colours >= 2
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown: dict[str, Any] = json.loads(check.describe(graph))
    assert shown["y_label"] == "megabytes"


@needs_chromium
def test_page_that_needs_the_internet_is_found_out(html: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    broken = tmp_path / "html"
    shutil.copytree(html, broken)
    index = broken / "index.html"
    text = index.read_text()
    index.write_text(text.replace("vendor/js/jq", "https://cdn.example/jq"))
    with pytest.raises(ChromiumError, match=r"(?s)could not load.*ERR_NAME"):
        check.look_at_graph(broken, CHROMIUM, "memory.Memory.track_peak", "n_jobs")

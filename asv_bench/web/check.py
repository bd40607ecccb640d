"""Does a published dashboard work, in a browser and without the internet?

The browser is the system's own Chromium, driven by playwright.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from .server import serving

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page, Request

__all__ = ["ChromiumError", "Graph", "find_chromium", "look_at_graph", "open_page"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_OPTIONS = (
    "--no-sandbox",  # which needs a user other than root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    # Nothing but the page uses the network.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    # Names of other machines do not resolve: no page can depend on the internet.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_TIMEOUT_SECONDS = 20.0

_CURVES = "document.querySelectorAll('#main-graph .legendLabel')"
_TICKS = "document.querySelectorAll('#main-graph .flot-{axis}-axis .flot-tick-label')"
_HAS_STARTED = "document.querySelectorAll('#summarygrid-display a').length > 0"
# Where asv goes when a script cannot be loaded.
_HAS_FAILED = "location.pathname.endsWith('error.html')"
# Grey is the grid. Curves are drawn in colours, and nobody else draws in those.
_COLOURS = """
(() => {
  const canvas = document.querySelector('#main-graph canvas.flot-base');
  if (!canvas) return 0;
  const pixels = canvas.getContext('2d').getImageData(
    0, 0, canvas.width, canvas.height).data;
  const colours = new Set();
  for (let i = 0; i < pixels.length; i += 4)
    if (pixels[i + 3] > 200 &&
        Math.max(pixels[i], pixels[i + 1], pixels[i + 2]) -
        Math.min(pixels[i], pixels[i + 1], pixels[i + 2]) > 60)
      colours.add([pixels[i] >> 3, pixels[i + 1] >> 3, pixels[i + 2] >> 3].join());
  return colours.size;
})()
"""


@dataclass(frozen=True, slots=True)
class Graph:
    """What a page of the dashboard shows.

    Attributes
    ----------
    curves : tuple of str
        Labels of the legend.
    x_ticks, y_ticks : tuple of str
        Labels of the ticks.
    x_label, y_label : str
        Labels of the axes.
    n_colours : int
        How many different colours are drawn.
    problems : tuple of str
        See `open_page`.
    """

    curves: tuple[str, ...]
    x_ticks: tuple[str, ...]
    y_ticks: tuple[str, ...]
    x_label: str
    y_label: str
    n_colours: int
    problems: tuple[str, ...]


class ChromiumError(RuntimeError):
    """The browser does not start, or a page does not do what it should."""


def find_chromium() -> str | None:
    """Find a Chromium: the variable CHROMIUM, or one of its usual names."""
    if given := os.environ.get("CHROMIUM"):
        return given
    return next(filter(None, map(shutil.which, _NAMES)), None)


@contextlib.contextmanager
def open_page(
    program: str, *, timeout_seconds: float = _TIMEOUT_SECONDS
) -> Iterator[tuple[Page, list[str]]]:
    """Start a headless Chromium that has no internet, for one page.

    Parameters
    ----------
    program : str
        Path of the browser.
    timeout_seconds : float, default=20
        How long the page may be waited for.

    Yields
    ------
    page : playwright.sync_api.Page
        The page.
    problems : list of str
        What it has written to the console as warnings and errors, errors that it did
        not catch, and files that it could not load.

    Raises
    ------
    ChromiumError
        If playwright is missing, the browser does not start, or the page fails.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise ChromiumError(
            "The page is looked at with playwright, which is not installed. Run: "
            "pip install playwright"
        ) from error
    problems: list[str] = []

    def note_message(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            problems.append(f"console: {message.text} {message.location['url']}")

    def note_request(request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":
            problems.append(f"not loaded: {request.failure} {request.url}")

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=program,
                    args=list(_OPTIONS),
                    env={**os.environ, "HOME": home},
                )
                page = browser.new_page(viewport={"width": 1280, "height": 800})
                page.set_default_timeout(timeout_seconds * 1000)
                page.on("pageerror", lambda error: problems.append(f"error: {error}"))
                page.on("console", note_message)
                page.on("requestfailed", note_request)
                yield page, problems
                browser.close()
        except Error as error:
            found = "\n".join(problems) or "none"
            raise ChromiumError(f"{error}\nProblems of the page: {found}") from error


def look_at_graph(
    html: Path,
    program: str,
    benchmark: str,
    x_axis: str,
    screenshot: Path | None = None,
) -> Graph:
    """Open the page of one benchmark, with a parameter as its x axis.

    There is a curve for each value of the first other parameter.

    Parameters
    ----------
    html : Path
        Folder of the dashboard.
    program : str
        Chromium.
    benchmark, x_axis : str
        Name of the benchmark, and of its parameter.
    screenshot : Path, default=None
        Where to save a picture.

    Returns
    -------
    Graph

    Raises
    ------
    ChromiumError
        If the page cannot load its scripts, or there is no graph after some time.
    """
    with serving(html) as url, open_page(program) as (page, problems):
        page.goto(f"{url}#/")
        page.wait_for_function(f"{_HAS_FAILED} || {_HAS_STARTED}")
        if page.evaluate(_HAS_FAILED):
            found = "\n".join(problems)
            raise ChromiumError(f"the page could not load its scripts:\n{found}")
        page.goto(f"{url}#{quote(benchmark)}?{_select(html, benchmark, x_axis)}")
        page.wait_for_function(f"{_CURVES}.length > 0")
        if screenshot is not None:
            page.screenshot(path=screenshot)

        def read(nodes: str) -> tuple[str, ...]:
            return tuple(page.evaluate(f"Array.from({nodes}, e => e.textContent)"))

        def read_label(axis: str) -> str:
            options = f"$('#main-graph').data('plot').getOptions().{axis}axes[0]"
            return str(page.evaluate(f"{options}.axisLabel"))

        return Graph(
            curves=read(_CURVES),
            x_ticks=read(_TICKS.format(axis="x")),
            y_ticks=read(_TICKS.format(axis="y")),
            x_label=read_label("x"),
            y_label=read_label("y"),
            n_colours=int(page.evaluate(_COLOURS)),
            problems=tuple(problems),
        )


def _select(html: Path, benchmark: str, x_axis: str) -> str:
    """Write the part of the address that says which curves are shown."""
    index = json.loads((html / "index.json").read_text(encoding="utf-8"))
    found = index["benchmarks"][benchmark]
    others = [
        (name, values)
        for name, values in zip(found["param_names"], found["params"], strict=True)
        if name != x_axis
    ]
    words = [f"x-axis={quote(x_axis)}"]
    for position, (name, values) in enumerate(others):
        chosen = values if position == 0 else values[-1:]
        words += [f"p-{quote(name)}={quote(value)}" for value in chosen]
    return "&".join(words)


def describe(graph: Graph) -> str:
    """Write what a page shows as JSON."""
    return json.dumps(
        {name: getattr(graph, name) for name in Graph.__slots__}, indent=2
    )

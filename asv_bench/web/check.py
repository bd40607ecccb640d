"""Does a published dashboard work, in a browser and without the internet?"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from .chromium import Chromium, ChromiumError
from .server import serving

__all__ = ["Graph", "look_at_graph"]

_CURVES = "document.querySelectorAll('#main-graph .legendLabel')"
_TICKS = "document.querySelectorAll('#main-graph .flot-{axis}-axis .flot-tick-label')"
_HAS_STARTED = "document.querySelectorAll('#summarygrid-display a').length"
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
        See `Chromium`.
    """

    curves: tuple[str, ...]
    x_ticks: tuple[str, ...]
    y_ticks: tuple[str, ...]
    x_label: str
    y_label: str
    n_colours: int
    problems: tuple[str, ...]


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
    with serving(html) as url, contextlib.closing(Chromium(program)) as browser:
        browser.open(f"{url}#/")
        browser.wait_for(f"{_HAS_FAILED} || {_HAS_STARTED}")
        if browser.evaluate(_HAS_FAILED):
            found = "\n".join(browser.problems)
            raise ChromiumError(f"the page could not load its scripts:\n{found}")
        browser.open(f"{url}#{quote(benchmark)}?{_select(html, benchmark, x_axis)}")
        browser.wait_for(f"{_CURVES}.length")
        if screenshot is not None:
            browser.take_screenshot(screenshot)

        def read(nodes: str) -> tuple[str, ...]:
            texts = browser.evaluate(f"Array.from({nodes}, e => e.textContent)")
            return tuple(texts)

        def read_label(axis: str) -> str:
            options = f"$('#main-graph').data('plot').getOptions().{axis}axes[0]"
            return str(browser.evaluate(f"{options}.axisLabel"))

        return Graph(
            curves=read(_CURVES),
            x_ticks=read(_TICKS.format(axis="x")),
            y_ticks=read(_TICKS.format(axis="y")),
            x_label=read_label("x"),
            y_label=read_label("y"),
            n_colours=int(browser.evaluate(_COLOURS)),
            problems=tuple(browser.problems),
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

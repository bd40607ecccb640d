"""Draw README's picture: memory over time of the same job under two backends.

::

    python asv_bench/picture.py docs/images/memory.svg

Each backend runs in a fresh process; what is drawn is what `skl_mmap.measure` read.
Needs matplotlib.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from scenarios.rows import call_in_child
from scenarios.timelines import N_JOBS, timeline

_CASES = {
    "loky": ("loky", "exact", "#b2452c"),
    'mmap, row_order="exact"': ("mmap", "exact", "#7fb0cf"),
    'mmap, row_order="any"': ("mmap", "any", "#1f6391"),
}


def draw(path: Path) -> None:
    """Measure all cases and write the picture."""
    from matplotlib import pyplot as plt

    plt.rcParams["svg.hashsalt"] = "skl_mmap"
    figure, axes = plt.subplots(figsize=(7.2, 3.2), layout="constrained")
    for label, (backend, row_order, colour) in _CASES.items():
        curve = call_in_child(timeline, backend=backend, row_order=row_order)
        text = f"{label}: {curve['peak']:.1f} X"
        axes.plot(curve["seconds"], curve["ratios"], color=colour, label=text)
        print(text)
    axes.set(
        xlabel="seconds",
        ylabel="memory above X itself, in X",
        title=f"cross_validate(SGDRegressor(), X, y, cv=5), {N_JOBS} workers, "
        "X: 381 MiB",
    )
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        loc="outside lower center",
        ncols=len(_CASES),
        frameon=False,
        title="backend: peak",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="SVG file to write")
    draw(parser.parse_args().path)

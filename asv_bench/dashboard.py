"""Run the asv suite on the current commit, publish all results, and show them.

    tox -e dashboard                                # run, publish, serve
    tox -e dashboard -- --no-run                    # what has been measured already
    tox -e dashboard -- --no-serve --check
    tox -e dashboard -- --bench CrossValidation.peaktree

SKL_MMAP_BENCH_PROFILE is the size: quick, regular (default, half an hour) or full.
Results stay in asv_bench/results, and what is not committed counts as the last commit.
The page works without the internet; the packages it needs are fetched once, by npm.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from web.assets import AssetError, fetch_assets, use_assets
from web.check import ChromiumError, describe, find_chromium, look_at_graph
from web.server import make_server

FOLDER = Path(__file__).resolve().parent
HTML = FOLDER / "html"
ASSETS = FOLDER / "assets"
_PORT = 8080
_CHECKED = ("cross_validation.CrossValidation.peaktree_job", "n_jobs")


class DashboardError(RuntimeError):
    """A step has failed; its own messages are on the terminal."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--no-run", action="store_true", help="measure nothing")
    parser.add_argument("--no-serve", action="store_true", help="stop when it is made")
    parser.add_argument(
        "--port", type=int, default=_PORT, help=f"where to serve (default: {_PORT})"
    )
    parser.add_argument(
        "--bench", action="append", metavar="REGEX", help="run only these benchmarks"
    )
    parser.add_argument(
        "--online", action="store_true", help="leave the page's scripts where they are"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="after a whole run: does the page work in Chromium, without the internet?",
    )
    parser.add_argument(
        "--screenshot", type=Path, metavar="PNG", help="save what --check has seen"
    )
    return parser


def find_commit() -> str:
    """Return the hash of the current commit.

    Raises
    ------
    DashboardError
        If this is no checkout.
    """
    command = ["git", "-C", str(FOLDER), "rev-parse", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise DashboardError(
            f"{FOLDER.parent} is no git checkout ({result.stderr.strip()}), and asv "
            "keeps results by commit. Clone the repository, or try the suite without "
            "keeping results: tox -e bench"
        )
    return result.stdout.strip()


def run_asv(home: str, *arguments: str, is_quiet: bool = False) -> int:
    """Run asv with a home folder of its own, and return its exit code."""
    config = str(FOLDER / "asv.conf.json")
    return subprocess.run(
        [sys.executable, "-m", "asv", "--config", config, *arguments],
        env={**os.environ, "HOME": home},
        stdout=subprocess.DEVNULL if is_quiet else None,
    ).returncode


def measure(home: str, only: Sequence[str]) -> int:
    """Run the suite on the current commit; the exit code is 2 if a benchmark failed."""
    selection = [word for regex in only for word in ("--bench", regex)]
    return run_asv(
        home,
        *("run", "--python=same", "--show-stderr", "--set-commit-hash", find_commit()),
        *selection,
    )


def publish(home: str, *, is_online: bool) -> None:
    """Make the page.

    Raises
    ------
    DashboardError
        If asv fails.
    AssetError
        If the page's scripts cannot be had.
    """
    if run_asv(home, "publish", "--no-pull") != 0:
        raise DashboardError("asv publish has failed; there is no page.")
    if not is_online:
        use_assets(HTML, fetch_assets(ASSETS))


def check(screenshot: Path | None) -> bool:
    """Look at memory over the number of workers; False if something is wrong.

    Raises
    ------
    DashboardError
        If there is no Chromium.
    ChromiumError
        If there is no playwright to drive it, or no graph.
    """
    program = find_chromium()
    if program is None:
        raise DashboardError(
            "There is no Chromium to look at the page with. Install one, or set "
            "CHROMIUM to its path."
        )
    graph = look_at_graph(HTML, program, *_CHECKED, screenshot=screenshot)
    print(describe(graph))
    return not graph.problems


def serve(port: int) -> None:
    """Serve the page until Ctrl-C."""
    with make_server(HTML, port) as server:
        print(f"The dashboard is at http://127.0.0.1:{server.server_address[1]}/")
        print("Ctrl-C ends it.", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_parser().parse_args(argv)
    code = 0
    try:
        with tempfile.TemporaryDirectory() as home:
            if run_asv(home, "machine", "--yes", is_quiet=True) != 0:
                raise DashboardError("asv cannot describe this machine.")
            if not arguments.no_run:
                code = measure(home, arguments.bench or [])
            publish(home, is_online=arguments.online)
        if (arguments.check or arguments.screenshot) and not check(
            arguments.screenshot
        ):
            code = 1
        if arguments.no_serve:
            print(f"The dashboard is in {HTML}; serve it with --no-run.")
        else:
            serve(arguments.port)
    except (AssetError, ChromiumError, DashboardError, OSError) as error:
        print(f"dashboard: {error}", file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())

"""Give asv's pages copies of the scripts that they load from elsewhere.

asv publishes a page that takes jQuery and others from several servers, and is empty
without the internet. Here the same versions come from npm, once, and lie beside it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

__all__ = ["AssetError", "fetch_assets", "use_assets"]

_HERE = Path(__file__).resolve().parent
_TARGET = "vendor"

# What the page loads, by the last part of its address, and where npm puts it.
_SOURCES = {
    "bootstrap.min.css": "bootstrap/dist/css/bootstrap.min.css",
    "bootstrap.min.js": "bootstrap/dist/js/bootstrap.min.js",
    "jquery-3.3.1.min.js": "jquery/dist/jquery.min.js",
    "jquery.flot.categories.min.js": "flot/jquery.flot.categories.js",
    "jquery.flot.min.js": "flot/jquery.flot.js",
    "jquery.flot.orderBars.js": "flot-orderbars/js/jquery.flot.orderBars.js",
    "jquery.flot.selection.min.js": "flot/jquery.flot.selection.js",
    "jquery.flot.time.min.js": "flot/jquery.flot.time.js",
    "md5.min.js": "blueimp-md5/js/md5.min.js",
    "stupidtable.min.js": "stupid-table-plugin/stupidtable.min.js",
}

_TAG = re.compile(r"<(?:script|link)\b[^>]*>")
_ADDRESS = re.compile(r"""\b(src|href)\s*=\s*["'](https?://[^"']+)["']""")
# Hashes of files that are not the ones here: npm has some of them not minified.
_CHECKS = re.compile(
    r"""\s(?:integrity|crossorigin|referrerpolicy)\s*=\s*["'][^"']*["']"""
)


class AssetError(RuntimeError):
    """The page cannot be made to work without the internet."""


def fetch_assets(folder: Path) -> Path:
    """Install the packages that the page needs, unless they are there already.

    Parameters
    ----------
    folder : Path
        Where to; made if it does not exist.

    Returns
    -------
    Path
        The folder ``node_modules`` in it.

    Raises
    ------
    AssetError
        If npm is missing, or fails.
    """
    modules = folder / "node_modules"
    lock = (_HERE / "package-lock.json").read_bytes()
    mark = folder / "package-lock.json"
    if modules.exists() and mark.exists() and mark.read_bytes() == lock:
        return modules
    npm = shutil.which("npm")
    if npm is None:
        raise AssetError(
            "npm is not installed, and the page's scripts come from its packages. "
            "Install Node.js, or leave the page as it is, for use with the internet: "
            "--online"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(_HERE / name, folder)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode != 0:
        mark.unlink()  # what is there may not be all
        raise AssetError(
            f"npm ci failed with code {result.returncode}:\n{result.stderr.strip()}\n"
            "Without its packages the page needs the internet: use --online for that."
        )
    return modules


def use_assets(html: Path, modules: Path) -> list[str]:
    """Make a published page load its scripts from beside it.

    Parameters
    ----------
    html : Path
        Folder of the page; its ``index.html`` is rewritten.
    modules : Path
        What `fetch_assets` returned.

    Returns
    -------
    list of str
        Names of the files that were replaced.

    Raises
    ------
    AssetError
        If the page loads something that is not known here.
    """
    index = html / "index.html"
    replaced: list[str] = []

    def replace_tag(tag: re.Match[str]) -> str:
        if not _ADDRESS.search(tag[0]):
            return tag[0]
        return _CHECKS.sub("", _ADDRESS.sub(replace_address, tag[0]))

    def replace_address(address: re.Match[str]) -> str:
        name = address[2].rpartition("/")[2]
        if name not in _SOURCES:
            raise AssetError(
                f"{index} loads {name}, which is not among the packages of "
                f"{_HERE / 'package.json'}: asv has changed. Add it there and to "
                f"{Path(__file__).name}, or use --online."
            )
        # Style sheets look for fonts in ../fonts.
        place = f"{_TARGET}/{'css' if name.endswith('.css') else 'js'}/{name}"
        target = html / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(modules / _SOURCES[name], target)
        replaced.append(name)
        return f'{address[1]}="{place}"'

    text = _TAG.sub(replace_tag, index.read_text(encoding="utf-8"))
    fonts = modules / "bootstrap" / "dist" / "fonts"
    shutil.copytree(fonts, html / _TARGET / "fonts", dirs_exist_ok=True)
    index.write_text(text, encoding="utf-8")
    return replaced

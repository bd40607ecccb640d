"""The dashboard's scripts, from beside it and not from the internet."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from web import assets

INDEX = """\
<head>
  <script src="https://cdn.example/jquery-3.3.1.min.js" integrity="sha256-x="
    crossorigin="anonymous" onerror="js_load_failure()"></script>
  <script type="text/javascript" src="asv.js"></script>
  <link rel="stylesheet" href="https://cdn.example/css/bootstrap.min.css"
    integrity='sha256-y=' referrerpolicy="no-referrer">
</head>
<a href="https://example.org/">A link stays a link.</a>
"""


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """What npm would have installed."""
    folder = tmp_path / "node_modules"
    for source in assets._SOURCES.values():
        (folder / source).parent.mkdir(parents=True, exist_ok=True)
        (folder / source).write_text(f"/* {source} */")
    (folder / "bootstrap" / "dist" / "fonts").mkdir()
    (folder / "bootstrap" / "dist" / "fonts" / "glyphs.woff").touch()
    return folder


@pytest.fixture
def html(tmp_path: Path) -> Path:
    folder = tmp_path / "html"
    folder.mkdir()
    (folder / "index.html").write_text(INDEX)
    return folder


def test_page_loads_copies(html: Path, modules: Path) -> None:
    replaced = assets.use_assets(html, modules)
    assert replaced == ["jquery-3.3.1.min.js", "bootstrap.min.css"]
    text = (html / "index.html").read_text()
    places = re.findall(r'(?:src|href)="(vendor/[^"]*)"', text)
    assert places == [
        "vendor/js/jquery-3.3.1.min.js",
        "vendor/css/bootstrap.min.css",
    ]
    assert (html / places[0]).read_text() == "/* jquery/dist/jquery.min.js */"
    assert (html / places[1]).exists()
    # Where the style sheet looks for it.
    assert (html / places[1]).parent.joinpath("../fonts/glyphs.woff").exists()


def test_hashes_of_other_files_are_left_out(html: Path, modules: Path) -> None:
    assets.use_assets(html, modules)
    text = (html / "index.html").read_text()
    assert not re.search("integrity|crossorigin|referrerpolicy", text)
    assert 'onerror="js_load_failure()"' in text
    assert '<script type="text/javascript" src="asv.js"></script>' in text
    assert '<a href="https://example.org/">' in text


def test_unknown_script_is_an_error(html: Path, modules: Path) -> None:
    index = html / "index.html"
    index.write_text(INDEX.replace("jquery-3.3.1.min.js", "new-4.0.js"))
    with pytest.raises(assets.AssetError, match=r"loads new-4\.0\.js.*--online"):
        assets.use_assets(html, modules)


def test_page_of_the_installed_asv_is_known(html: Path, modules: Path) -> None:
    asv = pytest.importorskip("asv", reason="looks at the page that asv publishes")
    index = Path(asv.__file__).parent / "www" / "index.html"
    shutil.copy(index, html)
    assert set(assets.use_assets(html, modules)) == assets._SOURCES.keys()
    text = (html / "index.html").read_text()
    tags = re.findall(r"<(?:script|link)\b[^>]*>", text)
    assert tags
    assert not [tag for tag in tags if "//" in tag]


def test_missing_npm_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(assets.AssetError, match=r"npm is not installed.*--online"):
        assets.fetch_assets(tmp_path / "assets")


def make_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "npm"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_failure_of_npm_is_shown_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_npm(
        tmp_path, "mkdir -p node_modules; echo no network >&2; exit 7", monkeypatch
    )
    for _ in range(2):
        with pytest.raises(assets.AssetError, match=r"(?s)code 7:.no network.*online"):
            assets.fetch_assets(tmp_path / "assets")


def test_packages_are_fetched_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_npm(tmp_path, 'mkdir -p node_modules; echo "$@" >> calls', monkeypatch)
    for _ in range(2):
        modules = assets.fetch_assets(tmp_path / "assets")
        assert modules == tmp_path / "assets" / "node_modules"
    calls = (tmp_path / "assets" / "calls").read_text().splitlines()
    assert calls == ["ci --ignore-scripts --no-audit --no-fund"]


def test_packages_are_pinned_by_version_and_hash() -> None:
    folder = Path(assets.__file__).parent
    wanted = json.loads((folder / "package.json").read_text())["dependencies"]
    locked = json.loads((folder / "package-lock.json").read_text())["packages"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in wanted.values())
    for name, version in wanted.items():
        package = locked[f"node_modules/{name}"]
        assert package["version"] == version
        assert package["integrity"].startswith("sha512-")
    packages = {source.partition("/")[0] for source in assets._SOURCES.values()}
    assert packages == wanted.keys()

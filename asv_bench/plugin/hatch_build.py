"""Put the sampler into what is built: its one source is ``skl_mmap``.

::

    checkout    skl_mmap/monitor/_sampler.py, _child.py ...
                       |                      (editable installs read them there)
                       v
    sdist       asv_bench_peaktree/_monitor/_sampler.py, _child.py ...
                       |
                       v
    wheel       asv_bench_peaktree/_monitor/_sampler.py, _child.py ...
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_TARGET = "asv_bench_peaktree"
_CHECKOUT = "../../skl_mmap"
# The sampler makes its folder known as ``skl_mmap.monitor``, and the one above as
# ``skl_mmap``. In the plugin the first has another name.
_MONITOR, _MONITOR_THERE = "monitor", "_monitor"

# The process that watches a tree, and what an import in a module leads to.
_PROGRAM = "monitor._sampler"
_IMPORT = re.compile(r"^ *from skl_mmap\.([\w.]+) import ", re.MULTILINE)


def find_modules(root: Path, monitor: str) -> dict[Path, str]:
    """Find the files of the sampler and of all that it may import.

    Parameters
    ----------
    root : Path
        Folder of the package.
    monitor : str
        What the folder of the sampler is called there.

    Returns
    -------
    dict of Path to str
        Where each file belongs, below the plugin's package.

    Raises
    ------
    FileNotFoundError
        If one is missing.
    """
    names = [_PROGRAM]
    files = {}
    for name in names:
        package, _, module = name.rpartition(".")
        is_monitor = package == _MONITOR
        folder = root / (monitor if is_monitor else package)
        path = folder / f"{module}.py"
        place = f"{_MONITOR_THERE if is_monitor else package}/{module}.py"
        files[path] = place.lstrip("/")
        if package and not is_monitor:
            files[folder / "__init__.py"] = f"{package}/__init__.py"
        text = path.read_text(encoding="utf-8")
        names += [found for found in _IMPORT.findall(text) if found not in names]
    return files


class SamplerHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the files of the sampler to wheels and sdists."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Say where the files come from.

        Raises
        ------
        FileNotFoundError
            If they are neither here, as in an sdist, nor in a checkout around it.
        """
        if version == "editable":
            return
        root = Path(self.root)
        vendored, checkout = root / _TARGET, root / _CHECKOUT
        try:
            if (vendored / _MONITOR_THERE).exists():
                files = find_modules(vendored, _MONITOR_THERE)
            else:
                files = find_modules(checkout, _MONITOR)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error.filename} is missing, and without the sampler nothing can be "
                "measured. Build from an sdist, or from a checkout of skl_mmap."
            ) from error
        for path, place in files.items():
            build_data["force_include"][str(path)] = f"{_TARGET}/{place}"

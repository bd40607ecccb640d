"""Put the sampler into what is built: its one source is ``skl_mmap/monitor``.

::

    checkout    skl_mmap/monitor/_sampler.py ...    (editable installs read it there)
                       |
                       v
    sdist       asv_bench_peaktree/_monitor/_sampler.py ...
                       |
                       v
    wheel       asv_bench_peaktree/_monitor/_sampler.py ...
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_TARGET = "asv_bench_peaktree/_monitor"
_CHECKOUT = "../../skl_mmap/monitor"

# The process that watches a tree, and what an import in a module leads to.
_PROGRAM = "_sampler"
_IMPORT = re.compile(r"^ *from skl_mmap\.monitor\.(_\w+) import ", re.MULTILINE)


def find_modules(folder: Path) -> list[Path]:
    """Find the files of the sampler and of all that it may import.

    Raises
    ------
    FileNotFoundError
        If one is missing.
    """
    names = [_PROGRAM]
    for name in names:
        text = (folder / f"{name}.py").read_text(encoding="utf-8")
        names += [found for found in _IMPORT.findall(text) if found not in names]
    return [folder / f"{name}.py" for name in names]


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
            modules = find_modules(vendored if vendored.exists() else checkout)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error.filename} is missing, and without the sampler nothing can be "
                "measured. Build from an sdist, or from a checkout of skl_mmap."
            ) from error
        for module in modules:
            build_data["force_include"][str(module)] = f"{_TARGET}/{module.name}"

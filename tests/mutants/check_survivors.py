"""List the mutants that no test has killed, and that have no reason to live.

Run by ``tox -e mutants`` after ``mutmut run``. The exit code is 1 if there are any, or
if less than 85 % of all mutants were killed. Reasons are in ``survivors.toml``::

    [[survivor]]
    where = "skl_mmap.memory._store.Store.close"   # the function
    line = "self._identity = None"                 # as it is
    becomes = 'self._identity = ""'                # as it was mutated; any if left out
    reason = "..."
"""

from __future__ import annotations

import collections
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import tomllib

_MIN_KILLED_SHARE = 0.85
_SURVIVORS = Path(__file__).parent / "survivors.toml"
_STATUS = re.compile(r"^\s*(\S+__mutmut_\d+): (.+)$", re.MULTILINE)
# What mutmut makes of find_runs, and of Store.close.
_FUNCTION = re.compile(r"\.x_(\w+)__mutmut_\d+$")
_METHOD = re.compile(r"\.xǁ(\w+)ǁ(\w+)__mutmut_\d+$")
_ALIVE = frozenset({"survived", "no tests"})
_UNKNOWN = frozenset({"not checked", "skipped"})


class Mutant(NamedTuple):
    """A mutant that is alive: where, the line as it is, and as it was mutated."""

    where: str
    line: str
    becomes: str


def run_mutmut(*arguments: str) -> str:
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


def read_mutant(name: str) -> Mutant:
    diff = run_mutmut("show", name).splitlines()
    removed, added = (
        " ".join(
            line[1:].strip()
            for line in diff
            if line.startswith(sign) and not line.startswith(3 * sign)
        )
        for sign in "-+"
    )
    where = _METHOD.sub(r".\1.\2", _FUNCTION.sub(r".\1", name))
    return Mutant(where, removed, added)


def has_reason(mutant: Mutant, reasons: list[dict[str, Any]], used: set[int]) -> bool:
    for number, reason in enumerate(reasons):
        if (reason["where"], reason["line"]) != mutant[:2]:
            continue
        if reason.get("becomes", mutant.becomes) == mutant.becomes:
            used.add(number)
            return True
    return False


def main() -> int:
    statuses = dict(_STATUS.findall(run_mutmut("results", "--all", "true")))
    reasons = tomllib.loads(_SURVIVORS.read_text(encoding="utf-8"))["survivor"]
    counts = collections.Counter(statuses.values())
    alive = [name for name, status in statuses.items() if status in _ALIVE]
    n_checked = sum(n for status, n in counts.items() if status not in _UNKNOWN)
    killed_share = 1 - len(alive) / max(n_checked, 1)
    used: set[int] = set()
    unexplained = [
        (name, mutant)
        for name in alive
        if not has_reason(mutant := read_mutant(name), reasons, used)
    ]
    for name, mutant in unexplained:
        print(f"\n{name}\n  - {mutant.line}\n  + {mutant.becomes}")
    for number in sorted(set(range(len(reasons))) - used):
        reason = reasons[number]
        print(f"\nno such survivor any more: {reason['where']}: {reason['line']}")
    print(
        f"\n{killed_share:.1%} of {n_checked} mutants were killed "
        f"({', '.join(f'{n} {status}' for status, n in counts.most_common())}); "
        f"{len(unexplained)} of {len(alive)} that live have no reason"
    )
    return int(bool(unexplained) or killed_share < _MIN_KILLED_SHARE)


if __name__ == "__main__":
    sys.exit(main())

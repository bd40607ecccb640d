"""What one run of one suite over one backend came to."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["BAD", "Outcome", "Run", "read_log"]

# "killed": the process died, or had to be killed, while the test ran.
BAD = frozenset({"failed", "error", "killed"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one test.

    Attributes
    ----------
    outcome : str
        "passed", "skipped", "xfailed", "xpassed", or one of `BAD`.
    message : str
        Why it failed, if it did.
    seconds : float
        With set-up and tear-down.
    """

    outcome: str
    message: str = ""
    seconds: float = 0.0


@dataclass(slots=True)
class Run:
    """What one suite came to over one backend.

    Attributes
    ----------
    suite, backend : str
        Names.
    outcomes : dict of str to Outcome
        Of each test, by its id.
    submits, tasks : int
        Batches given to the backend, and tasks in them.
    shared : int
        Arrays that our backend shared, again for each task; 0 for another backend.
    seconds : float
        Wall time.
    troubles : list of str
        What the process did wrong besides failing tests.
    """

    suite: str
    backend: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    submits: int = 0
    tasks: int = 0
    shared: int = 0
    seconds: float = 0.0
    troubles: list[str] = field(default_factory=list)

    @property
    def failures(self) -> frozenset[str]:
        """Ids of the tests that did not pass."""
        return frozenset(
            name for name, test in self.outcomes.items() if test.outcome in BAD
        )

    @property
    def counts(self) -> Counter[str]:
        """How many tests had each outcome."""
        return Counter(test.outcome for test in self.outcomes.values())

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read what `save` wrote."""
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        tests = values.pop("outcomes")
        outcomes = {name: Outcome(**test) for name, test in tests.items()}
        return cls(**values, outcomes=outcomes)


@dataclass(slots=True)
class Log:
    """What the plugin wrote in one process.

    Attributes
    ----------
    collected : list of str or None
        Ids of the tests of the suite, None if the process did not get so far.
    finished : dict of str to Outcome
        Of each test that ended.
    running : str or None
        The test that began last, if it did not end.
    has_ended : bool
        Whether the session ended by itself.
    submits, tasks, shared : int
        As in `Run`, up to the last test that ended.
    """

    collected: list[str] | None = None
    finished: dict[str, Outcome] = field(default_factory=dict)
    running: str | None = None
    has_ended: bool = False
    submits: int = 0
    tasks: int = 0
    shared: int = 0


def read_log(path: Path) -> Log:
    """Read the lines that the plugin has written so far."""
    log = Log()
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):  # killed while it wrote
            break
        event = json.loads(line)
        match event["event"]:
            case "collected":
                log.collected = event["ids"]
            case "started":
                log.running = event["id"]
            case "finished":
                log.running = None
                log.finished[event["id"]] = Outcome(
                    event["outcome"], event["message"], event["seconds"]
                )
            case "ended":
                log.has_ended = True
        for counter in ("submits", "tasks", "shared"):
            setattr(log, counter, event.get(counter, getattr(log, counter)))
    return log

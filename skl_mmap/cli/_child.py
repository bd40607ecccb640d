"""Work in a fresh interpreter, which leaves nothing behind however it ends.

::

    parent: run_child("package.module", spec)
       |  messages of `skl_mmap._child`:  module and spec -->
       |                                  <-- {"step": text} ... {"result": value}
       v
    child:  package.module.work(spec, announce)
       v
    workers of the child: in the child's session, ended with it
"""

from __future__ import annotations

import glob
import importlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from skl_mmap._child import (
    Child,
    Connection,
    end_with_parent,
    explain_exit,
    function_command,
)
from skl_mmap.cli._command import CommandError
from skl_mmap.monitor import find_joblib_places

# How long a child may take to end its workers and delete its files when interrupted.
_GRACE_SECONDS = 5.0
_STDERR_LINES = 15

ChildResult = dict[str, Any]


def run_child(
    module: str,
    spec: Mapping[str, Any],
    *,
    on_step: Callable[[str], None] = lambda _: None,
    environment: Mapping[str, str] | None = None,
) -> tuple[ChildResult, str]:
    """Run the function ``work`` of a module in a fresh interpreter."""
    result: ChildResult | None = None
    with Child(function_command(__name__, "serve"), environment=environment) as child:
        try:
            child.send([module, json.dumps(spec)])
            while True:
                message = child.receive()
                if "step" in message:
                    on_step(message["step"])
                else:
                    result = json.loads(message["result"])
        except EOFError:
            child.wait()
        except BaseException:
            child.interrupt(seconds=_GRACE_SECONDS)
            raise
        finally:
            messages = child.last_words()
            child.close()
            _remove_folders(child.pid)
    if result is None:
        tail = "\n".join(messages.splitlines()[-_STDERR_LINES:])
        raise CommandError(
            f"the process that ran {module} ended without a result "
            f"({explain_exit(child.return_code or 0)}). Its last words:\n{tail}"
        )
    return result, messages


def _remove_folders(pid: int) -> None:
    """Remove joblib's folders, whose own clean-up does not survive SIGKILL."""
    # They have the child's pid in their names, so nobody else's is touched.
    for place in find_joblib_places():
        for folder in glob.glob(
            os.path.join(place, f"joblib_memmapping_folder_{pid}_*")
        ):
            shutil.rmtree(folder, ignore_errors=True)


def serve(connection: Connection) -> None:
    """Do in the child what the parent asked for."""
    assert connection.peer is not None
    end_with_parent(connection.peer.pid, grace_seconds=_GRACE_SECONDS)
    module, spec = connection.receive()
    result = importlib.import_module(module).work(
        json.loads(spec), lambda step: connection.send({"step": step})
    )
    connection.send({"result": json.dumps(result)})

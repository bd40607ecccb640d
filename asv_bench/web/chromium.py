"""Look at a page in a headless Chromium that has no internet.

::

    Chromium.send("Page.navigate")   --- JSON and a zero byte, descriptor 3 -->  browser
    keep events, return the answer  <--- JSON and a zero byte, descriptor 4 ---
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["Chromium", "ChromiumError", "find_chromium"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_TIMEOUT_SECONDS = 60.0
_END_SECONDS = 10.0

# Descriptors 3 and 4 are where the browser expects them; here they may be taken.
_LAUNCH = """\
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""

_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # which needs a user other than root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    # Names of other machines do not resolve: no page can depend on the internet.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)


class ChromiumError(RuntimeError):
    """The browser has not done what it was told."""


def find_chromium() -> str | None:
    """Find a Chromium: the variable CHROMIUM, or one of its usual names."""
    if given := os.environ.get("CHROMIUM"):
        return given
    return next(filter(None, map(shutil.which, _NAMES)), None)


class Chromium:
    """One browser with one page, until it is closed.

    Parameters
    ----------
    program : str
        Path of the browser.
    width, height : int
        Of the page, in pixels.

    Raises
    ------
    ChromiumError
        If it does not start.

    Attributes
    ----------
    problems : list of str
        What pages have written to the console as warnings and errors, errors that
        they did not catch, and files that they could not load.
    """

    def __init__(self, program: str, width: int = 1280, height: int = 800) -> None:
        self.problems: list[str] = []
        self._number = 0
        self._session = ""
        self._pending = b""
        self._folder = tempfile.TemporaryDirectory(
            prefix="chromium-", ignore_cleanup_errors=True
        )
        command = [program, *_OPTIONS, f"--window-size={width},{height}"]
        self._start([*command, f"--user-data-dir={self._folder.name}", "about:blank"])
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _start(self, command: list[str]) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # Above 4, so that neither overwrites the other on its way to 3 and 4.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (theirs_in, theirs_out)]
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, *map(str, high)]
        try:
            self._process = subprocess.Popen(
                [*launch, *command],
                pass_fds=high,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "HOME": self._folder.name},
            )
        finally:
            for descriptor in (theirs_in, theirs_out, *high):
                os.close(descriptor)

    def _attach(self) -> None:
        targets = self.send("Target.getTargets")["targetInfos"]
        pages = [target for target in targets if target["type"] == "page"]
        target = (
            pages[0]["targetId"]
            if pages
            else self.send("Target.createTarget", url="about:blank")["targetId"]
        )
        self._session = self.send(
            "Target.attachToTarget", targetId=target, flatten=True
        )["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        """End the browser and remove its files."""
        self._session = ""
        with contextlib.suppress(ChromiumError, OSError):
            self.send("Browser.close")
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._out)
        os.close(self._in)
        self._folder.cleanup()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for what it returns.

        Raises
        ------
        ChromiumError
            If it fails, or if there is no answer within a minute.
        """
        self._number += 1
        message: dict[str, Any] = {
            "id": self._number,
            "method": method,
            "params": parameters,
        }
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise ChromiumError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer.get("result", {})
                return result
            self._note(answer)

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while b"\0" not in self._pending:
            left = max(deadline - time.monotonic(), 0)
            if not select.select([self._in], [], [], left)[0]:
                raise ChromiumError(f"no answer in {_TIMEOUT_SECONDS:g} s")
            chunk = os.read(self._in, 1 << 16)
            if not chunk:
                raise ChromiumError("the browser has ended; does it start at all?")
            self._pending += chunk
        message, _, self._pending = self._pending.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _note(self, event: dict[str, Any]) -> None:
        """Keep what is a problem."""
        parameters = event.get("params", {})
        method = event.get("method")
        if method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            text = details.get("exception", {}).get("description", details["text"])
            self.problems.append(f"error: {text}")
        elif method == "Runtime.consoleAPICalled":
            if parameters["type"] in ("error", "warning", "assert"):
                words = [str(a.get("value", a)) for a in parameters["args"]]
                self.problems.append(f"console: {' '.join(words)}")
        elif method == "Log.entryAdded":
            entry = parameters["entry"]
            if entry["level"] in ("error", "warning"):
                self.problems.append(f"{entry['text']} {entry.get('url', '')}".strip())
        elif method == "Network.loadingFailed" and not parameters.get("canceled"):
            self.problems.append(f"not loaded: {parameters['errorText']}")

    def open(self, url: str) -> None:
        """Go to a page; see `wait_for` for when it is there."""
        self.send("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page, as JSON can hold it.

        Raises
        ------
        ChromiumError
            If it raises.
        """
        answer = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise ChromiumError(f"{expression}: {answer['exceptionDetails']['text']}")
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 20.0) -> Any:
        """Wait until an expression is true, and return its value.

        Raises
        ------
        ChromiumError
            If it is not after so many seconds; says what problems there were.
        """
        deadline = time.monotonic() + seconds
        while True:
            # While a page loads, what the expression needs may be missing.
            with contextlib.suppress(ChromiumError):
                if value := self.evaluate(expression):
                    return value
            if time.monotonic() > deadline:
                found = "\n".join(self.problems) or "none"
                raise ChromiumError(
                    f"after {seconds:g} s this is still not true: {expression}\n"
                    f"Problems of the page: {found}"
                )
            time.sleep(0.05)

    def take_screenshot(self, path: Path) -> None:
        """Save what is visible as PNG."""
        data = self.send("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

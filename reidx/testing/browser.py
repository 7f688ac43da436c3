"""Headless Chromium for tests of pages: opens, clicks, presses keys, emulates phones and dark mode, collects errors.

The browser is driven through its DevTools protocol over two pipes (``--remote-debugging-pipe``), so no port is opened and
no package is needed besides Debian's ``chromium``. A test skips where there is none: ``chromium()`` is then None.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

SECONDS = 60.0
"""Maximum time of one answer of the browser; machines under load are slow."""

_FLAGS = (
    "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
_KEYS = {"Enter": 13, "Tab": 9, "Escape": 27, "Home": 36, "End": 35} | {
    f"Arrow{side}": 37 + place for place, side in enumerate(("Left", "Up", "Right", "Down"))
}
_START = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"


def chromium() -> str | None:
    """Return the path of Chromium, or None if it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One page of a headless Chromium; a context manager that ends the browser.

    ``problems`` are the console errors, uncaught exceptions and failed requests of the page, as lines of text.
    """

    def __init__(self, width: int = 1000, height: int = 800, dark: bool = False) -> None:
        program = chromium()
        if program is None:
            raise FileNotFoundError("chromium is not installed: apt-get install chromium")
        self.problems: list[str] = []
        self._profile = tempfile.TemporaryDirectory(prefix="reidx-browser-", ignore_cleanup_errors=True)
        theirs, self._to = _pipe_above_nine()
        self._from, theirs_too = _pipe_above_nine()
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", _START, str(theirs), str(theirs_too), program, *_FLAGS,
             f"--user-data-dir={self._profile.name}"],
            pass_fds=(theirs, theirs_too), stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        os.close(theirs_too)
        self._read, self._number, self._session = b"", 0, ""
        self._events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        self.emulate(width, height, dark)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._to)
        os.close(self._from)
        with contextlib.suppress(ProcessLookupError):  # the browser and its helpers are one process group
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._profile.cleanup()

    def emulate(self, width: int, height: int, dark: bool = False) -> None:
        """Set the size of the page in CSS pixels, and the reader's preference for dark pages."""
        phone = width < 600
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        """Open a page and wait until it and its images are loaded."""
        self._events.clear()
        failed = self._call("Page.navigate", url=url).get("errorText")
        if failed:
            raise RuntimeError(f"{url}: {failed}")
        self.wait_for_load()

    def wait_for_load(self) -> None:
        """Wait for the next page to load, after a click or a key that leads to one."""
        end = time.monotonic() + SECONDS
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._message(end))
        self._events.clear()

    def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression in the page; promises are awaited."""
        answer = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description", "exception in the page"))
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key: a character, or a name such as Enter, Tab, ArrowRight."""
        known = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS.get(key, ord(key[0].upper()))}
        text = {"text": "\r" if key == "Enter" else key} if key == "Enter" or len(key) == 1 else {}
        self._call("Input.dispatchKeyEvent", type="keyDown", **known, **text)
        self._call("Input.dispatchKeyEvent", type="keyUp", **known)

    def choose_file(self, selector: str, path: Path) -> None:
        """Choose a file in the file input that ``selector`` names."""
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def accessible(self) -> list[tuple[str, str]]:
        """Return role and name of each node that a screen reader announces."""
        nodes = self._call("Accessibility.getFullAXTree")["nodes"]
        named = [node for node in nodes if not node.get("ignored")]
        return [(node.get("role", {}).get("value", ""), node.get("name", {}).get("value", "").strip()) for node in named]

    def screenshot(self, path: Path) -> None:
        """Write a PNG of the whole page."""
        shot = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        request = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            request["sessionId"] = self._session
        _write_all(self._to, json.dumps(request).encode() + b"\0")
        end = time.monotonic() + SECONDS
        while (message := self._message(end)).get("id") != self._number:
            self._events.append(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']['message']}")
        return dict(message["result"])

    def _message(self, end: float) -> dict[str, Any]:
        """Return the next message of the browser, and note it if it is a problem of the page."""
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            part = os.read(self._from, 1 << 16) if ready else b""
            if not part:
                raise RuntimeError("Chromium ended" if ready else f"Chromium did not answer within {SECONDS:.0f} s")
            self._read += part
        text, _, self._read = self._read.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        message.setdefault("method", "")
        given = message.get("params", {})
        if message["method"] == "Runtime.exceptionThrown":
            self.problems.append(given["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif message["method"] == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning", "assert"):
            self.problems.append(" ".join(str(one.get("value", one.get("description"))) for one in given["args"]))
        elif message["method"] == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{given['entry']['text']} {given['entry'].get('url', '')}".strip())
        return message


def _pipe_above_nine() -> tuple[int, int]:
    """Return a pipe whose descriptors are none of 3 and 4, which the browser uses."""
    ends = []
    for end in os.pipe():
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10))
        os.close(end)
    return ends[0], ends[1]


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]

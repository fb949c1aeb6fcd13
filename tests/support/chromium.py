"""A headless Chromium whose microphone plays a file, driven over its DevTools protocol."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio",
    "--remote-debugging-port=0", "--remote-allow-origins=*", "--disable-background-networking",
    "--disable-component-update", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--lang=en",
]  # fmt: skip


def find_chromium() -> str | None:
    """Return the program, None if there is none."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class Page:
    """A page in a browser."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number = socket, 0
        self.problems: list[str] = []
        """Errors of the page's code and of the network."""

    def call(self, method: str, **values: Any) -> dict[str, Any]:
        """Call a method of DevTools and return its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": values}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("method") == "Runtime.exceptionThrown":
                self.problems.append(json.dumps(message["params"]["exceptionDetails"])[:500])
            if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.problems.append(message["params"]["entry"]["text"])
            if message.get("id") == self._number:
                assert "error" not in message, message
                return dict(message["result"])

    def value(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression: str, timeout_s: float = 60.0) -> None:
        """Wait until an expression is true."""
        end_s = time.monotonic() + timeout_s
        while not self.value(expression):
            assert time.monotonic() < end_s, f"{expression}: never; {self.value('document.body.innerText')}"
            time.sleep(0.1)

    def press(self, key: str, code: int, text: str = "", shift: bool = False) -> None:
        """Press a key."""
        key_of = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **key_of)
        self.call("Input.dispatchKeyEvent", type="keyUp", **key_of)

    def screenshot(self, path: Path) -> None:
        """Write what is seen."""
        path.write_bytes(b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def size(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        """Choose the size of the window and the colours."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])


@contextmanager
def chromium(url: str, recording: Path, folder: Path) -> Iterator[Page]:
    """Open a page; the microphone plays a wav file once."""
    from websockets.sync.client import connect

    program = find_chromium()
    assert program is not None
    flags = [*FLAGS, f"--use-file-for-fake-audio-capture={recording}%noloop", f"--user-data-dir={folder}"]
    process = subprocess.Popen([program, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connect(_target(folder), max_size=None) as socket:
            page = Page(socket)
            for domain in ("Page", "Runtime", "Log"):
                page.call(f"{domain}.enable")
            page.call("Page.navigate", url=url)
            yield page
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _target(folder: Path) -> str:
    """Return the address of the first page, when the browser has started."""
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        time.sleep(0.2)
        lines = (
            (folder / "DevToolsActivePort").read_text().splitlines() if (folder / "DevToolsActivePort").exists() else []
        )
        if len(lines) < 2:
            continue
        with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list", timeout=20) as answer:
            for target in json.loads(answer.read()):
                if target["type"] == "page":
                    return str(target["webSocketDebuggerUrl"])
    raise AssertionError("the browser did not start")

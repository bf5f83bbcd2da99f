"""A real browser for tests: headless Chromium, told what to do over its DevTools protocol on two pipes.

Chrome DevTools Protocol, https://chromedevtools.github.io/devtools-protocol/: JSON messages that end with a zero byte,
on file descriptors 3 and 4 (``--remote-debugging-pipe``). No port is opened, and no library is needed.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from tests.peers import program

NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)
_KEYS = {"ArrowUp": 38, "ArrowDown": 40, "ArrowLeft": 37, "ArrowRight": 39, "Enter": 13, "Escape": 27, "Tab": 9}


def browser_path() -> str | None:
    """Return the installed browser, None where there is none."""
    return next((path for name in NAMES if (path := program(name))), None)


class BrowserError(RuntimeError):
    """The page or the browser did not do what it was told."""


class Browser:
    """One headless browser with one page.

    Parameters
    ----------
    width, height
        Size of the page [pixels].
    """

    def __init__(self, width: int = 1280, height: int = 800) -> None:
        path = browser_path()
        if path is None:
            raise BrowserError("no Chromium is installed")
        self._home = tempfile.mkdtemp(prefix="isocenter-browser-")
        to_read, self._out = os.pipe()
        self._in, to_write = os.pipe()

        def descriptors() -> None:
            a, b = os.dup(to_read), os.dup(to_write)
            os.dup2(a, 3)
            os.dup2(b, 4)

        command = [path, *_FLAGS, f"--user-data-dir={self._home}", f"--window-size={width},{height}", "about:blank"]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=descriptors,
            close_fds=False,
            env=os.environ | {"HOME": self._home},
        )
        os.close(to_read)
        os.close(to_write)
        self._answers: dict[int, Queue[dict[str, Any]]] = {}
        self.console: list[str] = []
        self.requests: list[str] = []
        self._n, self._session = 0, ""
        threading.Thread(target=self._read, daemon=True).start()
        self._attach()
        self.resize(width, height)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and remove its files."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._out)
        shutil.rmtree(self._home, ignore_errors=True)

    def resize(self, width: int, height: int) -> None:
        """Give the page another size [pixels]."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.tell("Emulation.setDeviceMetricsOverride", **metrics)

    def goto(self, address: str) -> None:
        """Open a page and wait until it is there."""
        self.run("globalThis.before = true")
        self.tell("Page.navigate", url=address)
        self.until("globalThis.before === undefined && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Return the value of an expression, awaited if it is a promise."""
        said = self.tell("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in said:
            details = said["exceptionDetails"]
            raise BrowserError(details.get("exception", {}).get("description") or details["text"])
        return said["result"].get("value")

    def until(self, script: str, timeout_s: float = 20.0) -> Any:
        """Wait until an expression is true; return its value."""
        deadline = time.monotonic() + timeout_s
        while not (found := self.run(script)):
            if time.monotonic() > deadline:
                raise BrowserError(f"never true within {timeout_s:g} s: {script}; console: {self.console[-5:]}")
            time.sleep(0.05)
        return found

    def key(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key."""
        code = _KEYS.get(key, ord(key.upper()) if len(key) == 1 else 0)
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        common = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.tell("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.tell("Input.dispatchKeyEvent", type="keyUp", **common)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Move, press, release the mouse, or turn its wheel, at a place of the page."""
        self.tell("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def drag(self, start: tuple[float, float], stop: tuple[float, float], steps: int = 5) -> None:
        """Drag with the left button."""
        self.mouse("mouseMoved", *start)
        self.mouse("mousePressed", *start, button="left", buttons=1, clickCount=1)
        for i in range(1, steps + 1):
            at = [a + (b - a) * i / steps for a, b in zip(start, stop, strict=True)]
            self.mouse("mouseMoved", *at, button="left", buttons=1)
        self.mouse("mouseReleased", *stop, button="left", clickCount=1)

    def click(self, selector: str) -> None:
        """Click in the middle of an element."""
        box = f"(() => {{ const b = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
        x, y = self.run(f"{box} return [b.x + b.width / 2, b.y + b.height / 2]; }})()")
        self.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
        self.mouse("mouseReleased", x, y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        """Write what the page shows as PNG."""
        path.write_bytes(base64.b64decode(self.tell("Page.captureScreenshot", format="png")["data"]))

    def tell(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command of the protocol; return its answer."""
        self._n += 1
        message: dict[str, Any] = {"id": self._n, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        answer = self._answers[self._n] = Queue()
        os.write(self._out, json.dumps(message).encode() + b"\0")
        try:
            said = answer.get(timeout=30)
        except Empty:
            raise BrowserError(f"{method}: no answer (browser ended with {self.process.poll()})") from None
        if "error" in said:
            raise BrowserError(f"{method}: {said['error']['message']}")
        result: dict[str, Any] = said["result"]
        return result

    def _attach(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            pages = [t for t in self.tell("Target.getTargets")["targetInfos"] if t["type"] == "page"]
            if pages:
                break
            if time.monotonic() > deadline:
                raise BrowserError("the browser opens no page")
            time.sleep(0.05)
        said = self.tell("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
        self._session = said["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.tell(f"{domain}.enable")

    def _read(self) -> None:
        rest = b""
        while True:
            try:
                data = os.read(self._in, 1 << 16)
            except OSError:
                return
            if not data:
                return
            *whole, rest = (rest + data).split(b"\0")
            for text in whole:
                self._take(json.loads(text))

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers.pop(message["id"]).put(message)
            return
        method, said = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            self.console.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.console.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])

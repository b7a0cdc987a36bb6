# SPDX-License-Identifier: GPL-2.0-or-later
"""A real browser without a window (Debian's chromium-headless-shell), spoken to by its DevTools protocol on a pipe."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.corpus.cache import built, cache_dir, run

PICTURES = Path(__file__).parents[1] / "build/pictures"  #: kept, to be looked at
PROGRAM = "chromium-headless-shell"
#: It reads what it is told from descriptor 3, and answers on 4.
PIPES = 'exec 3<&0 4>&1 </dev/null >/dev/null 2>&1; exec "$@"'
#: Tests may run as root, where it has no sandbox; and nothing is to be asked of any network.
OPTIONS = """
--remote-debugging-pipe --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars
"""
#: It carries axe-core, which finds what keeps people with a screen reader or a keyboard from a page.
AXE = "axe-playwright-python==0.1.8"


@dataclass
class Browser:
    """Sends commands, and keeps the events that come between answers."""

    to: IO[bytes]
    answers: IO[bytes]
    number: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    rest: bytes = b""

    def ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """What the browser answers to one command."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        self.to.write(json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        self.to.flush()
        while (answer := self._next()).get("id") != self.number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def wait(self, method: str) -> None:
        """Until an event of this name has come since the last wait."""
        while not any(event["method"] == method for event in self.events):
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            data = self.answers.read1(1 << 20)  # type: ignore[attr-defined]
            if not data:
                raise RuntimeError(f"{PROGRAM} is gone")
            self.rest += data
        message, _, self.rest = self.rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def page(self) -> Page:
        """An empty one."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable", session)
        return Page(self, session)


@dataclass(frozen=True)
class View:
    """How a page is looked at."""

    name: str
    width: int
    dark: bool = False
    media: str = "screen"
    height: int = 900


VIEWS = (
    View("desktop", 1280),
    View("phone", 390),
    View("dark", 1280, dark=True),
    View("dark-phone", 390, dark=True),
    View("print", 718, media="print"),  # A4 with its margins
)


@dataclass
class Page:
    """One tab."""

    browser: Browser
    session: str

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """A command to this tab."""
        return self.browser.ask(method, self.session, **params)

    def show(self, view: View) -> None:
        """Be as wide, and of such colours."""
        size = {"width": view.width, "height": view.height, "deviceScaleFactor": 1, "mobile": view.width < 500}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if view.dark else "light"}
        self.ask("Emulation.setEmulatedMedia", media=view.media, features=[scheme])

    def open(self, file: Path) -> None:
        """Load a file, until all of it is there."""
        self.browser.events.clear()
        self.ask("Page.navigate", url=file.absolute().as_uri())
        self.browser.wait("Page.loadEventFired")

    def evaluate(self, script: str) -> Any:
        """What a script comes to, its promise kept. It is not bound by the page's own policy."""
        answer = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """A key of the keyboard, by its name."""
        codes = {"Tab": 9, "Enter": 13, "ArrowRight": 39}
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key], **text)

    def complaints(self) -> list[str]:
        """What the console has to say of the page since it was opened."""
        told = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        self.evaluate("1")
        return [json.dumps(event["params"]) for event in self.browser.events if event["method"] in told]

    def picture(self, file: Path) -> Path:
        """Have all of the page as a PNG."""
        file.parent.mkdir(parents=True, exist_ok=True)
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        data = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
        file.write_bytes(base64.b64decode(data))
        return file

    def paper(self, file: Path) -> Path:
        """Have the page as it is printed, on A4."""
        size = {"paperWidth": 8.27, "paperHeight": 11.69}
        file.write_bytes(base64.b64decode(self.ask("Page.printToPDF", printBackground=False, **size)["data"]))
        return file


@contextmanager
def browser() -> Iterator[Browser]:
    """It has a home of its own, and is gone in the end. Where it may, it goes first: it is timed."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        words = ["nice", "-n", "-15", "sh", "-c", PIPES, "sh", PROGRAM, *OPTIONS.split(), f"--user-data-dir={home}"]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin
            assert process.stdout
            try:
                yield Browser(process.stdin, process.stdout)
            finally:
                process.kill()


def axe() -> str:
    """The script axe-core, from PyPI: the package that carries it wants more than we need."""
    return (built(cache_dir() / AXE.replace("==", "-"), _fetch_axe) / "axe.min.js").read_text()


def _fetch_axe(into: Path) -> None:
    run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", into, AXE])
    (wheel,) = into.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (into / "axe.min.js").write_bytes(archive.read("axe_playwright_python/axe.min.js"))

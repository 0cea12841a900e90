"""A headless Chromium, driven by the WebDriver protocol (W3C): JSON over HTTP, so no library is needed."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key under which the protocol names an element
KEYS = {"left": "\ue012", "right": "\ue014", "control": "\ue009", "enter": "\ue007", "escape": "\ue00c"}
PATIENCE = 20.0  # seconds until what a test waits for counts as absent


def missing() -> str:
    """Why there is no browser to be had, or nothing."""
    lacking = [name for name in ("chromedriver", "chromium") if not shutil.which(name)]
    return f"no {' and no '.join(lacking)}: apt-get install chromium chromium-driver" if lacking else ""


class Browser:
    """One window. Use it as a context."""

    def __init__(self, home: Path, width: int = 1280, height: int = 900) -> None:
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        assert self.driver.stdout is not None
        started = next(found for line in self.driver.stdout if (found := re.search(r"on port (\d+)\.", line)))
        self.session = f"http://127.0.0.1:{started[1]}/session"
        words = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={home}",
        ]
        words.append(f"--window-size={width},{height}")
        wanted = {"goog:chromeOptions": {"binary": shutil.which("chromium"), "args": words}}
        wanted["goog:loggingPrefs"] = {"browser": "ALL"}
        made = self._ask("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        self.session += f"/{made['sessionId']}"
        if width < 500:  # no window is narrower
            self.emulate("setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=True)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._ask("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait(10)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if method != "POST" else json.dumps(body or {}).encode()
        request = urllib.request.Request(self.session + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def emulate(self, what: str, **settings: Any) -> None:
        """Another screen, or another wish of the person before it (Chrome's Emulation domain)."""
        self._ask("POST", "/goog/cdp/execute", {"cmd": f"Emulation.{what}", "params": settings})

    def open(self, url: str) -> None:
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str, *given: Any) -> Any:
        return self._ask("POST", "/execute/sync", {"script": script, "args": given})

    def press(self, *keys: str) -> None:
        """Keys one after another; those joined by + at once."""
        actions = []
        for chord in keys:
            codes = [KEYS.get(key, key) for key in (chord.split("+") if len(chord) > 1 else [chord])]
            actions += [{"type": "keyDown", "value": code} for code in codes]
            actions += [{"type": "keyUp", "value": code} for code in reversed(codes)]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def find(self, selector: str) -> str:
        return self._ask("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def click(self, selector: str) -> None:
        self._ask("POST", f"/element/{self.find(selector)}/click")

    def write(self, selector: str, text: str) -> None:
        self._ask("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def shows(self, selector: str) -> bool:
        return self.run("return document.querySelector(arguments[0])?.checkVisibility() ?? false", selector)

    def wait(self, condition: Callable[[], Any]) -> Any:
        """What `condition` returns as soon as it is true."""
        until = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert time.monotonic() < until, f"waited in vain; the page shows: {self.text('body')[:2000]}"
            time.sleep(0.02)
        return found

    def complaints(self) -> list[str]:
        """What the page's console holds since it was last asked: errors of scripts, of the network, of CSP."""
        return [entry["message"] for entry in self._ask("POST", "/se/log", {"type": "browser"})]

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

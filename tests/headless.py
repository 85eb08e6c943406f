"""A headless Chromium for tests of pages, without a driver or a library."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from itertools import count
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
Content = dict[str, Any]


class Browser:
    """Headless Chromium, spoken to through its debugging pipe: it reads file descriptor 3 and writes 4."""

    def __init__(self, folder: Path) -> None:
        read_end, self._to = os.pipe()
        self._from, write_end = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (read_end, write_end)]

        def place() -> None:
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        switches = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        command = [
            CHROMIUM,
            *switches,
            f"--user-data-dir={folder / 'profile'}",
            "--remote-debugging-pipe",
            "about:blank",
        ]
        # Not close_fds, which would close 3 and 4; what Python opens is not inherited anyway.
        self._process = subprocess.Popen(
            command, preexec_fn=place, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for end in (read_end, write_end, *high):
            os.close(end)
        self._numbers, self._rest = count(1), b""
        self.events: list[Content] = []
        targets = self._call("Target.getTargets")["targetInfos"]
        target = next(item["targetId"] for item in targets if item["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder / "downloads"))
        for domain in ("Page", "Network", "Runtime"):
            self.page(f"{domain}.enable")

    def page(self, method: str, **parameters: Any) -> Content:
        return self._call(method, {"sessionId": self._session}, **parameters)

    def run(self, script: str) -> Any:
        answer = self.page("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Return once it holds; a minute, since a browser beside a busy suite can take long for anything."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if self.run(f"Boolean({condition})"):
                return
            time.sleep(0.02)
        raise AssertionError(f"never came true: {condition}; the page says: {self.run('document.body.innerText')}")

    def click(self, element: str) -> None:
        """Click what the expression finds, once it is there: pages draw their parts one after the other."""
        self.wait_for(element)
        self.run(f"({element}).click()")

    def open(self, path: Path) -> None:
        self.page("Page.navigate", url=path.as_uri())
        self.wait_for("document.readyState === 'complete' && location.protocol === 'file:'")

    def press(self, key: str, **more: Any) -> None:
        for kind in ("keyDown", "keyUp"):
            code = {"ArrowLeft": 37, "ArrowRight": 39}[key]
            self.page("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)

    def close(self) -> None:
        """Without its pipe the browser ends by itself."""
        os.close(self._to)
        os.close(self._from)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _call(self, method: str, more: Content | None = None, **parameters: Any) -> Content:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters, **(more or {})}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                assert select.select([self._from], [], [], 60)[0], f"no answer to {method}"
                piece = os.read(self._from, 2**20)
                assert piece, "the browser has ended"
                self._rest += piece
            text, _, self._rest = self._rest.partition(b"\0")
            answer: Content = json.loads(text)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: Content = answer["result"]
                return result
            self.events.append(answer)

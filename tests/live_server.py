"""The real thing for tests: `myllm serve` as a process of its own, on a free port and a home of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

START_S = 60.0
EVENT_S = 60.0


class LiveServer:
    """A running server. `stop` sends SIGTERM and returns the exit code; `restart` keeps home and settings."""

    def __init__(self, home: Path, *args: str, **env: str) -> None:
        self.home = home
        self.args = args
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("MYLLM_")}
        self.env |= {"MYLLM_HOME": str(home), "PYTHONUNBUFFERED": "1"} | env
        self.log: list[str] = []
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "myllm.cli.main", "serve", "--port", "0", *self.args],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        address: list[str] = []
        is_known = threading.Event()
        threading.Thread(target=self._read, args=(address, is_known), daemon=True).start()
        if not is_known.wait(START_S) or not address:
            self.process.kill()
            raise RuntimeError("the server did not start:\n" + "\n".join(self.log))
        self.url = address[0]
        self.http = httpx.Client(base_url=self.url, timeout=EVENT_S)

    def _read(self, address: list[str], is_known: threading.Event) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(line.rstrip())
            if found := re.search(r"ready at (https?://\S+)", line):
                address.append(found[1])
                is_known.set()
        is_known.set()

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        self.http.close()
        self.process.send_signal(signal_number)
        return self.process.wait(START_S)

    def restart(self) -> None:
        self.stop()
        self.start()

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body)

    def chat(self, content: str, **body: Any) -> dict[str, Any]:
        """One message to tiny at temperature 0, not streamed."""
        options = {"temperature": 0} | body.pop("options", {})
        messages = body.pop("messages", [{"role": "user", "content": content}])
        response = self.post("/api/chat", model=body.pop("model", "tiny"), messages=messages, options=options, **body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def stream(self, path: str, **body: Any) -> Iterator[dict[str, Any]]:
        """The events of a streamed request, as they come."""
        with self.http.stream("POST", path, json={**body, "stream": True}) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line[6:])

    def worker_pids(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.process.pid).children()]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The workers stand still inside: what runs there surely does not end before the test is done with it."""
        workers = self.worker_pids()
        for pid in workers:
            pause(pid)
        yield
        for pid in workers:
            os.kill(pid, signal.SIGCONT)

    def status(self, model: str = "tiny") -> dict[str, Any]:
        """The model's line of /api/status, empty while it is not loaded."""
        models = self.http.get("/api/status").json()["models"]
        return next((line for line in models if line["name"] == model), {})

    def num_generated(self, model: str) -> int:
        """Tokens that the model has generated since the server started; it grows while an answer runs."""
        told = re.search(rf'^myllm_generated_tokens_total{{model="{model}"}} (\S+)', self.http.get("/metrics").text, re.MULTILINE)
        return int(float(told[1])) if told else 0


def pause(pid: int) -> None:
    """Stop a process until SIGCONT or SIGKILL. The signal alone lets one that runs on a core that stalls run on for a while."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "the process stands still")


def wait_until(is_true: Callable[[], Any], what: str) -> Any:
    """Poll for an event that only the outside of a process shows; returns what made it true."""
    deadline = time.monotonic() + EVENT_S
    while time.monotonic() < deadline:
        if value := is_true():
            return value
        time.sleep(0.02)
    raise AssertionError(f"never happened: {what}")

"""`myllm` as a person has it: in processes of its own, at a real server, in a real terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

COMMAND = (sys.executable, "-m", "myllm.cli.main")
ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 30.0  # of a test with a program that says nothing
CONTROL_C, CONTROL_D = "\x03", "\x04"
HELLO = "Hello! I am tiny, a small model that ships with MyLLM. How can I help you?"
# The terminal must be the process's own, or Ctrl-C would not reach it.
IN_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|[=>])|\r")


def environment(home: Path, host: str | None = None) -> dict[str, str]:
    """Nothing of the settings of who runs the tests; no colours, and no questions to a terminal that cannot answer."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MYLLM_")}
    ours = {"MYLLM_HOME": str(home), "PYTHONPATH": str(ROOT), "PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm", "COLUMNS": "120"}
    return kept | ours | ({"MYLLM_HOST": host} if host else {})


def run(arguments: Sequence[str], env: dict[str, str], stdin: str | bytes | None = None) -> subprocess.CompletedProcess[str]:
    """A finished `myllm`; without `stdin` it reads the null device."""
    given = stdin.encode() if isinstance(stdin, str) else stdin
    source = {"stdin": subprocess.DEVNULL} if given is None else {"input": given}
    done = subprocess.run([*COMMAND, *arguments], env=env, capture_output=True, timeout=PATIENCE_S, check=False, **source)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


class Server:
    """A `myllm serve` that is ready. `url` is what it printed, `greeting` all that it printed by then."""

    def __init__(self, home: Path, log: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.home = home
        self.log = log
        command = [*COMMAND, "serve", "--port", "0", "--threads", "1", *arguments]
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                command, env=environment(home) | (env or {}), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, bufsize=0
            )
        self.greeting = ""
        while "Ctrl-C" not in self.greeting:
            line = self._read_line()
            assert line, f"the server did not start: {log.read_text()}"
            self.greeting += line
        self.url = re.search(r"https?://\S+", self.greeting)[0]

    def stop(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def end(self) -> None:
        if self.process.poll() is None:
            self.stop()
        self.process.stdout.close()

    def _read_line(self) -> str:
        is_readable, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
        return self.process.stdout.readline().decode() if is_readable else ""


class Terminal:
    """`myllm` with a terminal at both ends. `seen` is what it showed since the last `expect`, without escapes."""

    def __init__(self, arguments: Sequence[str], env: dict[str, str]) -> None:
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (40, 120))  # into one of no size nothing is drawn
        self._fd = ours
        self.seen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_TERMINAL, *COMMAND, *arguments],
            env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def expect(self, text: str) -> str:
        """All that came up to and with `text`."""
        while text not in self.seen:
            assert self._look(), f"{text!r} did not come, but {self.seen!r}"
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def wait(self) -> int:
        """Its exit code, once it has left."""
        while self._look():
            pass
        return self.process.wait(PATIENCE_S)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._fd)

    def _look(self) -> bool:
        """Take in what it shows next; False when it has left, or shows nothing for long."""
        is_readable, _, _ = select.select([self._fd], [], [], PATIENCE_S)
        try:
            shown = os.read(self._fd, 65536) if is_readable else b""
        except OSError:  # how a terminal says that nobody is there any more
            return False
        self.seen += _ESCAPES.sub("", shown.decode(errors="replace"))
        return bool(shown)

"""One worker process as its pool sees it: pipes that never block, the items it holds, and how it ended."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress

# `-P` and this line give the worker the import path of this process, wherever that came from.
_RUN_WORKER = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from effopd.rewards.worker import main; main(sys.argv[1])"
)
_READ_BYTES = 1 << 16
_TAIL_BYTES = 4000


class WorkerProcess:
    """A process that runs `effopd.rewards.worker`.

    It is killed with all it started in its process group. Whatever it prints is kept to the last few lines, for messages.
    """

    def __init__(self, verifier: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _RUN_WORKER, verifier, json.dumps(_import_path())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            process_group=0,  # Ctrl-C at the terminal is the driver's affair
            env={**os.environ, "PYTHONHASHSEED": "0"},  # the order of sets must not tell one worker from another
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self.requests, self.replies, self.prints = self._process.stdin, self._process.stdout, self._process.stderr
        for pipe in (self.requests, self.replies, self.prints):
            os.set_blocking(pipe.fileno(), False)
        self._unsent = b""
        self._partial = b""
        self._tail = b""
        self.is_ready = False
        self.held: deque[int] = deque()
        """Items sent and not yet answered; the first of them is the one being judged."""
        self.window = 1
        """How many items it may hold. Grows while its answers come quickly."""
        self.since = time.monotonic()
        """When it started on its first held item, or was started itself."""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int:
        """Of the process after `kill`; negative for the signal that ended it."""
        assert self._process.returncode is not None, "the process has not been reaped"
        return self._process.returncode

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def send(self, lines: bytes) -> None:
        self._unsent += lines
        self.flush()

    def flush(self) -> None:
        """Write what the pipe takes now. A worker that is gone takes nothing, and its end is noticed elsewhere."""
        with suppress(BlockingIOError, BrokenPipeError):
            num_written = os.write(self.requests.fileno(), self._unsent)
            self._unsent = self._unsent[num_written:]

    def receive(self) -> list[bytes]:
        """Return the whole lines that have come in, and keep what it printed."""
        self._tail = (self._tail + _read_all(self.prints.fileno()))[-_TAIL_BYTES:]
        *lines, self._partial = (self._partial + _read_all(self.replies.fileno())).split(b"\n")
        return lines

    def has_ended(self) -> bool:
        """Return whether the process is gone. It is not reaped, so that its number stays its own until `kill`."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def kill(self) -> str:
        """End it with all its children, close the pipes, and return how it ended and the end of what it printed."""
        # Also when it has ended by itself: its children may go on.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        for pipe in (self.requests, self.replies, self.prints):
            pipe.close()
        end = f"exit code {code}" if code >= 0 else f"killed by signal {-code}"
        tail = self._tail.decode(errors="replace").strip()
        return f"{end}; it printed:\n{tail}" if tail else f"{end}; it printed nothing"


def _import_path() -> list[str]:
    return [entry or os.getcwd() for entry in sys.path]


def _read_all(descriptor: int) -> bytes:
    """Return all that a non-blocking pipe holds now."""
    chunks = []
    with suppress(BlockingIOError):
        while chunk := os.read(descriptor, _READ_BYTES):
            chunks.append(chunk)
    return b"".join(chunks)

"""One Python program inside bubblewrap: no network, no host files but a read-only /usr, limits that no program can lift.

Each run makes its own user, network, process, IPC, host-name and mount namespaces, and everything in them dies with the
first process or with the deadline. The limits are set inside, by `guest/start.py`; what namespaces and limits leave open,
`seccomp.py` closes. As root, bubblewrap is started as an ordinary user (setpriv): root is exempt from the process limit.
"""

import contextlib
import functools
import marshal
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from effopd.config.verifier_time import (
    SANDBOX_SECONDS,
    SANDBOX_SECONDS_PER_TEST,
    SANDBOX_SECONDS_TO_END,
    SANDBOX_SECONDS_TO_START,
)
from effopd.errors import ConfigError
from effopd.rewards.seccomp import filter_program

UNPRIVILEGED_ID = 65534
MAX_ERROR_BYTES = 2**14

_PREFERRED_PYTHON = Path("/usr/bin/python3")
_START = (Path(__file__).parent / "guest" / "start.py").read_text()
_REMEDY = (
    "it needs user namespaces for ordinary users (kernel.unprivileged_userns_clone=1 on Debian, user.max_user_namespaces "
    "above 0, kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu 24.04, in a container a seccomp profile that allows "
    "them) and a Python that every user can read (/usr/bin/python3: apt-get install python3)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one program may use. Times are seconds; the processor time, memory and files are per process."""

    wall_seconds: float = SANDBOX_SECONDS
    """For everything together, tests included."""
    seconds_per_test: float = SANDBOX_SECONDS_PER_TEST
    """For one call of the program, or one run of it, and for loading it; the judge holds it to that."""
    cpu_seconds: int = int(SANDBOX_SECONDS)
    address_space_bytes: int = 2**30
    """Of one process. Nothing bounds the sum but `num_processes`: a program of functions has at most three of its own, 3 GiB."""
    file_bytes: int = 2**24
    disk_bytes: int = 2**24
    """Size of /tmp, the only folder that can be written to."""
    num_processes: int = 4
    """Processes and threads at a time, the judge's one or two included: room for the program and a thread beside it."""
    num_open_files: int = 64
    output_bytes: int = 2**20
    """Standard output that is kept; a program that writes more is killed."""

    def resources(self) -> dict[str, int]:
        """Return the limits that `guest/start.py` sets, by the names of Python's `resource` module."""
        return {
            "RLIMIT_CPU": self.cpu_seconds,
            "RLIMIT_AS": self.address_space_bytes,
            "RLIMIT_FSIZE": self.file_bytes,
            "RLIMIT_NPROC": self.num_processes,
            "RLIMIT_NOFILE": self.num_open_files,
            "RLIMIT_CORE": 0,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxResult:
    """How a program ended. An exit code of 0 says nothing about what it did on the way."""

    stdout: bytes
    stderr: bytes
    """The first 16 KiB."""
    exit_code: int | None
    """None when it was killed from outside: out of time, or too much output."""
    is_overtime: bool
    is_output_cut: bool


def run(
    program: str | bytes, stdin: bytes = b"", limits: Limits | None = None, modules: Mapping[str, bytes] | None = None
) -> SandboxResult:
    """Run Python source, or bytecode of `compile_inside`, in a sandbox of its own; when it has ended, nothing is left.

    `modules` maps names to bytecode that the program can import under them, in the order in which they import each other.
    Raises ConfigError when there is no bubblewrap or no sandbox can be started.
    """
    limits = Limits() if limits is None else limits
    settings = marshal.dumps((limits.resources(), dict(modules or {}), program), 2)  # version 2: any Python reads it
    payload = len(settings).to_bytes(8, "little") + settings + stdin
    filter_read, filter_write = os.pipe()
    try:
        with os.fdopen(filter_write, "wb") as file:
            file.write(_filter())
        process = subprocess.Popen(
            [*_command(os.geteuid()), *_options(filter_read, limits.disk_bytes), *_python()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(filter_read,),
            env={"PYTHONHASHSEED": "0"},  # a reward must not depend on the order of a set
            cwd="/",
        )
    finally:
        os.close(filter_read)
    with process:
        try:
            # Under memory pressure the kernel takes the sandbox, not the trainer.
            with contextlib.suppress(OSError):
                Path(f"/proc/{process.pid}/oom_score_adj").write_text("1000")
            return _converse(process, payload, limits)
        finally:
            _kill(process)


def compile_inside(source: str) -> bytes:
    """Return trusted source as bytecode of the sandbox's own Python, which may be another version than this one."""
    compiler = "import marshal, os, sys\nos.write(1, marshal.dumps(compile(sys.stdin.read(), '<sandbox>', 'exec')))"
    result = run(compiler, source.encode())
    if result.exit_code != 0:
        raise ConfigError(f"the Python of the code sandbox, {_python()[0]}, does not work: {_text(result.stderr)}")
    return result.stdout


def require_sandbox() -> None:
    """Raise ConfigError, with the remedy, unless programs can be run here. Costs one run, about 30 ms."""
    result = run("print(6 * 7)")
    if result.stdout != b"42\n":
        raise ConfigError(f"the code sandbox runs, but Python in it does not: {_text(result.stderr)}")


def _converse(process: "subprocess.Popen[bytes]", payload: bytes, limits: Limits) -> SandboxResult:
    """Feed the payload, collect the output, stop at the deadline or at the cap."""
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    stdout, stderr, unsent = bytearray(), bytearray(), memoryview(payload)
    deadline = time.monotonic() + SANDBOX_SECONDS_TO_START
    is_started = is_overtime = False
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdin, selectors.EVENT_WRITE)
        for stream in (process.stdout, process.stderr):
            selector.register(stream, selectors.EVENT_READ)
        for stream in (process.stdin, process.stdout, process.stderr):
            os.set_blocking(stream.fileno(), False)
        while process.stdout in selector.get_map() or process.stderr in selector.get_map():
            events = selector.select(max(0.0, deadline - time.monotonic()))
            is_overtime = time.monotonic() >= deadline
            if is_overtime or len(stdout) > limits.output_bytes + 1:
                break
            for key, _ in events:
                if key.fileobj is process.stdin:
                    unsent = _send(process.stdin.fileno(), unsent)
                    if not unsent:
                        selector.unregister(process.stdin)
                        process.stdin.close()
                    continue
                chunk = os.read(key.fd, 2**16)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stdout:
                    stdout += chunk
                elif len(stderr) < MAX_ERROR_BYTES:
                    stderr += chunk
            if stdout and not is_started:
                is_started = True  # the one byte of guest/start.py: the time of the program begins
                deadline = time.monotonic() + limits.wall_seconds
    is_output_cut = len(stdout) > limits.output_bytes + 1
    is_killed = is_overtime or is_output_cut
    if is_killed:
        _kill(process)
    exit_code = process.wait()
    if not is_started:
        reason = _text(stderr) or f"nothing happened within {SANDBOX_SECONDS_TO_START:.0f} s"
        raise ConfigError(f"bubblewrap is installed, but a sandbox does not start ({reason}); {_REMEDY}")
    return SandboxResult(
        stdout=bytes(stdout[1 : limits.output_bytes + 1]),
        stderr=bytes(stderr[:MAX_ERROR_BYTES]),
        exit_code=None if is_killed else exit_code,
        is_overtime=is_overtime,
        is_output_cut=is_output_cut,
    )


def _send(descriptor: int, data: memoryview) -> memoryview:
    """Return what is left to send: nothing, too, when nobody reads any more."""
    try:
        return data[os.write(descriptor, data[: 2**16]) :]
    except BrokenPipeError:
        return data[:0]


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill the sandbox's first process, with which all others die, and let bubblewrap reap it.

    Killing bubblewrap itself would do, but leave a zombie to the machine's init, which in a container may never reap it.
    """
    if process.poll() is not None:
        return
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    with contextlib.suppress(OSError):  # it has just ended, or the kernel does not list children
        for child in children.read_text().split():
            os.kill(int(child), signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SANDBOX_SECONDS_TO_END)
    process.kill()


@functools.cache
def _command(user_id: int) -> list[str]:
    """Return what starts bubblewrap as an ordinary user."""
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        raise ConfigError(
            "model-written code runs inside bubblewrap only, and there is no `bwrap` on PATH; "
            "install it: apt-get install bubblewrap"
        )
    if user_id != 0:
        return [bubblewrap]
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise ConfigError(
            "to run model-written code as another user than root, there must be `setpriv` on PATH; "
            "install it: apt-get install util-linux"
        )
    return [setpriv, f"--reuid={UNPRIVILEGED_ID}", f"--regid={UNPRIVILEGED_ID}", "--clear-groups", bubblewrap]


@functools.cache
def _filter() -> bytes:
    return filter_program()


def _options(filter_descriptor: int, disk_bytes: int) -> list[str]:
    namespaces = ["--unshare-user", "--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
    identity = ["--uid", str(UNPRIVILEGED_ID), "--gid", str(UNPRIVILEGED_ID), "--cap-drop", "ALL"]
    devices = [part for name in ("null", "zero", "urandom") for part in ("--dev-bind", f"/dev/{name}", f"/dev/{name}")]
    # The root folder is a tmpfs without a size of its own, so it is closed last. There is no /proc.
    folders = ["--size", str(disk_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/"]
    life = ["--die-with-parent", "--new-session", "--as-pid-1", "--seccomp", str(filter_descriptor)]
    return [*namespaces, *identity, *_libraries(), *devices, *folders, *life]


@functools.cache
def _libraries() -> list[str]:
    """Return the mounts that a Python needs: /usr, what stands beside it, and a Python elsewhere if there is no other."""
    options = ["--ro-bind", "/usr", "/usr"]
    for name in ("/lib", "/lib64"):
        if Path(name).is_symlink():
            options += ["--symlink", os.readlink(name), name]
        elif Path(name).exists():
            options += ["--ro-bind", name, name]
    if not _PREFERRED_PYTHON.exists() and Path(sys.base_prefix) != Path("/usr"):
        options += ["--ro-bind", sys.base_prefix, sys.base_prefix]
    return options


@functools.cache
def _python() -> list[str]:
    """Return the interpreter and what it runs first: no site packages, nothing written."""
    python = _PREFERRED_PYTHON if _PREFERRED_PYTHON.exists() else Path(sys.base_prefix, "bin", "python3")
    return [str(python), "-s", "-S", "-B", "-c", _START]


def _text(data: bytes | bytearray) -> str:
    return bytes(data).decode("utf-8", "replace").strip()

import contextlib
import errno
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from effopd.errors import ConfigError
from effopd.rewards.sandbox import Limits, compile_inside, require_sandbox, run
from effopd.rewards.seccomp import filter_program

START = b"The first thing that runs inside the sandbox"


def output(source: str, limits: Limits | None = None) -> str:
    return run(source, limits=limits).stdout.decode()


def test_a_program_gets_its_input_and_its_output_and_exit_code_come_back() -> None:
    result = run("import sys\nprint(sys.stdin.read().upper())\nsys.stderr.write('noise')\nsys.exit(3)", b"hello")
    assert (result.stdout, result.stderr, result.exit_code) == (b"HELLO\n", b"noise", 3)
    assert not result.is_overtime and not result.is_output_cut


def test_a_large_input_that_nobody_reads_does_not_block() -> None:
    assert run("print(1)", bytes(2**24)).stdout == b"1\n"


def test_a_program_is_nobody_alone_without_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "secret")
    source = "import os\nprint(os.getuid(), os.getgid(), os.getpid(), dict(os.environ), os.getcwd())"
    assert output(source) == "65534 65534 1 {} /tmp\n"


def test_a_program_has_no_open_files_but_the_standard_three() -> None:
    source = (
        "import os\nfor number in range(64):\n    try:\n        os.fstat(number)\n        print(number)\n"
        "    except OSError:\n        pass"
    )
    assert output(source).split() == ["0", "1", "2"]


def test_a_program_has_no_capabilities_and_cannot_gain_any() -> None:
    source = (
        "import ctypes, os\n"
        "header = (ctypes.c_uint32 * 2)(0x20080522, 0)\n"
        "sets = (ctypes.c_uint32 * 6)()\n"
        "print(ctypes.CDLL(None).capget(header, sets), list(sets), ctypes.CDLL(None).prctl(39, 0, 0, 0, 0))"
    )
    assert output(source) == "0 [0, 0, 0, 0, 0, 0] 1\n"  # PR_GET_NO_NEW_PRIVS is 39


def test_only_system_folders_are_there_and_only_tmp_can_be_written_to() -> None:
    source = (
        "import os\n"
        "print(sorted({*os.listdir('/')} - {'lib', 'lib64'}), sorted(os.listdir('/dev')), os.listdir('/tmp'))\n"
        "for folder in ('/', '/dev', '/usr', '/usr/lib', '/tmp'):\n"
        "    try:\n"
        "        open(f'{folder}/new', 'w')\n"
        "    except OSError as error:\n"
        "        print(folder, error.errno)\n"
    )
    lines = output(source).splitlines()
    assert lines[0] == "['dev', 'tmp', 'usr'] ['null', 'urandom', 'zero'] []"
    assert lines[1:] == [f"{folder} {errno.EROFS}" for folder in ("/", "/dev", "/usr", "/usr/lib")]


def test_nothing_is_left_of_a_run_in_the_next() -> None:
    assert output("open('left', 'w').write('x')\nprint(1)") == "1\n"
    assert output("import os\nprint(os.listdir('.'))") == "[]\n"


def test_every_namespace_is_the_sandboxs_own() -> None:
    names = ("user", "net", "pid", "ipc", "uts", "mnt")
    ours = {name: os.readlink(f"/proc/self/ns/{name}") for name in names}
    sandbox = threading.Thread(target=run, args=("import time\ntime.sleep(2)",))
    sandbox.start()
    found: list[dict[str, str]] = []
    while sandbox.is_alive() and not found:
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(folder / "ns" / "pid") != ours["pid"] and START in (folder / "cmdline").read_bytes():
                    found.append({name: os.readlink(folder / "ns" / name) for name in names})
    sandbox.join()
    assert found and all(theirs[name] != ours[name] for theirs in found for name in names)


@pytest.mark.parametrize(
    "call",
    [
        "unshare(0x10000000)",
        "ptrace(16, 1, 0, 0)",
        "process_vm_readv(1, None, 0, None, 0, 0)",
        "shmget(0, 4096, 0o1600)",
        "semget(0, 1, 0o1600)",
        "msgget(0, 0o1600)",
        "memfd_create(b'x', 0)",
        "mount(b'none', b'/tmp', b'tmpfs', 0, None)",
        "socket(1, 1, 0)",
        "personality(0x0040000)",
        "clone(None, None, 0x10000000, None)",
    ],
)
def test_dangerous_system_calls_are_refused(call: str) -> None:
    """The last one is clone with CLONE_NEWUSER; C's clone refuses a null function with EINVAL before the kernel sees it."""
    source = f"import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nprint(libc.{call}, ctypes.get_errno())"
    expected = errno.EINVAL if call.startswith("clone") else errno.EPERM
    assert output(source) == f"-1 {expected}\n"


def test_a_new_process_cannot_have_namespaces_of_its_own() -> None:
    number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    clone3 = 435
    source = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"for number, flags in (({number}, 0x10000011), ({number}, 0x20000011), ({number}, 0x40000011), ({clone3}, 0)):\n"
        "    print(libc.syscall(number, flags, 0, 0, 0, 0), ctypes.get_errno())"
    )
    assert output(source).splitlines() == [f"-1 {errno.EPERM}"] * 3 + [f"-1 {errno.ENOSYS}"]


def test_an_unknown_machine_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="riscv64"):
        filter_program("riscv64")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_jump_of_the_filter_lands_inside_it(machine: str) -> None:
    program = filter_program(machine)
    assert len(program) % 8 == 0
    instructions = [program[start : start + 8] for start in range(0, len(program), 8)]
    for index, instruction in enumerate(instructions):
        is_jump = instruction[0] & 0x07 == 0x05
        if is_jump:
            assert index + 1 + max(instruction[2], instruction[3]) < len(instructions)
    assert instructions[-1][0] == 0x06  # the last one returns


def test_a_program_that_sleeps_is_killed_at_the_deadline() -> None:
    result = run("import time\nprint('begun', flush=True)\ntime.sleep(1000)", limits=Limits(wall_seconds=0.5))
    assert result.is_overtime and result.exit_code is None and result.stdout == b"begun\n"


def test_a_program_that_floods_standard_error_is_killed_at_the_deadline() -> None:
    source = "import sys\nwhile True:\n    sys.stderr.write('x' * 1000)"
    result = run(source, limits=Limits(wall_seconds=0.5))
    assert result.is_overtime and len(result.stderr) == 2**14


def test_a_program_that_computes_for_ever_is_killed_by_its_processor_limit() -> None:
    result = run("while True:\n    pass", limits=Limits(cpu_seconds=1))
    assert result.exit_code == 128 + 9 and not result.is_overtime


def test_output_is_cut_at_the_cap() -> None:
    result = run("while True:\n    print('x' * 1000)", limits=Limits(output_bytes=5000))
    assert result.is_output_cut and len(result.stdout) == 5000 and result.exit_code is None


def test_output_of_exactly_the_cap_is_whole() -> None:
    result = run("import os\nos.write(1, bytes(5000))", limits=Limits(output_bytes=5000))
    assert not result.is_output_cut and len(result.stdout) == 5000


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("bytearray(2**29)", "MemoryError"),
        ("open('f', 'wb').write(bytes(2**21))", "File too large"),
        ("for n in range(9): open(f'{n}', 'wb').write(bytes(2**19))", "No space left"),
        ("files = [open('/dev/null') for _ in range(99)]", "Too many open files"),
        ("import os\nfor _ in range(9): os.fork() or os.read(0, 1)", "Resource temporarily unavailable"),
    ],
    ids=["memory", "file size", "disk", "open files", "processes"],
)
def test_every_limit_holds(source: str, error: str) -> None:
    limits = Limits(
        address_space_bytes=2**28,
        file_bytes=2**20,
        disk_bytes=2**21,
        num_open_files=32,
        num_processes=4,
        wall_seconds=5,
    )
    assert error in run(source, limits=limits).stderr.decode()


def test_all_processes_of_a_sandbox_together_have_at_most_4_gib_by_default() -> None:
    limits = Limits()
    assert limits.num_processes * limits.address_space_bytes <= 2**32
    source = "import os\nfor _ in range(9): os.fork() or os.read(0, 1)"
    assert "Resource temporarily unavailable" in run(source).stderr.decode()


def test_the_process_limit_counts_each_sandbox_alone() -> None:
    source = (
        "import os, time\nfor _ in range(3): os.fork() or (time.sleep(1), os._exit(0))\nprint('forked', flush=True)"
    )
    running = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"from effopd.rewards.sandbox import *\nprint(run({source!r}, limits=Limits(num_processes=4)))",
            ],
            stdout=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    assert all(b"forked" in process.communicate()[0] for process in running)


def test_background_processes_end_with_the_first_one() -> None:
    marker = str(1000 + os.getpid() / 2**22)
    source = f"import os\nif os.fork() == 0:\n    os.setsid()\n    os.execv('/usr/bin/sleep', ['sleep', '{marker}'])\n"
    assert run(source + "import time\ntime.sleep(0.1)\nprint(1)").stdout == b"1\n"
    assert run(source + "import time\ntime.sleep(9)", limits=Limits(wall_seconds=0.3)).is_overtime
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [command for command in commands if marker.encode() in command]


def test_no_descriptors_and_no_children_are_left_behind() -> None:
    run("pass")
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    before = sorted(os.listdir("/proc/self/fd")), children.read_text()
    for source in ("pass", "1 / 0", "import time\ntime.sleep(9)", "while True: print('x' * 1000)"):
        run(source, limits=Limits(wall_seconds=0.2))
    assert (sorted(os.listdir("/proc/self/fd")), children.read_text()) == before


def test_sets_have_the_same_order_in_every_run() -> None:
    source = "print({str(n) for n in range(100)})"
    assert output(source) == output(source)


def test_bytecode_of_the_sandboxs_python_runs_and_can_be_imported() -> None:
    modules = {"a.b": compile_inside("X = 6"), "a.c": compile_inside("from a.b import X\nY = X * 7")}
    assert run(compile_inside("from a.c import Y\nprint(Y)"), modules=modules).stdout == b"42\n"


def test_a_machine_that_can_run_programs_passes_the_check() -> None:
    require_sandbox()


@pytest.fixture
def folder_for_all() -> Iterator[Path]:
    """A folder that the unprivileged user can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def error_with_path(path: str) -> str:
    """Return what a fresh interpreter says when it looks for bubblewrap on that PATH."""
    code = "from effopd.rewards.sandbox import require_sandbox\nrequire_sandbox()"
    process = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    return process.stderr.strip().splitlines()[-1]


def test_missing_bubblewrap_is_one_error_with_the_install_line(folder_for_all: Path) -> None:
    message = error_with_path(str(folder_for_all))
    assert message.startswith("effopd.errors.ConfigError: ") and "apt-get install bubblewrap" in message


def test_bubblewrap_that_cannot_make_namespaces_is_one_error_that_says_what_it_needs(folder_for_all: Path) -> None:
    fake = folder_for_all / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    message = error_with_path(f"{folder_for_all}:{os.environ['PATH']}")
    assert message.startswith("effopd.errors.ConfigError: ")
    assert "No permissions to create new namespace" in message and "user namespaces" in message

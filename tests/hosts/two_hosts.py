"""Two machines made of one: network, process and mount namespaces of their own, joined by a virtual cable, a Ray node in each.

A machine sees the other one over the network alone: it has its own processes and its own shared memory. The disk is
common, as a shared file system would be. Needs root, `ip`, `unshare` and `nsenter`.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ADDRESSES = ("198.18.0.1", "198.18.0.2")  # reserved for tests of networks
PORT = 6379
TOOLS = ("ip", "unshare", "nsenter")
UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")

START = """
set -e
mount -t tmpfs -o size=1g tmpfs /dev/shm
mkdir -p {folder}
mount -t tmpfs tmpfs {folder}
exec {python} -m ray.scripts.scripts start {what} --node-ip-address={address} --temp-dir={folder} --num-cpus=2 \
    --num-gpus=1 --object-store-memory=200000000 --disable-usage-stats --block
"""


def why_not() -> str | None:
    """Return why no namespaces can be made here; None when they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"{', '.join(absent)} not installed"
    tried = subprocess.run(
        [*UNSHARE, "--net", "sh", "-c", "ip link add effopd0 type veth && mount -t tmpfs tmpfs /dev/shm"],
        capture_output=True,
        text=True,
    )
    return None if tried.returncode == 0 else f"namespaces cannot be made here: {tried.stderr.strip()}"


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One of the two."""

    address: str
    namespace: str
    cable: str
    """Its end of it."""
    init: int
    """Process 1 of the machine, by the number that it has outside."""
    environment: Mapping[str, str]

    def start(self, *command: str, **options: object) -> subprocess.Popen[str]:
        """Start a process on this machine. It ends with the machine, at the latest."""
        return subprocess.Popen([*self._enter(), *command], text=True, env=self.environment, **options)  # pyright: ignore

    def output(self, *command: str) -> str:
        """Run a command on this machine and return what it prints."""
        done = subprocess.run([*self._enter(), *command], capture_output=True, text=True, env=self.environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _enter(self) -> list[str]:
        return ["nsenter", f"--target={self.init}", "--net", "--mount", "--pid", "--"]

    def kill(self) -> None:
        """Kill all processes of this machine at once, as when its power fails."""
        os.kill(self.init, signal.SIGKILL)

    def pull_cable(self) -> None:
        run("ip", "-n", self.namespace, "link", "set", self.cable, "down")

    def plug_cable(self) -> None:
        run("ip", "-n", self.namespace, "link", "set", self.cable, "up")


@contextmanager
def two_hosts(folder: Path, environment: Mapping[str, str]) -> Iterator[tuple[Host, Host]]:
    """Yield two machines, the first with the head of a Ray cluster of both; `folder` is on the disk that they share."""
    tag = f"{os.getpid() % 100_000}"
    names, cables = (f"effopd-a{tag}", f"effopd-b{tag}"), (f"efa{tag}", f"efb{tag}")
    with ExitStack() as stack:
        for name in names:
            run("ip", "netns", "add", name)
            stack.callback(run, "ip", "netns", "del", name)
        run(
            "ip",
            "link",
            "add",
            cables[0],
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "name",
            cables[1],
            "netns",
            names[1],
        )
        hosts = []
        for index, (name, cable, address) in enumerate(zip(names, cables, ADDRESSES, strict=True)):
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", cable)
            run("ip", "-n", name, "link", "set", cable, "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
            what = (
                f"--head --port={PORT} --include-dashboard=false" if index == 0 else f"--address={ADDRESSES[0]}:{PORT}"
            )
            # A short path: sockets lie below it.
            script = START.format(what=what, address=address, folder=f"/tmp/{name}", python=sys.executable)
            log = stack.enter_context((folder / f"ray-{index}.log").open("w"))
            machine = subprocess.Popen(
                ["ip", "netns", "exec", name, *UNSHARE, "sh", "-c", script],
                stdout=log,
                stderr=log,
                env=environment,
            )
            stack.callback(shutil.rmtree, f"/tmp/{name}", ignore_errors=True)
            stack.callback(machine.wait)
            stack.callback(machine.kill)
            init = _child_of(machine.pid)
            hosts.append(Host(address=address, namespace=name, cable=cable, init=init, environment=environment))
        _wait_for_ray(folder / "ray-1.log")
        yield hosts[0], hosts[1]


def _wait_for_ray(log: Path) -> None:
    """Return when the node whose output `log` is has joined the cluster."""
    for _ in range(1800):
        if "Ray runtime started" in log.read_text():
            return
        time.sleep(0.1)
    raise TimeoutError(f"Ray did not start in 3 minutes:\n{log.read_text()}")


def _child_of(process: int) -> int:
    """Return the first child of a process, once it has one."""
    children = Path(f"/proc/{process}/task/{process}/children")
    for _ in range(100):
        if found := children.read_text().split():
            return int(found[0])
        time.sleep(0.1)
    raise TimeoutError(f"process {process} has started nothing in 10 s")

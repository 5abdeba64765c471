"""Where learner ranks meet: in a file when one machine has them all, else at a port of the first rank's own address.

A rank without others meets itself in memory: its process group may outlive a run, and a file that is gone would make
every group that the process asks for later, vLLM's among them, wait for half an hour.
"""

import fcntl
import os
import socket
import struct
from urllib.parse import parse_qs, urlparse

import torch.distributed as dist

ALONE = "memory://"
"""The meeting place of a single rank."""

_SIOCGIFADDR = 0x8915  # Linux: ask an interface for its IPv4 address


def meet_at_port(address: str) -> str:
    """Return a meeting place at a free port of `address`, an IPv4 address of this machine, for `join_process_group`.

    The port listens on that address alone. Rank 0 must join in the process that called this, which holds the socket.
    """
    listener = socket.create_server((address, 0))
    port = listener.getsockname()[1]
    return f"tcp://{address}:{port}?fd={listener.detach()}"


def join_process_group(backend: str, meeting_place: str, rank: int, world_size: int) -> None:
    """Make the default process group with the other ranks; `meeting_place` is `ALONE`, a `file://` or from `meet_at_port`."""
    if meeting_place == ALONE:
        store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]  (public, says its documentation)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
        return
    place = urlparse(meeting_place)
    if place.scheme == "file":
        dist.init_process_group(backend, init_method=meeting_place, rank=rank, world_size=world_size)
        return
    assert place.hostname is not None and place.port is not None, f"{meeting_place} names no host and port"
    # Left alone, gloo resolves the host's name, which on many machines is a loopback address.
    interface = interface_of(_own_address(place.hostname, place.port))
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = interface
    # torch's own `tcp://` would listen on every address of the machine.
    listener = int(parse_qs(place.query)["fd"][0]) if rank == 0 else None
    store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]  (public, says its documentation)
        place.hostname, place.port, world_size, is_master=rank == 0, master_listen_fd=listener
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)


def interface_of(address: str) -> str:
    """Return the network interface that has an IPv4 address, such as `eth0`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # an interface without an IPv4 address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    raise AssertionError(f"no interface of this machine has the address {address}")


def _own_address(host: str, port: int) -> str:
    """Return the address by which this machine reaches `host`; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        return probe.getsockname()[0]

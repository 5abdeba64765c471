"""Ranks that meet at a port: they form a group, and the port is open on the given address alone."""

import multiprocessing
import socket
from multiprocessing.connection import Connection

import pytest
import torch
import torch.distributed as dist

from effopd.engines.rendezvous import interface_of, join_process_group, meet_at_port


def add_up(rank: int, place: str, answer: Connection) -> None:
    """Join as one rank of two and send the sum of rank + 1 over both; rank 0 first sends where to meet."""
    if rank == 0:
        place = meet_at_port("127.0.0.1")
        answer.send(place)
    join_process_group("gloo", place, rank, 2)
    total = torch.tensor([rank + 1.0])
    dist.all_reduce(total)
    answer.send(total.item())


def test_two_ranks_meet_at_a_port_and_add_up():
    context = multiprocessing.get_context("spawn")  # a fork would have half of the threads that this process has by now
    (receive_0, send_0), (receive_1, send_1) = context.Pipe(False), context.Pipe(False)
    first = context.Process(target=add_up, args=(0, "", send_0))
    first.start()
    send_0.close()  # so that a rank that dies is the end of its pipe
    second = context.Process(target=add_up, args=(1, receive_0.recv(), send_1))
    second.start()
    send_1.close()
    assert (receive_0.recv(), receive_1.recv()) == (3.0, 3.0)  # 1 of rank 0 + 2 of rank 1
    first.join()
    second.join()


def test_the_port_is_open_on_the_given_address_alone():
    port = int(meet_at_port("127.0.0.1").split("?")[0].rsplit(":", 1)[1])
    socket.create_connection(("127.0.0.1", port)).close()
    # All of 127/8 is this machine, so a port that listens everywhere would answer here too.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port))


def test_the_interface_of_the_loopback_address_is_found():
    assert interface_of("127.0.0.1") == "lo"
    with pytest.raises(AssertionError, match=r"192\.0\.2\.1"):
        interface_of("192.0.2.1")  # reserved for documentation

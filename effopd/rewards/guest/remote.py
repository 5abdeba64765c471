"""The judged program as the tests see it: functions that answer with plain values, and objects nobody trusts."""

import os

from effopd.rewards.guest.frames import receive_within, send
from effopd.rewards.guest.values import decode, encode


class Failed(Exception):
    """The judged program raised, died or broke the protocol."""


class Remote:
    """The process that runs the judged program, reached over two pipes; every reply must come within `seconds`."""

    def __init__(self, requests, replies, seconds):
        self._requests, self._replies, self._seconds = requests, replies, seconds

    def expect_loaded(self):
        self._receive(Opaque)

    def function(self, name):
        """Return a function that calls the program's; lists and the like that the program changes are changed here."""
        return lambda *arguments, **named: self.call(name, arguments, named, Opaque)

    def type(self, name):
        """Return what makes objects of the program's class `name`: only these have attributes and methods here."""
        return lambda *arguments, **named: self.call(name, arguments, named, RemoteObject)

    def call(self, target, arguments, named, kind):
        result, changed = self._request(kind, "call", target, list(arguments), named)
        for ours, theirs in zip(arguments, changed or ()):  # noqa: B905
            _update(ours, theirs)
        return result

    def get(self, reference, name):
        return self._request(RemoteObject, "get", reference, name)[0]

    def set(self, reference, name, value):
        self._request(RemoteObject, "set", reference, name, value)

    def items(self, reference):
        return self._request(Opaque, "list", reference)[0]

    def run(self, stdin):
        """Return whether the program ended well on this standard input, and what it printed."""
        send(self._requests, stdin.encode())
        reply = receive_within(self._replies, self._seconds)
        return reply[:1] == b"1", reply[1:].decode("utf-8", "replace")

    def _request(self, kind, *request):
        send(self._requests, encode(request, _number))
        return self._receive(kind)

    def _receive(self, kind):
        is_ok, result, changed = decode(receive_within(self._replies, self._seconds), lambda number: kind(self, number))
        if is_ok is not True:
            raise Failed(result)
        return result, changed


class Opaque:
    """An object of the judged program that is not plain. It equals nothing but itself; it can be iterated over.

    Comparing, converting or calling a method would be asking the program for the verdict.
    """

    _remote: Remote

    def __init__(self, remote, number):
        vars(self).update(_remote=remote, _number=number)

    def __iter__(self):
        return iter(self._remote.items(self))


class RemoteObject(Opaque):
    """An object of a class that the tests make objects of: its attributes and methods can be used, nothing else."""

    def __getattr__(self, name):
        return self._remote.get(self, name)

    def __setattr__(self, name, value):
        self._remote.set(self, name, value)

    def __call__(self, *arguments, **named):
        return self._remote.call(self, arguments, named, RemoteObject)

    def __len__(self):
        return self.__getattr__("__len__")()


def _number(value):
    if not isinstance(value, Opaque):
        raise TypeError(f"tests can hand over plain values only, not {type(value).__name__}")
    return vars(value)["_number"]


def _update(ours, theirs):
    if type(ours) is not type(theirs):
        return
    if isinstance(ours, (list, bytearray)):
        ours[:] = theirs
    elif isinstance(ours, (dict, set)):
        ours.clear()
        ours.update(theirs)


def fork_with_pipes(serve, seconds):
    """Return the Remote of a new process that runs `serve(requests, replies)`, cut off from this one's input and output."""
    request_end, requests = os.pipe()
    replies, reply_end = os.pipe()
    if os.fork() == 0:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        low, high = sorted((request_end, reply_end))
        for first, last in ((3, low), (low + 1, high), (high + 1, 1024)):
            os.closerange(first, last)
        serve(request_end, reply_end)
        return None
    os.close(request_end)
    os.close(reply_end)
    return Remote(requests, replies, seconds)

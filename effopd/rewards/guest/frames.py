"""Messages over pipes: eight bytes of length, then as many bytes."""

import os
import select
import time

MAX_MESSAGE_BYTES = 2**24


class Closed(Exception):
    """The other side is gone, or says more than it may."""


def send(descriptor, data):
    view = memoryview(len(data).to_bytes(8, "little") + data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        raise Closed("the pipe is closed") from error


def receive(descriptor, max_bytes=MAX_MESSAGE_BYTES):
    size = int.from_bytes(_read(descriptor, 8), "little")
    if size > max_bytes:
        raise Closed(f"a message of {size} bytes")
    return _read(descriptor, size)


def receive_within(descriptor, seconds):
    """Return a message that is whole within `seconds`. Raises Closed like `receive`, and TimeoutError."""
    deadline = time.monotonic() + seconds
    size = int.from_bytes(_read(descriptor, 8, deadline), "little")
    if size > MAX_MESSAGE_BYTES:
        raise Closed(f"a message of {size} bytes")
    return _read(descriptor, size, deadline)


def _read(descriptor, size, deadline=None):
    parts, left = [], size
    while left:
        if deadline is not None and not select.select([descriptor], (), (), max(0, deadline - time.monotonic()))[0]:
            raise TimeoutError("out of time in one test")
        part = os.read(descriptor, min(left, 2**20))
        if not part:
            raise Closed("the pipe is closed")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)

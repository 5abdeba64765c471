"""The first thing that runs inside the sandbox: set the limits, say so with one byte, run the program.

Its own text goes on the command line; everything else comes through standard input, whose rest is the program's.
"""

import _signal  # signal itself takes enum along  # pyright: ignore[reportMissingImports]
import marshal
import os
import resource
import sys

# Process 1 gets those signals only for which it has a handler, and Python's own for SIGINT would let the untrusted program
# raise KeyboardInterrupt in the middle of a test.
_signal.signal(_signal.SIGINT, _signal.SIG_IGN)


def _receive(size):
    data = b""
    while len(data) < size:
        data += os.read(0, size - len(data)) or sys.exit("nothing to run")
    return data


def _start():
    size = int.from_bytes(_receive(8), "little")
    limits, modules, program = marshal.loads(_receive(size))
    sys.path[:] = [folder for folder in sys.path if folder]  # the working folder is the untrusted program's
    os.environ.clear()
    # Set here, inside the user namespace, the process limit counts this sandbox alone.
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))
    os.write(1, b"\0")
    for name, code in modules.items():
        module = sys.modules[name] = type(sys)(name)
        exec(marshal.loads(code), module.__dict__)
    exec(marshal.loads(program) if isinstance(program, bytes) else program, {"__name__": "__main__"})


_start()

"""The untrusted process: runs what the model wrote and answers the judge's requests.

It is forked before the judge knows a single test, so whatever the program digs up here, it finds no test and no nonce.
Nothing it answers is believed to be more than a value.
"""

import os
import sys

from effopd.rewards.guest.frames import Closed, receive, send
from effopd.rewards.guest.values import decode, encode

MUTABLE = (list, dict, set, bytearray)


def serve_functions(program, prompt, requests, replies):
    """Run the program once, then answer requests to its functions and objects until the judge is gone."""
    objects = []

    def to_reference(value):
        objects.append(value)
        return len(objects) - 1

    def answer(action, *arguments):
        try:
            return encode((True, *action(*arguments)), to_reference)
        except BaseException as error:  # a program may raise SystemExit, or what it pleases
            return encode((False, f"{type(error).__name__}: {error}"[:500], None), to_reference)

    namespace = {}
    send(replies, answer(lambda: (namespace.update(_load(program, prompt)), None)))
    while True:
        request = decode(receive(requests), objects.__getitem__)
        send(replies, answer(_perform, namespace, *request))


def serve_programs(program, requests, replies):
    """Run the program once per request, the request as its standard input, each time in a process of its own.

    Returns in those processes only: the program has then ended, and the interpreter is left to exit as usual.
    """
    while True:
        try:
            stdin = receive(requests)
        except Closed:
            os._exit(0)
        source, sink = _anonymous_file(stdin), _anonymous_file(b"")
        process = os.fork()
        if process == 0:
            os.dup2(source, 0)
            os.dup2(sink, 1)
            os.closerange(3, 1024)
            _run_as_main(program)
            return
        _, status = os.waitpid(process, 0)
        send(replies, (b"1" if status == 0 else b"0") + os.pread(sink, os.fstat(sink).st_size, 0))
        os.close(source)
        os.close(sink)


def _load(program, prompt):
    """Return the namespace after prompt and program, or after the two as one text where the program is a function's body."""
    try:
        texts = [compile(prompt, "<prompt>", "exec"), compile(program, "<program>", "exec")]
    except SyntaxError:  # a body alone is indented
        texts = [compile(f"{prompt.rstrip()}\n{program}", "<program>", "exec")]
    namespace = _module("solution")
    for text in texts:
        exec(text, namespace)
    return namespace


def _perform(namespace, operation, target, *rest):
    """Return (result, mutable arguments as they are now or None)."""
    if operation == "get":
        return getattr(target, *rest), None
    if operation == "set":
        return setattr(target, *rest), None
    if operation == "list":
        return list(target), None
    arguments, named = rest
    function = _find(namespace, target) if isinstance(target, str) else target
    if not any(isinstance(argument, MUTABLE) for argument in arguments):
        return function(*arguments, **named), None
    before = encode(arguments, id)
    result = function(*arguments, **named)
    return result, arguments if encode(arguments, id) != before else None


def _find(namespace, name):
    """Return the function of that name: a method of class Solution, as LeetCode has it, or a plain one."""
    if hasattr(namespace.get("Solution"), name):
        return getattr(namespace["Solution"](), name)
    return namespace[name]


def _run_as_main(program):
    # The streams made at the start remember that the descriptors were something else.
    sys.stdin = sys.__stdin__ = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    exec(compile(program, "<program>", "exec"), _module("__main__"))


def _module(name):
    """Return the dictionary of a new module of that name; dataclasses and others look a class's module up by name."""
    module = sys.modules[name] = type(sys)(name)
    return module.__dict__


def _anonymous_file(content):
    """Return the descriptor of a file without a name, at its start: unlike a pipe, it never blocks a writer."""
    descriptor = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor

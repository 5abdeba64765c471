"""What all commands do with their arguments, and how mistakes in them are told."""

import argparse
import os
import re
import sys
from typing import NoReturn

from effopd.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """Reports a wrong argument as every other mistake is reported, not with a usage text."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; {self.prog} --help shows the arguments")


def expand_home(argument: str) -> str:
    """`key=~/x` with the home folder, which most shells leave to the program and Hydra's grammar refuses."""
    key, equals, value = argument.partition("=")
    return f"{key}={os.path.expanduser(value)}" if equals and re.match(r"~(/|$)", value) else argument


def report(message: str) -> None:
    for line in message.splitlines():
        sys.stderr.write(f"effopd: {line}\n")

"""Workers that train nothing. Imported by the processes that a test starts."""

import os
import signal
from contextlib import suppress
from multiprocessing.connection import Connection

from effopd.study.orders import Outcome


def obedient(orders: Connection) -> None:
    with suppress(EOFError):
        while True:
            order = orders.recv()
            orders.send(Outcome(number=order.number, score=0.5, seconds=1.0))


def dies_of_cell_one(orders: Connection) -> None:
    """The first time, by cell 1; cell 2 kills every worker."""
    with suppress(EOFError):
        while True:
            order = orders.recv()
            mark = order.folder / "tried"
            if order.number == 2 or (order.number == 1 and not mark.exists()):
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            orders.send(Outcome(number=order.number, score=0.5, seconds=1.0))

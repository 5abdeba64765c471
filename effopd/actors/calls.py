"""Waiting for actors, with errors that name the role and what it was doing, and keep their own type."""

import errno
import time

import ray
from ray.exceptions import (
    ActorPlacementGroupRemoved,
    ActorUnschedulableError,
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from effopd.actors.diagnosis import account_of_death
from effopd.actors.stacks import show_life
from effopd.actors.watchdog import actor_of, watchdog
from effopd.errors import ActorLostError, EffOPDError

LOSSES = (
    RayActorError,
    ActorUnschedulableError,
    ActorPlacementGroupRemoved,
    ObjectLostError,
    NodeDiedError,
    OutOfMemoryError,
    WorkerCrashedError,
)
"""What Ray raises when a process is gone, or what it had made is."""

SECONDS_TO_TELL = 10.0
"""How long the other calls may take to say what happened once one of them has failed."""

_BROKEN_CONNECTION = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
"""How gloo and NCCL say that another rank is gone."""


def wait_for(references: list, role: str, doing: str) -> list:
    """Return the results of `references`: calls to actors that wait for one another or hold what nobody else has.

    An error of ours raised inside an actor comes out as itself, any other as an EffOPDError that names the role and
    carries the remote traceback. When actors talk to each other the first error may be that of a survivor, so the others
    are asked, too, before one is blamed.

    Raises:
        ActorLostError: when an actor died, or does not answer within `cluster.hang_seconds`.

    """
    try:
        return _answers(references, doing)
    except RayError as first:
        error = _most_telling(references, first)
        raise told(error, role, doing) from error


def _answers(references: list, doing: str) -> list:
    """Return what `ray.get` returns, or raises, unless an actor hangs."""
    asked = time.monotonic()
    show_life()
    patience = watchdog().hang_seconds or None
    while True:
        try:
            return ray.get(references, timeout=patience)
        except GetTimeoutError:
            patience = _patience_left(references, time.monotonic() - asked, doing)


def _patience_left(references: list, silent_seconds: float, doing: str) -> float:
    """Return how long to wait on for those of `references` that are not there. Raises ActorLostError when an actor hangs."""
    _, silent = ray.wait(references, num_returns=len(references), timeout=0)
    left = {actor_of(one): watchdog().seconds_left(actor_of(one), silent_seconds) for one in silent}
    hung = [actor_id for actor_id, seconds in left.items() if seconds <= 0]
    if hung:
        raise ActorLostError(watchdog().tell(dict.fromkeys(hung, silent_seconds), doing))
    return min(left.values(), default=0.0)


def told(error: RayError, role: str, doing: str) -> EffOPDError:
    """Return what to raise for an error that came out of a call."""
    if isinstance(error, LOSSES):
        return ActorLostError(f"{role} died while {doing}: {account_of_death(error)}")
    if isinstance(error, RayTaskError):
        if isinstance(error.cause, EffOPDError):
            return error.cause
        if isinstance(error.cause, LOSSES):  # of what it was given
            return ActorLostError(f"{role} could not go on {doing}: {account_of_death(error.cause)}")
        if isinstance(error.cause, OSError) and error.cause.errno == errno.ENOSPC:
            return EffOPDError(f"{role} could not go on {doing}: the disk is full ({error.cause}); free some of it")
        if any(text in str(error.cause) for text in _BROKEN_CONNECTION):
            return ActorLostError(f"{role} lost its connection to the others while {doing}: {error.cause}")
    return EffOPDError(f"{role} failed while {doing}:\n{error}")


def _most_telling(references: list, first: RayError) -> RayError:
    """Return the error of a death if there is one, else one of ours, else the first that came."""
    errors: list[RayError] = [first]
    pending = list(references)
    deadline = time.monotonic() + (SECONDS_TO_TELL if len(references) > 1 else 0.0)
    while pending and not isinstance(errors[-1], LOSSES):
        done, pending = ray.wait(pending, timeout=max(0.0, deadline - time.monotonic()))
        if not done:
            break
        try:
            ray.get(done)
        except RayError as error:
            errors.append(error)
    ours = [error for error in errors if isinstance(error, RayTaskError) and isinstance(error.cause, EffOPDError)]
    deaths = [error for error in errors if isinstance(error, LOSSES)]
    return [*deaths, *ours, first][0]

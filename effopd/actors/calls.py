"""Waiting for actors, with errors that name the role and keep their own type."""

import ray
from ray.exceptions import RayActorError, RayTaskError

from effopd.errors import EffOPDError


def wait_for(references: list, role: str) -> list:
    """Return the results of `references`.

    An error of ours raised inside an actor comes out as itself. Anything else becomes an EffOPDError that names the role
    and carries the remote traceback.
    """
    try:
        return ray.get(references)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, EffOPDError):
            raise cause from None
        raise EffOPDError(f"{role} failed:\n{error}") from error
    except RayActorError as error:
        raise EffOPDError(
            f"{role} died: {error}; if it gives no cause, the usual one is memory: see the log of its process in Ray's session folder"
        ) from error

"""Actors that may be replaced: what they hold can be given to them again.

Ray starts a dead one again with the same constructor, in the same place if that is still there, as often as
`cluster.max_restarts` says, behind the same handle. So nobody has to be told of a replacement, neither the driver nor the
controller. What Ray cannot do happens here: the new process is made ready, brought to the weights in force, and asked again
what the old one left unanswered. Requests carry their seeds, so the answers are those that the old one would have given.
Ray may hand a call to the new process by itself; one that is not ready for it raises NotReadyError, which is answered here
like the death that it comes from.

An exception that a request raises in a living actor is no death: asked again it would be raised again.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError

from effopd.actors.calls import told
from effopd.actors.diagnosis import account_of_death
from effopd.errors import ActorLostError, EffOPDError, NotReadyError

LOOK_SECONDS = 5.0
"""How long an answer is waited for before one looks whether the member's machine is still there."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Member:
    """A replaceable actor under the name that its role and number give it, e.g. `sampler 0`."""

    name: str
    actor: ActorHandle
    node_id: str | None = None
    """Its machine, by Ray's name for it, where it is started again; None: any."""


@dataclass(frozen=True, slots=True)
class Request:
    """Something asked of a member."""

    member: Member
    ask: Callable[[ActorHandle], list[ObjectRef]]
    """Return the references of the answer. The first tells that all are there, or what became of them."""


def answers_to(
    requests: Sequence[Request], doing: str, restore: Callable[[Member], None]
) -> tuple[list, list[list[ObjectRef]]]:
    """Return, per request, the first part of its answer and the references of all parts.

    A member that dies is replaced, restored by `restore` and asked again, while the others go on.

    Raises:
        ActorLostError: when a member's machine is gone, so that it cannot be started again there.
        EffOPDError: when a member has died more often than `cluster.max_restarts` allows, or a request cannot be met.

    """
    answers = [request.ask(request.member.actor) for request in requests]
    firsts: list = [None] * len(requests)
    num_asked = [1] * len(requests)
    pending = {answer[0]: index for index, answer in enumerate(answers)}
    while pending:
        done = _next_answer(list(pending), [requests[index].member for index in pending.values()], doing)
        index = pending.pop(done)
        request = requests[index]
        try:
            firsts[index] = ray.get(done)
        except RayError as error:
            if not _is_replaceable(error):
                raise _final(error, request.member, doing, num_asked[index]) from error
            _bring_back(request.member, doing, restore)
            answers[index] = request.ask(request.member.actor)
            num_asked[index] += 1
            pending[answers[index][0]] = index
    return firsts, answers


def make_ready(member: Member) -> None:
    """Return when a member's engine stands. Enough for one that holds nothing else."""
    get_from(member, member.actor.ready.remote(), "starting")


def get_from(member: Member, reference: ObjectRef, doing: str) -> object:
    """Return a member's answer. Raises ActorLostError when its machine is gone, and otherwise what `ray.get` raises."""
    return ray.get(_next_answer([reference], [member], doing))


def _next_answer(pending: list[ObjectRef], members: list[Member], doing: str) -> ObjectRef:
    """Return the first reference that is there. Ray waits without end for an actor that it has no place for."""
    while True:
        done, _ = ray.wait(pending, timeout=LOOK_SECONDS)
        if done:
            return done[0]
        for member in members:
            _require_machine(member, doing)


def _require_machine(member: Member, doing: str) -> None:
    if member.node_id is not None and member.node_id not in {node["NodeID"] for node in ray.nodes() if node["Alive"]}:
        raise ActorLostError(f"{member.name} is lost with its machine, while {doing}")


def _bring_back(member: Member, doing: str, restore: Callable[[Member], None]) -> None:
    logger.warning("%s died while %s; another process takes its place", member.name, doing)
    while True:
        try:
            restore(member)
            return
        except RayError as error:
            if not _is_replaceable(error):
                raise _final(error, member, f"being replaced, after it died while {doing}", 1) from error


def _is_replaceable(error: RayError) -> bool:
    """Return whether Ray is starting the actor again, or has and nobody has made it ready yet."""
    if isinstance(error, RayTaskError):
        return isinstance(error.cause, NotReadyError)
    return isinstance(error, RayActorError) and not isinstance(error, ActorDiedError)


def _final(error: RayError, member: Member, doing: str, num_asked: int) -> EffOPDError:
    if not isinstance(error, ActorDiedError):
        return told(error, member.name, doing)
    _require_machine(member, doing)
    again = (
        f", and so did the {num_asked - 1} before it that were asked the same: what they were asked may be what kills them"
        if num_asked > 1
        else ""
    )
    return EffOPDError(
        f"{member.name} died while {doing}{again}; cluster.max_restarts allows no other: {account_of_death(error)}"
    )

"""Actors that may be replaced: what they hold can be given to them again.

Ray starts a dead one again with the same constructor, in the same place if that is still there, as often as
`cluster.max_restarts` says, behind the same handle. So nobody has to be told of a replacement, neither the driver nor the
controller. What Ray cannot do happens here: the new process is made ready, brought to the weights in force, and asked again
what the old one left unanswered. Requests carry their seeds, so the answers are those that the old one would have given.
Ray may hand a call to the new process by itself; one that is not ready for it raises NotReadyError, which is answered here
like the death that it comes from.

An exception that a request raises in a living actor is no death: asked again it would be raised again. One that does not
answer within `cluster.hang_seconds` is reported and killed, and then dead like any other.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError

from effopd.actors.calls import told
from effopd.actors.diagnosis import account_of_death
from effopd.actors.stacks import show_life
from effopd.actors.watchdog import actor_of, watchdog
from effopd.errors import ActorLostError, EffOPDError, NotReadyError

LOOK_SECONDS = 5.0
"""How long an answer is waited for before one looks whether the member's machine is still there."""

SECONDS_TO_RESTART = 60.0
"""How long Ray may take to start a process anew, before its silence counts."""

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


@dataclass(frozen=True, slots=True)
class Asked:
    """A request on its way."""

    request: Request
    references: list[ObjectRef]
    """Of the answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered with."""

    number: int
    """Of the request among those that were waited for."""
    first: Any
    """The first part."""
    references: list[ObjectRef]
    """Of all parts."""


def ask(requests: Sequence[Request]) -> list[Asked]:
    """Send requests, and do not wait. A death is noticed, and made up for, when somebody waits for the answers."""
    return [Asked(request, request.ask(request.member.actor)) for request in requests]


def answers_to(
    requests: Sequence[Request], doing: str, restore: Callable[[Member], None]
) -> tuple[list, list[list[ObjectRef]]]:
    """Return, per request, the first part of its answer and the references of all parts; see `answers_as_they_come`."""
    return all_answers(ask(requests), doing, restore)


def all_answers(
    asked: Sequence[Asked], doing: str, restore: Callable[[Member], None]
) -> tuple[list, list[list[ObjectRef]]]:
    """Do the same for requests that were sent before."""
    answers = sorted(answers_as_they_come(asked, doing, restore), key=lambda answer: answer.number)
    return [answer.first for answer in answers], [answer.references for answer in answers]


def answers_as_they_come(asked: Sequence[Asked], doing: str, restore: Callable[[Member], None]) -> Iterator[Answer]:
    """Yield the answer to every request once, when it is there.

    A member that dies is replaced, restored by `restore` and asked again what it has not answered, while the others go on.

    Raises:
        ActorLostError: when a member's machine is gone, so that it cannot be started again there.
        EffOPDError: when a member has died more often than `cluster.max_restarts` allows, or a request cannot be met.

    """
    requests = [one.request for one in asked]
    references = [one.references for one in asked]
    num_asked = [1] * len(requests)
    pending = {own[0]: index for index, own in enumerate(references)}
    num_deaths = dict.fromkeys((request.member.name for request in requests), 0)
    deaths_when_asked = [0] * len(requests)
    heard = dict.fromkeys(num_deaths, time.monotonic())
    while pending:
        members = [requests[index].member for index in pending.values()]
        for done in _next_answers(list(pending), members, doing, heard):
            index = pending.pop(done)
            request = requests[index]
            name = request.member.name
            heard[name] = time.monotonic()
            try:
                first = ray.get(done)
            except RayError as error:
                if not _is_replaceable(error):
                    raise _final(error, request.member, doing, num_asked[index]) from error
                # One death may leave many requests unanswered.
                if deaths_when_asked[index] == num_deaths[name]:
                    _bring_back(request.member, doing, restore)
                    num_deaths[name] += 1
                references[index] = request.ask(request.member.actor)
                num_asked[index] += 1
                deaths_when_asked[index] = num_deaths[name]
                pending[references[index][0]] = index
                heard[name] = time.monotonic()
                continue
            yield Answer(index, first, references[index])


def make_ready(member: Member) -> None:
    """Return when a member's engine stands. Enough for one that holds nothing else."""
    get_from(member, member.actor.ready.remote(), "starting")


def get_from(member: Member, reference: ObjectRef, doing: str) -> object:
    """Return a member's answer. Raises ActorLostError when its machine is gone, and otherwise what `ray.get` raises."""
    _next_answers([reference], [member], doing, {member.name: time.monotonic()})
    return ray.get(reference)


def _next_answers(
    pending: list[ObjectRef], members: list[Member], doing: str, heard: dict[str, float]
) -> list[ObjectRef]:
    """Return the references that are there, at least one; kill members that hang.

    Ray waits without end for an actor that it has no place for. `heard` tells from when on the silence of each member counts, by
    its name and on the monotonic clock: since it was last asked or answered, or since another process can have taken its place.
    """
    show_life()
    between_looks = min(LOOK_SECONDS, watchdog().hang_seconds / 4 or LOOK_SECONDS)
    while True:
        done, _ = ray.wait(pending, timeout=between_looks)
        if done:
            # With a thousand answers pending, to wait for each by itself would take longer than to fetch them.
            return ray.wait(pending, num_returns=len(pending), timeout=0)[0]
        _require_machines(members, doing)
        _kill_hung({actor_of(one): member for one, member in zip(pending, members, strict=True)}, doing, heard)


def _kill_hung(members: Mapping[str, Member], doing: str, heard: dict[str, float]) -> None:
    """Report on those of `members`, by Ray's name for them, that have been silent for too long, and kill them."""
    silent = {actor_id: time.monotonic() - heard[member.name] for actor_id, member in members.items()}
    hung = {
        actor_id: seconds for actor_id, seconds in silent.items() if watchdog().seconds_left(actor_id, seconds) <= 0
    }
    if hung:
        watchdog().tell(hung, doing)
    for actor_id in hung:
        ray.kill(members[actor_id].actor, no_restart=False)
        heard[members[actor_id].name] = time.monotonic() + SECONDS_TO_RESTART


def _require_machines(members: Collection[Member], doing: str) -> None:
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    for member in members:
        if member.node_id is not None and member.node_id not in alive:
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
    _require_machines([member], doing)
    again = (
        f", and so did the {num_asked - 1} before it that were asked the same: what they were asked may be what kills them"
        if num_asked > 1
        else ""
    )
    return EffOPDError(
        f"{member.name} died while {doing}{again}; cluster.max_restarts allows no other: {account_of_death(error)}"
    )

"""Processes that do not answer: noticed, and told with what every process of the run is doing at that moment.

Every process that waits for actors has a watchdog, which is the driver and the controller. What follows is not decided
here: whoever waits kills the one that hangs and goes on as after any other death.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError

from effopd.actors.stacks import SECONDS_TO_WRITE, Sighting, look_at, seconds_since_sign

REPORT_NAME = "hangs.txt"
"""In the run folder."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """An actor of the run."""

    name: str
    address: str
    """Of its machine."""
    node: ActorHandle | None
    """The `NodeActor` of its machine; None for the machine of whoever watches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchdog:
    """How long this process waits for an actor, and whom it looks at when one hangs."""

    hang_seconds: float = 0.0
    """0: it waits for ever."""
    watched: Mapping[str, Watched] = field(default_factory=dict)
    """All actors of the run, by the name that Ray gives them."""
    report_path: Path | None = None

    def seconds_left(self, actor_id: str, silent_seconds: float) -> float:
        """Return how long one may wait on for an actor that has not answered for `silent_seconds`; not above 0 when it hangs."""
        if self.hang_seconds == 0:
            return math.inf
        sign = seconds_since_sign(actor_id)
        if sign is None or sign >= silent_seconds:
            return self.hang_seconds - silent_seconds
        # It waits for others itself, and is to be the first to notice when they hang.
        return 2 * self.hang_seconds - sign

    def tell(self, silent: Mapping[str, float], doing: str) -> str:
        """Report on all processes, to the log and to a file; return one line for each that is in `silent`.

        Args:
            silent: seconds without an answer of the actors that hang, by the name that Ray gives them.
            doing: what these were asked for.

        """
        assert silent.keys() <= self.watched.keys(), "a watchdog knows all actors of its run"
        sightings = self._sightings()
        sections, lines = [], []
        for actor_id, watched in self.watched.items():
            sighting = sightings.get(actor_id)
            where = f"{watched.name} (node {watched.address}, process {sighting.pid if sighting else 'unknown'})"
            phase = sighting.phase if sighting else "unknown"
            if actor_id in silent:
                phase = f"{doing} for {silent[actor_id]:.0f} s without an answer; {phase}"
                place = f", at {sighting.place}" if sighting and sighting.place else ""
                lines.append(f"{where} hangs: {phase}{place}")
            sections.append(f"{where}: {phase}\n{_stacks_of(sighting)}")
        told = "\n".join(lines)
        report = "\n".join([told, *sections])
        logger.warning("%s", report)
        if self.report_path is None:
            return told
        self.report_path.parent.mkdir(parents=True, exist_ok=True)
        with self.report_path.open("a") as file:
            file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')}\n{report}\n\n")
        return f"{told}; the stacks of all processes are in {self.report_path}"

    def _sightings(self) -> dict[str, Sighting]:
        sightings = look_at([actor_id for actor_id, watched in self.watched.items() if watched.node is None])
        nodes = {watched.node for watched in self.watched.values() if watched.node is not None}
        for node in nodes:
            there = [actor_id for actor_id, watched in self.watched.items() if watched.node == node]
            try:
                sightings |= ray.get(node.look_at.remote(there), timeout=2 * SECONDS_TO_WRITE)
            except RayError as error:  # it may be the one that hangs
                logger.warning("no stacks of %s: %s", self.watched[there[0]].address, error)
        return sightings


def actor_of(reference: ObjectRef) -> str:
    """Return Ray's name for the actor that `reference` is an answer of."""
    return reference.task_id().actor_id().hex()


def _stacks_of(sighting: Sighting | None) -> str:
    if sighting is None:
        return "  no such process is found\n"
    if not sighting.stacks:
        return f"  no stack within {SECONDS_TO_WRITE:.0f} s; it may have been stopped\n"
    return "".join(f"  {line}\n" for line in sighting.stacks.splitlines())


_watchdog = Watchdog()
# One per process, like the connection to Ray: every wait of the process is under it.


def keep_watch(watchdog: Watchdog) -> None:
    """Let `watchdog` be that of this process from now on."""
    global _watchdog
    _watchdog = watchdog


def watchdog() -> Watchdog:
    """Return the watchdog of this process; one that waits for ever before `keep_watch`."""
    return _watchdog

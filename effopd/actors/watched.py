"""Whom the watchdogs of a run look at."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ray.actor import ActorHandle

from effopd.actors.session import ActorSpec, RaySession
from effopd.actors.several_nodes import Machine
from effopd.actors.watchdog import REPORT_NAME, Watchdog, Watched, keep_watch


def watch(
    session: RaySession,
    specs: Sequence[ActorSpec],
    actors: Mapping[str, ActorHandle],
    machines: Mapping[str, Machine],
    run_dir: Path,
) -> None:
    """Let this process, the driver, watch the actors of `specs`, each of which has its machine. `machines` is empty where there
    is but one. The controller, which is on the driver's machine, can be given the same watchdog."""
    addresses = {node.node_id: node.address for node in session.nodes()}
    watched = {}
    for spec in specs:
        assert spec.node_id is not None, "RaySession.placed() comes first"
        is_elsewhere = spec.node_id != session.driver_node() and spec.node_id in machines
        watched[actors[spec.name]._actor_id.hex()] = Watched(
            name=spec.name,
            address=addresses[spec.node_id],
            node=machines[spec.node_id].actor if is_elsewhere else None,
        )
    seconds = session.cluster.hang_seconds
    keep_watch(Watchdog(hang_seconds=seconds, watched=watched, report_path=run_dir / REPORT_NAME))

"""What a run on several machines needs besides its roles: a process on each, ways for weights, and checks before it starts.

The run folder must be on a file system that the driver's machine and all machines with learner ranks share, because ranks
read checkpoints there when they resume. Model folders only have to be there, at the same path, wherever a role loads them.
"""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ray.actor import ActorHandle

from effopd.actors.calls import wait_for
from effopd.actors.node import NodeActor
from effopd.actors.placement import Node
from effopd.actors.session import ActorSpec
from effopd.actors.weight_routes import WeightRoutes
from effopd.errors import ConfigError

ROLE = "the process that looks after a machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One of several machines of a run."""

    address: str
    actor: ActorHandle
    """Its `NodeActor`."""


def node_specs(node_ids: Collection[str]) -> list[ActorSpec]:
    """Return a `NodeActor` for each machine, or none where there is but one."""
    ordered = sorted(set(node_ids))
    if len(ordered) == 1:
        return []
    return [ActorSpec(name=f"node {node_id}", actor_class=NodeActor, node_id=node_id) for node_id in ordered]


def machines_of(
    specs: Sequence[ActorSpec], actors: Mapping[str, ActorHandle], nodes: Sequence[Node]
) -> dict[str, Machine]:
    """Return the machines that `node_specs` made `specs` for, by Ray's name of the node."""
    addresses = {node.node_id: node.address for node in nodes}
    return {
        spec.node_id: Machine(address=addresses[spec.node_id], actor=actors[spec.name])
        for spec in specs
        if spec.node_id is not None
    }


def weight_routes(samplers: Sequence[ActorSpec], source: str, machines: Mapping[str, Machine]) -> WeightRoutes:
    """Return the way of weights from the machine `source` to every sampler."""
    return WeightRoutes(
        source=machines[source].actor if source in machines else None,
        receivers=tuple(
            None if spec.node_id is None or spec.node_id == source else machines[spec.node_id].actor
            for spec in samplers
        ),
    )


def require_authentication(machines: Collection[Machine]) -> None:
    """Raise ConfigError unless Ray asks for a token on every machine."""
    modes = wait_for([machine.actor.authentication.remote() for machine in machines], ROLE, "starting")
    unguarded = [machine.address for machine, mode in zip(machines, modes, strict=True) if mode == "disabled"]
    if unguarded:
        raise ConfigError(
            f"cluster.address: Ray on {', '.join(unguarded)} asks nobody for a token, so whoever reaches its ports can run code "
            "there; run `ray get-auth-token --generate`, copy ~/.ray/auth_token to all machines, and start Ray again with "
            "RAY_AUTH_MODE=token"
        )


def require_folders(wanted: Sequence[tuple[Machine, Path]]) -> None:
    """Raise ConfigError unless every machine has the model folder that it is to load."""
    found = wait_for(
        [machine.actor.has_folder.remote(folder) for machine, folder in wanted], ROLE, "looking for models"
    )
    missing = sorted(
        {
            f"{folder} on {machine.address}"
            for (machine, folder), is_there in zip(wanted, found, strict=True)
            if not is_there
        }
    )
    if missing:
        raise ConfigError(
            f"model.path or teacher.path: there is no {', no '.join(missing)}; models must be at the same path on all machines: "
            "copy them, or use a file system that the machines share"
        )


def require_shared_folder(run_dir: Path, machines: Sequence[Machine]) -> None:
    """Raise ConfigError unless what each machine writes into `run_dir` is there for this process to read."""
    token = secrets.token_hex(8)
    probes = [run_dir / f".probe-{token}-{index}" for index in range(len(machines))]
    wait_for(
        [machine.actor.write_probe.remote(probe) for machine, probe in zip(machines, probes, strict=True)],
        ROLE,
        "writing a probe",
    )
    apart = sorted({machine.address for machine, probe in zip(machines, probes, strict=True) if not probe.is_file()})
    for probe in probes:
        probe.unlink(missing_ok=True)
    if apart:
        raise ConfigError(
            f"output_dir={run_dir}: what {', '.join(apart)} writes there does not arrive here, and learner ranks there must read "
            "the run's checkpoints; give a folder on a file system that all machines share, at the same path"
        )

"""Starting Ray and its actors, and keeping them for the next run of the same process.

Engines take most of a minute to start on a small machine. A sweep runs many jobs in one process, so an actor is kept as
long as the next job asks for exactly the same one: same class, same arguments. Learner ranks and the controller begin
every run anew inside their old processes.
"""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field

import ray
from ray.actor import ActorClass, ActorHandle

from effopd.actors.supervision import Member, Request, answers_to, make_ready
from effopd.config.schema import ClusterConfig
from effopd.errors import ConfigError

ENVIRONMENT = {
    # Two OpenMP threads of three processes spinning on two cores run ten times slower than one.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "VLLM_HOST_IP": "127.0.0.1"}
"""Where process groups meet when all of them are on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorSpec:
    """One actor to have. Two specs that are equal mean the same actor."""

    name: str
    """Unique in a run, e.g. `sampler 0`."""
    actor_class: ActorClass
    arguments: tuple[object, ...] = ()
    keywords: tuple[tuple[str, object], ...] = ()
    num_gpus: int = 0
    num_threads: int = 1
    max_restarts: int = 0
    """Times that Ray starts it again when it dies; 0 for what holds something that no other has."""


@dataclass(slots=True)
class RaySession:
    """A connection to Ray and the actors started through it."""

    cluster: ClusterConfig
    actors: dict[str, tuple[ActorSpec, ActorHandle]] = field(default_factory=dict)

    def start(self) -> None:
        """Connect, or start Ray on this machine: loopback only, no dashboard, no usage report."""
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault(
            "RAY_worker_niceness", "0"
        )  # at Ray's 15 anything else on the machine starves the engines
        if self.cluster.address is not None:
            try:
                ray.init(address=self.cluster.address, log_to_driver=False, logging_level=logging.ERROR)
                self._check_nodes()
            except ConnectionError as error:
                raise ConfigError(
                    f"cluster.address={self.cluster.address}: no Ray cluster answers there ({error}); "
                    "start one with `ray start --head`, or set cluster.address=null to start one on this machine"
                ) from error
            return
        ray.init(
            address="local",  # without it Ray would join whatever cluster was last started on this machine, by whomever
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )

    def have(self, specs: list[ActorSpec]) -> dict[str, ActorHandle]:
        """Return an actor for every spec, by name; stop the actors that no spec asks for.

        New actors start side by side. Raises ConfigError when the cluster has too few GPUs.
        """
        self._check_gpus(specs)
        wanted = {spec.name: spec for spec in specs}
        for name in [name for name, (spec, _) in self.actors.items() if wanted.get(name) != spec]:
            _, actor = self.actors.pop(name)
            ray.kill(actor)
        for name in wanted.keys() - self.actors.keys():
            self.actors[name] = (wanted[name], _start(wanted[name], self.cluster.address is None))
        return {name: self.actors[name][1] for name in wanted}

    def stop(self) -> None:
        """Stop every actor and leave Ray."""
        for _, actor in self.actors.values():
            ray.kill(actor)
        self.actors.clear()
        ray.shutdown()

    def stop_irreplaceable(self) -> None:
        """Stop the actors that can only begin anew all together, whatever they are at. Engines that sample and score stay:
        they take long to start, and the next `have` finds them."""
        for name in [name for name, (spec, _) in self.actors.items() if spec.max_restarts == 0]:
            _, actor = self.actors.pop(name)
            ray.kill(actor)

    def _check_nodes(self) -> None:
        nodes = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]
        if len(nodes) > 1:
            ray.shutdown()
            raise ConfigError(
                f"cluster.address={self.cluster.address}: the cluster has {len(nodes)} nodes ({', '.join(nodes)}), but weights "
                "travel through the shared memory of one; give the address of a single-node cluster"
            )

    def _check_gpus(self, specs: list[ActorSpec]) -> None:
        needed = sum(spec.num_gpus for spec in specs)
        present = int(ray.cluster_resources().get("GPU", 0))
        if needed > present:
            parts = ", ".join(f"{spec.name}: {spec.num_gpus}" for spec in specs if spec.num_gpus)
            raise ConfigError(
                f"the plan needs {needed} GPUs ({parts}) and the cluster has {present}; "
                "lower rollout.num_samplers, rollout.tensor_parallel_size or learner.num_ranks, put every role into one "
                "process with cluster=local, or set cluster.device=cpu"
            )


_session: RaySession | None = None
# One per process, because Ray itself is one per process; it is what lets a sweep keep its engines.


def session_for(cluster: ClusterConfig) -> RaySession:
    """Return this process's session, started for `cluster`; one for another cluster is stopped first."""
    global _session
    if _session is None or _session.cluster != cluster:
        if _session is not None:
            _session.stop()
            _session = None
        session = RaySession(cluster)
        session.start()
        _session = session
    return _session


def wait_until_ready(members: Iterable[Member]) -> None:
    """Return when every actor answers `ready`, or raise what its start raised."""
    requests = [Request(member, lambda actor: [actor.ready.remote()]) for member in members]
    answers_to(requests, "starting", make_ready)


def _start(spec: ActorSpec, is_this_machine: bool) -> ActorHandle:
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": str(spec.num_threads), **(LOOPBACK if is_this_machine else {})}
    return spec.actor_class.options(
        num_cpus=0,
        num_gpus=spec.num_gpus,
        max_restarts=spec.max_restarts,
        runtime_env={"env_vars": environment},
    ).remote(*spec.arguments, **dict(spec.keywords))  # pyright: ignore[reportReturnType]  (Ray's stubs call it a proxy)

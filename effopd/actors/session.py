"""Starting Ray and its actors, and keeping them for the next run of the same process.

Engines take most of a minute to start on a small machine. A sweep runs many jobs in one process, so an actor is kept as
long as the next job asks for exactly the same one: same class, same arguments. Learner ranks and the controller begin
every run anew inside their old processes.
"""

import logging
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import ray
from ray import ObjectRef
from ray.actor import ActorClass, ActorHandle
from ray.exceptions import AuthenticationError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from effopd.actors.calls import SECONDS_TO_TELL
from effopd.actors.footprint import PROCESS_GIB
from effopd.actors.placement import Need, Node, Place, place_actors
from effopd.actors.supervision import Member, Request, answers_to, make_ready
from effopd.config.schema import ClusterConfig
from effopd.errors import ConfigError
from effopd.termination import handlers_kept

ENVIRONMENT = {
    # Two OpenMP threads of three processes spinning on two cores run ten times slower than one.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "VLLM_HOST_IP": "127.0.0.1"}
"""Where process groups meet that do not leave their machine; see `engines.rendezvous` for learner ranks that do."""

_TURNED_AWAY = "InvalidAuthToken"

SECONDS_TO_RESERVE = 60
"""For GPUs that the run before gives back."""

logger = logging.getLogger(__name__)


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
    memory_gib: float = PROCESS_GIB
    """Host memory of its own that it takes at least."""
    max_restarts: int = 0
    """Times that Ray starts it again when it dies; 0 for what holds something that no other has."""
    max_concurrency: int = 1
    """Calls that it works on at once, each on a thread of its own."""
    place: Place = Place.ANYWHERE
    max_task_retries: int = -1
    """How often Ray may repeat a call whose connection broke, as when a network is down for some seconds; -1 means for ever. It
    also repeats it to an actor that it has started again, see `supervision.py`. 0 where the same call twice would not do the
    same."""
    node_id: str | None = None
    """The machine, by Ray's name for it; None until `RaySession.placed` has found one."""


@dataclass(slots=True)
class RaySession:
    """A connection to Ray and the actors started through it."""

    cluster: ClusterConfig
    actors: dict[str, tuple[ActorSpec, ActorHandle]] = field(default_factory=dict)
    reserved: dict[str, PlacementGroup] = field(default_factory=dict)
    """The GPUs of every actor that has some, by its name."""
    run_dir: Path | None = None
    """Of the run that the actors play in, or played in last."""
    num_machines: int = 0
    """The most that the cluster has had when actors were started."""

    def start(self) -> None:
        """Connect, or start Ray on this machine: loopback only, no dashboard, no usage report."""
        with handlers_kept():
            self._start()

    def _start(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # Ray would print, as errors, what calls raise that nobody waits for any more, most of them because their actor has died.
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
        os.environ.setdefault(
            "RAY_worker_niceness", "0"
        )  # at Ray's 15 anything else on the machine starves the engines
        if self.cluster.address is not None:
            self._connect(self.cluster.address)
            return
        ray.init(
            address="local",  # left out, it would mean a cluster that somebody else has started here, if there is one
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )

    def _connect(self, address: str) -> None:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (AuthenticationError, ConnectionError) as error:
            # Ray keeps trying, and then says only in the cause of the cause why it was turned away.
            if isinstance(error, AuthenticationError) or _TURNED_AWAY in str(error.__cause__):
                raise ConfigError(
                    f"cluster.address={address}: the cluster asks for a token, and this process has none or another; "
                    "set RAY_AUTH_MODE=token and put the cluster's token into ~/.ray/auth_token"
                ) from error
            raise ConfigError(
                f"cluster.address={address}: no Ray cluster answers there ({error}); "
                "start one with `ray start --head`, or set cluster.address=null to start one on this machine"
            ) from error

    def begin_run(self, run_dir: Path) -> None:
        """Let another run begin, unless it is the same that begins anew. `cluster.max_restarts` is a run's, but Ray counts over
        the life of an actor; so those that have died once, and were replaced, are stopped, and the run starts new ones."""
        if run_dir != self.run_dir:
            for name in self._replaced():
                self._stop(name)
        self.run_dir = run_dir

    def have(self, specs: list[ActorSpec]) -> dict[str, ActorHandle]:
        """Return an actor for every spec, by name; stop the actors that no spec asks for.

        New actors start side by side, after all their GPUs are reserved. Raises ConfigError when the cluster cannot hold
        the plan.
        """
        wanted = {spec.name: spec for spec in self.placed(specs)}
        self.num_machines = max(self.num_machines, len(self.nodes()))
        for name in [name for name, (spec, _) in self.actors.items() if wanted.get(name) != spec]:
            self._stop(name)
        missing = [spec for name, spec in wanted.items() if name not in self.actors]
        if missing:
            logger.warning("starting %s", ", ".join(spec.name for spec in missing))
        self._reserve([spec for spec in missing if spec.num_gpus > 0])
        for spec in missing:
            self.actors[spec.name] = (spec, _start(spec, self.reserved.get(spec.name)))
        return {name: self.actors[name][1] for name in wanted}

    def placed(self, specs: Sequence[ActorSpec]) -> list[ActorSpec]:
        """Return `specs` with a machine for each; one that has a machine keeps it.

        Raises ConfigError, with the arithmetic, when the cluster cannot hold the plan.
        """
        needs = [
            Need(name=spec.name, place=spec.place, num_gpus=spec.num_gpus, memory_gib=spec.memory_gib)
            for spec in specs
            if spec.node_id is None
        ]
        found = place_actors(needs, self.nodes()) if needs else {}
        return [replace(spec, node_id=found[spec.name].node_id) if spec.node_id is None else spec for spec in specs]

    def nodes(self) -> list[Node]:
        """Return the machines of the cluster, the driver's among them."""
        here = ray.get_runtime_context().get_node_id()
        return [
            Node(
                node_id=node["NodeID"],
                address=node["NodeManagerAddress"],
                num_gpus=int(node["Resources"].get("GPU", 0)),
                is_driver=node["NodeID"] == here,
                memory_gib=(node["Resources"]["memory"] + node["Resources"]["object_store_memory"]) / 2**30,
            )
            for node in ray.nodes()
            if node["Alive"]
        ]

    def driver_node(self) -> str:
        """Return the driver's machine, by Ray's name for it."""
        return next(node.node_id for node in self.nodes() if node.is_driver)

    def stop(self) -> None:
        """Stop every actor and leave Ray."""
        for _, actor in self.actors.values():
            ray.kill(actor)
        self.actors.clear()
        self.reserved.clear()  # Ray gives back what a driver has reserved when it leaves
        ray.shutdown()

    def stop_actors(self) -> None:
        """Stop all actors, so that none that is dead or half-way through something is kept for the next run."""
        for name in list(self.actors):
            self._stop(name)

    def stop_irreplaceable(self) -> None:
        """Stop the actors that can only begin anew all together, whatever they are at. Engines that sample and score stay:
        they take long to start, and the next `have` finds them."""
        for name in [name for name, (spec, _) in self.actors.items() if spec.max_restarts == 0]:
            self._stop(name)

    def _replaced(self) -> list[str]:
        """Return the names of actors that were replaced, or do not answer."""
        asked: dict[ObjectRef, str] = {
            actor.__ray_call__.remote(_was_replaced): name
            for name, (spec, actor) in self.actors.items()
            if spec.max_restarts > 0
        }
        if not asked:
            return []
        done, silent = ray.wait(list(asked), num_returns=len(asked), timeout=SECONDS_TO_TELL)
        found = [asked[reference] for reference in silent]
        for reference in done:
            try:
                was_replaced = ray.get(reference)
            except RayError:
                was_replaced = True
            if was_replaced:
                found.append(asked[reference])
        return found

    def wait_for_machines(self) -> None:
        """Return when there are as many machines as there have been, or after `cluster.machine_wait_seconds`."""
        deadline = time.monotonic() + self.cluster.machine_wait_seconds
        while (num_missing := self.num_machines - len(self.nodes())) > 0:
            if time.monotonic() > deadline:
                logger.warning("%d of %d machines are missing; the run goes on without", num_missing, self.num_machines)
                return
            time.sleep(1)

    def _stop(self, name: str) -> None:
        _, actor = self.actors.pop(name)
        ray.kill(actor)
        if name in self.reserved:
            remove_placement_group(self.reserved.pop(name))

    def _reserve(self, specs: Sequence[ActorSpec]) -> None:
        """Set the GPUs of all `specs` aside, each actor's on its machine. Raises ConfigError when others hold them."""
        for spec in specs:
            assert spec.node_id is not None, "placed() comes first"
            self.reserved[spec.name] = placement_group(
                [{"GPU": spec.num_gpus}], bundle_label_selector=[{"ray.io/node-id": spec.node_id}]
            )
        deadline = time.monotonic() + SECONDS_TO_RESERVE
        waiting = [
            spec.name for spec in specs if not self.reserved[spec.name].wait(max(deadline - time.monotonic(), 0))
        ]
        if waiting:
            for spec in specs:
                remove_placement_group(self.reserved.pop(spec.name))
            raise ConfigError(
                f"cluster.address={self.cluster.address}: the GPUs for {', '.join(waiting)} were taken for "
                f"{SECONDS_TO_RESERVE} s; wait until the other runs on this cluster have ended, or ask for fewer"
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


def stop_actors_of_session() -> None:
    """Stop all actors of this process's session, if it has one."""
    if _session is not None:
        _session.stop_actors()


def wait_until_ready(members: Iterable[Member]) -> None:
    """Return when every actor answers `ready`, or raise what its start raised."""
    requests = [Request(member, lambda actor: [actor.ready.remote()]) for member in members]
    answers_to(requests, "starting", make_ready)


def _was_replaced(actor: object) -> bool:
    """Return whether the process that this runs in, which is an actor's, is not the actor's first."""
    return bool(ray.get_runtime_context().was_current_actor_reconstructed)


def _start(spec: ActorSpec, reserved: PlacementGroup | None) -> ActorHandle:
    assert spec.node_id is not None, "placed() comes first"
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": str(spec.num_threads), **LOOPBACK}
    return spec.actor_class.options(
        num_cpus=0,
        num_gpus=spec.num_gpus,
        max_restarts=spec.max_restarts,
        max_concurrency=spec.max_concurrency,
        max_task_retries=spec.max_task_retries,
        scheduling_strategy=(
            NodeAffinitySchedulingStrategy(spec.node_id, soft=False)
            if reserved is None
            else PlacementGroupSchedulingStrategy(reserved)
        ),
        runtime_env={"env_vars": environment},
    ).remote(*spec.arguments, **dict(spec.keywords))  # pyright: ignore[reportReturnType]  (Ray's stubs call it a proxy)

"""Weights on their way to samplers of another machine, and what is checked before a run on several.

Both ends are real processes of one machine here; `tests/hosts` has two.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from ray.actor import ActorHandle

from effopd.actors.calls import wait_for
from effopd.actors.node import NodeActor
from effopd.actors.sampler import RaySampler, nothing_staged
from effopd.actors.session import ActorSpec, RaySession
from effopd.actors.several_nodes import (
    Machine,
    node_specs,
    require_authentication,
    require_folders,
    require_shared_folder,
    weight_routes,
)
from effopd.actors.stacks import expose_stacks
from effopd.actors.supervision import Member
from effopd.actors.watchdog import Watchdog, Watched
from effopd.actors.weight_routes import WeightRoutes
from effopd.errors import ConfigError, WeightSyncError
from effopd.production import uncharged
from effopd.types import PolicyVersion, Publication
from effopd.weights import SegmentReaders, SegmentWriter

VERSION = PolicyVersion(step=7)
NUM_BUCKETS = 4  # more than travel at a time


@ray.remote
class Reader:
    """A sampler that only reads."""

    def __init__(self) -> None:
        expose_stacks()
        self._readers = SegmentReaders()

    def load(self, publication: Publication) -> None:
        reader = self._readers.verified(publication)
        self._loaded = publication
        self._total = sum(tensor.sum().item() for bucket in publication.buckets for _, tensor in reader.tensors(bucket))

    def pid(self) -> int:
        return os.getpid()

    def loaded(self) -> tuple[Publication, float]:
        return self._loaded, self._total


@pytest.fixture(scope="module")
def actors(session: RaySession) -> dict[str, ActorHandle]:
    nodes = [ActorSpec(name=name, actor_class=NodeActor) for name in ("source", "receiver")]
    readers = [ActorSpec(name=name, actor_class=Reader) for name in ("beside", "away", "away too")]
    return session.have([*nodes, *readers])


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SegmentWriter]:
    writer = SegmentWriter(tmp_path)
    yield writer
    writer.close()


def publish(writer: SegmentWriter, value: float) -> Publication:
    """Tensors of 1000 times `value`, a bucket each."""
    tensors = {f"w{index}": torch.full((1000,), value) for index in range(NUM_BUCKETS)}
    layout = [(name, torch.float32, (1000,)) for name in tensors]
    return writer.write(VERSION, tensors.items(), layout=layout, bucket_bytes=4000)


def load(actors: dict[str, ActorHandle], publication: Publication) -> list[tuple[Publication, float]]:
    names = ("beside", "away", "away too")
    routes = WeightRoutes(source=actors["source"], receivers=(None, actors["receiver"], actors["receiver"]))
    samplers_of(actors, names, routes).load(publication)
    return wait_for([actors[name].loaded.remote() for name in names], "a sampler", "telling")


def samplers_of(actors: dict[str, ActorHandle], names: Sequence[str], routes: WeightRoutes) -> RaySampler:
    return RaySampler([Member(name, actors[name]) for name in names], routes, 1, uncharged, nothing_staged)


def test_samplers_of_another_machine_read_one_copy_there_and_those_beside_the_learner_its_own_segment(
    actors: dict[str, ActorHandle], writer: SegmentWriter
) -> None:
    publication = publish(writer, 2.0)
    (beside, total), (away, total_away), (away_too, total_too) = load(actors, publication)
    assert beside == publication
    assert away == away_too == replace(publication, segment=away.segment) != publication
    assert total == total_away == total_too == 8000.0  # 4 tensors x 1000 x 2


def test_the_next_publication_replaces_the_copy(actors: dict[str, ActorHandle], writer: SegmentWriter) -> None:
    first = load(actors, publish(writer, 2.0))[1][0]
    second, total = load(actors, publish(writer, 3.0))[1]
    assert (second.segment, total) == (first.segment, 12_000.0)
    assert second.checksum != first.checksum


def test_a_copy_with_another_checksum_than_the_learner_published_is_refused(
    actors: dict[str, ActorHandle], writer: SegmentWriter
) -> None:
    publication = publish(writer, 2.0)
    routes = WeightRoutes(source=actors["source"], receivers=(actors["receiver"],))
    with pytest.raises(WeightSyncError, match=r"weights 7\.0 .*but 0123 was published"):
        samplers_of(actors, ["away"], routes).load(replace(publication, checksum="0123"))


def test_what_cannot_be_read_at_the_source_is_an_error_of_its_own(
    actors: dict[str, ActorHandle], writer: SegmentWriter
) -> None:
    publication = publish(writer, 2.0)
    writer.close()
    routes = WeightRoutes(source=actors["source"], receivers=(actors["receiver"],))
    with pytest.raises(WeightSyncError, match=publication.segment):
        samplers_of(actors, ["away"], routes).load(replace(publication, segment=f"{publication.segment}0"))


def test_routes_lead_to_the_machine_of_every_sampler(actors: dict[str, ActorHandle]) -> None:
    machines = {
        "a": Machine(address="10.0.0.1", actor=actors["source"]),
        "b": Machine(address="10.0.0.2", actor=actors["receiver"]),
    }
    samplers = [ActorSpec(name=f"sampler {node}", actor_class=Reader, node_id=node) for node in ("b", "a", "b")]
    routes = weight_routes(samplers, "a", machines)
    assert routes == WeightRoutes(source=actors["source"], receivers=(actors["receiver"], None, actors["receiver"]))
    assert routes.to((1,)).receivers == (None,)
    assert weight_routes(samplers[1:2], "a", {}) == WeightRoutes(source=None, receivers=(None,))


def test_one_machine_needs_no_process_of_its_own() -> None:
    assert node_specs({"a"}) == []
    assert [spec.node_id for spec in node_specs({"b", "a"})] == ["a", "b"]


def test_a_shared_folder_passes_and_keeps_nothing_of_the_probe(actors: dict[str, ActorHandle], tmp_path: Path) -> None:
    machines = [
        Machine(address=f"10.0.0.{index}", actor=actors[name]) for index, name in enumerate(("source", "receiver"))
    ]
    require_shared_folder(tmp_path, machines)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_a_machine_cannot_write_to_is_refused_by_address(
    actors: dict[str, ActorHandle], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"^output_dir=.*what 10\.0\.0\.2 writes there does not arrive here"):
        require_shared_folder(tmp_path / "nowhere", [Machine(address="10.0.0.2", actor=actors["receiver"])])


def test_a_model_that_a_machine_lacks_is_named_with_the_machine(actors: dict[str, ActorHandle], tmp_path: Path) -> None:
    machine = Machine(address="10.0.0.2", actor=actors["receiver"])
    require_folders([(machine, tmp_path)])
    with pytest.raises(ConfigError, match=r"there is no .*/absent on 10\.0\.0\.2; models must be at the same path"):
        require_folders([(machine, tmp_path), (machine, tmp_path / "absent")])


def test_the_process_on_another_machine_tells_what_a_silent_actor_there_is_doing(
    actors: dict[str, ActorHandle], tmp_path: Path
) -> None:
    silent = actors["away"]._actor_id.hex()
    watched = {silent: Watched(name="sampler 0", address="10.0.0.2", node=actors["receiver"])}
    report_path = tmp_path / "hangs.txt"
    told = Watchdog(hang_seconds=60.0, watched=watched, report_path=report_path).tell({silent: 61.0}, "sampling")
    (pid,) = wait_for([actors["away"].pid.remote()], "a sampler", "telling")
    assert told.startswith(
        f"sampler 0 (node 10.0.0.2, process {pid}) hangs: sampling for 61 s without an answer; idle, at "
    )
    assert "main_loop" in report_path.read_text()


@ray.remote
class Unguarded:
    def authentication(self) -> str:
        return "disabled"


def test_a_machine_whose_ray_asks_for_no_token_is_refused(actors: dict[str, ActorHandle]) -> None:
    guarded = Machine(address="10.0.0.1", actor=actors["source"])  # Ray turns tokens on when it starts on one machine
    require_authentication([guarded])
    unguarded = Unguarded.options(num_cpus=0).remote()  # pyright: ignore
    with pytest.raises(ConfigError, match=r"Ray on 10\.0\.0\.2 asks nobody for a token"):
        require_authentication([guarded, Machine(address="10.0.0.2", actor=unguarded)])

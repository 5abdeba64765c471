"""What a session keeps and what it replaces, and how errors come out of actors, with real Ray and light actors."""

import errno
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from effopd.actors.calls import wait_for
from effopd.actors.session import ActorSpec, RaySession
from effopd.config.schema import ClusterConfig
from effopd.errors import ConfigError, EffOPDError


@ray.remote
class Counter:
    def __init__(self, start: int) -> None:
        self._count = start

    def add(self) -> int:
        self._count += 1
        return self._count

    def refuse(self) -> None:
        raise ConfigError("key=1: a rule; a remedy")

    def break_down(self) -> None:
        raise ZeroDivisionError("something else")

    def fill_disk(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def die(self) -> None:
        os._exit(1)

    def pid(self) -> int:
        return os.getpid()


def spec(name: str = "counter", start: int = 0, num_gpus: int = 0, max_restarts: int = 0) -> ActorSpec:
    return ActorSpec(name=name, actor_class=Counter, arguments=(start,), num_gpus=num_gpus, max_restarts=max_restarts)


def count(session: RaySession, wanted: ActorSpec) -> int:
    return wait_for([session.have([wanted])[wanted.name].add.remote()], "the counter", "counting")[0]


def test_an_equal_spec_keeps_the_actor_and_its_state(session: RaySession) -> None:
    assert [count(session, spec(start=10)), count(session, spec(start=10))] == [11, 12]


def test_another_spec_under_the_same_name_replaces_the_actor(session: RaySession) -> None:
    assert [count(session, spec(start=10)), count(session, spec(start=20)), count(session, spec(start=10))][1:] == [
        21,
        11,
    ]


def test_an_actor_that_no_spec_asks_for_is_stopped(session: RaySession) -> None:
    count(session, spec("one"))
    count(session, spec("two"))
    assert set(session.actors) == {"two"}


def test_an_actor_that_was_replaced_in_one_run_is_started_anew_for_the_next(session: RaySession) -> None:
    specs = [spec("sound", max_restarts=1), spec("replaced", max_restarts=1)]
    session.begin_run(Path("first"))
    before = session.have(specs)
    (pid,) = wait_for([before["replaced"].pid.remote()], "the counter", "telling")
    os.kill(pid, signal.SIGKILL)
    assert ray.get([actor.add.remote() for actor in before.values()]) == [1, 1]
    session.begin_run(Path("first"))  # a restart from a checkpoint, which is the same run
    assert session.have(specs) == before
    session.begin_run(Path("second"))
    after = session.have(specs)
    assert {name for name in after if after[name] != before[name]} == {"replaced"}
    assert ray.get([after[name].add.remote() for name in ("sound", "replaced")]) == [2, 1]


def test_a_run_that_misses_no_machine_waits_for_none(session: RaySession) -> None:
    count(session, spec())
    assert session.num_machines == 1
    session.wait_for_machines()


def test_a_machine_that_does_not_come_is_waited_for_as_long_as_allowed(
    session: RaySession, caplog: pytest.LogCaptureFixture
) -> None:
    one_lost = RaySession(ClusterConfig(machine_wait_seconds=1), num_machines=2)  # of the cluster that `session` is in
    one_lost.wait_for_machines()
    assert caplog.messages == ["1 of 2 machines are missing; the run goes on without"]


def test_our_errors_come_out_of_an_actor_as_themselves(session: RaySession) -> None:
    actor = session.have([spec()])["counter"]
    with pytest.raises(ConfigError, match=r"^key=1: a rule; a remedy$"):
        wait_for([actor.refuse.remote()], "the counter", "counting")


def test_other_errors_name_the_role_and_keep_the_traceback(session: RaySession) -> None:
    actor = session.have([spec()])["counter"]
    with pytest.raises(EffOPDError, match=r"(?s)the counter failed.*break_down.*something else"):
        wait_for([actor.break_down.remote()], "the counter", "counting")


def test_a_full_disk_is_told_in_one_line(session: RaySession) -> None:
    actor = session.have([spec()])["counter"]
    with pytest.raises(
        EffOPDError, match=r"^the counter could not go on counting: the disk is full \(.*\); free some of it$"
    ):
        wait_for([actor.fill_disk.remote()], "the counter", "counting")


def test_a_dead_actor_is_named_by_its_role(session: RaySession) -> None:
    actor = session.have([spec()])["counter"]
    session.actors.clear()
    for call in (actor.die, actor.add):  # in the middle of a call, and before one
        with pytest.raises(EffOPDError, match="the counter died"):
            wait_for([call.remote()], "the counter", "counting")


def test_a_plan_that_needs_more_gpus_than_there_are_is_refused_with_the_arithmetic(session: RaySession) -> None:
    present = int(ray.cluster_resources().get("GPU", 0))
    with pytest.raises(
        ConfigError, match=rf"needs {present + 1} GPUs \(1 big x {present + 1}\) and the cluster has {present}"
    ):
        session.have([spec("big", num_gpus=present + 1)])


def test_a_plan_whose_processes_alone_need_more_memory_than_there_is_is_refused(session: RaySession) -> None:
    with pytest.raises(
        ConfigError, match=r"take 99999\.0 GiB of memory before they load a model \(1 big x 99999\.00\)"
    ):
        session.have([replace(spec("big"), memory_gib=99_999.0)])

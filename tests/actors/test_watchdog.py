"""Actors that hang for real: what is told of them, and who answers in their place."""

import ctypes
import logging
import math
import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import ObjectRef

from effopd.actors import stacks
from effopd.actors.calls import wait_for
from effopd.actors.session import RaySession
from effopd.actors.stacks import expose_stacks
from effopd.actors.supervision import Member, Request, answers_to, make_ready
from effopd.actors.watchdog import Watchdog, Watched, keep_watch, watchdog
from effopd.errors import ActorLostError, EffOPDError, NotReadyError


@ray.remote
class Worker:
    """Answers once it is ready, unless the folder holds a file that says how it hangs or dies."""

    def __init__(self, folder: str) -> None:
        expose_stacks()
        self._folder = Path(folder)
        self._is_ready = False

    def ready(self) -> None:
        self._is_ready = True

    def double(self, number: int) -> int:
        if not self._is_ready:
            raise NotReadyError("ready() comes first")
        fault = self._folder / f"hang-{number}"
        if fault.exists():
            how = fault.read_text()
            fault.unlink()
            {"waiting": wait_for_ever, "native": hold_the_interpreter, "stopped": stop, "dead": die}[how]()
        return 2 * number

    def ask(self, other: list[Any]) -> int:
        (answer,) = wait_for([other[0].double.remote(4)], "another", "doubling")
        return answer


def wait_for_ever() -> None:
    threading.Event().wait()


def hold_the_interpreter() -> None:
    """Hang in native code so that no other thread of Python can run."""
    reader, _writer = os.pipe()
    ctypes.PyDLL(None).read(reader, ctypes.create_string_buffer(1), 1)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def die() -> None:
    os._exit(1)


@dataclass(frozen=True, slots=True)
class Crew:
    """Two actors that Ray starts again whenever they die, and the folder that says how they hang."""

    folder: Path
    one: Member
    other: Member


@pytest.fixture(scope="module")
def actors(session: RaySession, tmp_path_factory: pytest.TempPathFactory) -> Crew:
    folder = tmp_path_factory.mktemp("faults")
    actor: Any = Worker
    one, other = (
        Member(name, actor.options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote(str(folder)))
        for name in ("worker 0", "worker 1")
    )
    return Crew(folder, one, other)


@pytest.fixture
def crew(actors: Crew) -> Iterator[Crew]:
    for member in (actors.one, actors.other):
        make_ready(member)
    yield actors
    keep_watch(Watchdog())


def actor_id(member: Member) -> str:
    return member.actor._actor_id.hex()


def watch(crew: Crew, hang_seconds: float, folder: Path) -> None:
    watched = {
        actor_id(member): Watched(name=member.name, address="10.0.0.1", node=None) for member in (crew.one, crew.other)
    }
    keep_watch(Watchdog(hang_seconds=hang_seconds, watched=watched, report_path=folder / "hangs.txt"))


def unwatched(member: Member) -> None:
    """Make a new process ready, and take the time that it needs."""
    keep_watch(Watchdog())
    make_ready(member)


def doubles(asked: list[tuple[Member, int]]) -> list[int]:
    def asking(number: int) -> Any:
        def ask(actor: Any) -> list[ObjectRef]:
            return [actor.double.remote(number)]

        return ask

    requests = [Request(one, asking(number)) for one, number in asked]
    return answers_to(requests, "doubling", unwatched)[0]


def test_a_member_that_hangs_is_reported_with_phase_and_place_and_another_process_answers(
    crew: Crew, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watch(crew, 1.0, tmp_path)
    (crew.folder / "hang-3").write_text("waiting")
    with caplog.at_level(logging.WARNING):
        assert doubles([(crew.other, 3)]) == [6]
    report = (tmp_path / "hangs.txt").read_text()
    assert report.count(" hangs: ") == 1
    where = (
        r"worker 1 \(node 10\.0\.0\.1, process \d+\) hangs: doubling for \d s without an answer; in double, at wait "
    )
    assert re.search(where + r".* < wait_for_ever \(test_watchdog\.py:\d+\)", report)
    assert re.search(r"\nworker 0 \(node 10\.0\.0\.1, process \d+\): idle\n", report)
    assert report.partition("\n")[2].strip() in "\n".join(caplog.messages)


def test_an_actor_that_no_other_can_replace_is_lost_when_it_hangs_in_native_code(crew: Crew, tmp_path: Path) -> None:
    watch(crew, 1.0, tmp_path)
    (crew.folder / "hang-3").write_text("native")
    with pytest.raises(ActorLostError) as raised:
        wait_for([crew.other.actor.double.remote(3)], "a rank", "training")
    ray.kill(crew.other.actor, no_restart=False)
    told, _, report = str(raised.value).partition("; the stacks of all processes are in ")
    assert re.fullmatch(
        r"worker 1 \(.*\) hangs: training for 1 s without an answer; in double, at hold_the_interpreter .*", told
    )
    assert Path(report) == tmp_path / "hangs.txt"


def test_a_member_that_hangs_once_too_often_ends_the_run_with_that_as_the_cause(
    session: RaySession, crew: Crew, tmp_path: Path
) -> None:
    actor: Any = Worker
    last = Member("worker 2", actor.options(num_cpus=0, max_restarts=0).remote(str(crew.folder)))
    make_ready(last)
    watch(Crew(crew.folder, crew.one, last), 1.0, tmp_path)
    (crew.folder / "hang-3").write_text("waiting")
    with pytest.raises(
        EffOPDError, match=r"^worker 2 died while doubling; cluster\.max_restarts allows no other: "
    ) as raised:
        doubles([(last, 3)])
    assert "likely cause: it did not answer within cluster.hang_seconds" in str(raised.value)


def test_an_actor_that_waits_for_others_is_given_twice_as_long_since_it_last_began_to(
    crew: Crew, tmp_path: Path
) -> None:
    watch(crew, 1000.0, tmp_path)
    waiting, asked = actor_id(crew.one), actor_id(crew.other)
    assert watchdog().seconds_left(waiting, 1500.0) == -500.0
    assert wait_for([crew.one.actor.ask.remote([crew.other.actor])], "the controller", "asking") == [8]
    # It began to less than 1500 s ago, so of 2000 s more than 500 are left.
    assert watchdog().seconds_left(waiting, 1500.0) > 500.0
    assert watchdog().seconds_left(asked, 1500.0) == -500.0


def test_without_a_limit_nobody_hangs(crew: Crew, tmp_path: Path) -> None:
    watch(crew, 0.0, tmp_path)
    assert watchdog().seconds_left(actor_id(crew.one), 1e9) == math.inf
    assert doubles([(crew.one, 1)]) == wait_for([crew.one.actor.double.remote(1)], "a worker", "doubling") == [2]


def test_a_death_that_leaves_many_requests_unanswered_is_announced_once(
    crew: Crew, caplog: pytest.LogCaptureFixture
) -> None:
    (crew.folder / "hang-3").write_text("dead")
    with caplog.at_level(logging.WARNING):
        assert doubles([(crew.one, 2), (crew.other, 3), (crew.other, 4), (crew.other, 5)]) == [4, 6, 8, 10]
    assert caplog.messages == ["worker 1 died while doubling; another process takes its place"]


def test_a_process_that_is_stopped_writes_no_stack_and_the_report_says_so(
    crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "SECONDS_TO_WRITE", 0.5)
    watch(crew, 1.0, tmp_path)
    (crew.folder / "hang-3").write_text("stopped")
    with pytest.raises(
        ActorLostError, match=r"^worker 1 \(.*\) hangs: training for 1 s without an answer; in double; "
    ):
        wait_for([crew.other.actor.double.remote(3)], "a rank", "training")
    ray.kill(crew.other.actor, no_restart=False)
    assert "it may have been stopped" in (tmp_path / "hangs.txt").read_text()

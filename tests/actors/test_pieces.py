"""Batches in pieces: the product's sampler actor, around an engine that does what a test has planted."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from effopd.actors.run_actor import RunActor
from effopd.actors.sampler import RaySampler, SamplerActor
from effopd.actors.session import RaySession
from effopd.actors.supervision import Member, make_ready
from effopd.actors.teacher import RayTeacher
from effopd.actors.watchdog import Watchdog, Watched, keep_watch
from effopd.actors.weight_routes import WeightRoutes
from effopd.config.schema import RolloutConfig, RunConfig
from effopd.errors import EffOPDError, RolloutError
from effopd.gathering import gather
from effopd.handles import joined, regroup, split_evenly, summarise, with_sampled_reverse_kl
from effopd.production import uncharged
from effopd.roles import Roles
from effopd.timeline import Span
from effopd.types import (
    AlgorithmNeeds,
    FinishReason,
    GenerateRequest,
    PolicyVersion,
    Prompt,
    Publication,
    Rollout,
    RolloutHandle,
    RunState,
    ScoredRollout,
    TeacherPayload,
    TeacherScores,
)

SECONDS = 20.0
"""After which an engine no longer waits, and its test fails."""
VERSION = PolicyVersion(step=0)
PUBLICATION = Publication(version=VERSION, segment="", buckets=(), checksum="")
NUM_PIECES = 3


class PlantedEngine:
    """Samples the last piece first. Before the first piece it does, once, what the folder says."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, publication: Publication) -> None:
        """Take any weights for what they are called."""

    def stream(
        self, request: GenerateRequest, version: PolicyVersion, num_pieces: int
    ) -> Iterator[tuple[int, list[Rollout]]]:
        pieces = split_evenly(request.prompts, num_pieces)
        for number in reversed(range(num_pieces)):
            fault = self._folder / "fault"
            if number == 0 and fault.exists():
                what = fault.read_text()
                fault.unlink()
                if what == "end":
                    return
                {"wait": self._wait, "fail": self._fail, "hang": self._hang}[what]()
            yield number, [rollout(prompt, version) for prompt in pieces[number]]

    def _wait(self) -> None:
        deadline = time.monotonic() + SECONDS
        while not (self._folder / "seen").exists():
            if time.monotonic() > deadline:
                raise RolloutError("nobody has seen the other pieces")
            time.sleep(0.01)

    def _fail(self) -> None:
        raise RolloutError("prompt 0 cannot be answered")

    def _hang(self) -> None:
        threading.Event().wait()


def rollout(prompt: Prompt, version: PolicyVersion) -> Rollout:
    return Rollout(
        prompt_id=prompt.prompt_id,
        sample_index=0,
        prompt_token_ids=prompt.token_ids,
        response_token_ids=torch.tensor(prompt.token_ids),
        rollout_logprobs=torch.zeros(1),
        text="",
        finish_reason=FinishReason.STOP,
        seed=0,
        policy_version=version,
    )


SAMPLER: Any = SamplerActor


class PlantedSampler(SAMPLER.__ray_metadata__.modified_class.__ray_actor_class__):
    def __init__(self, folder: Path) -> None:
        super().__init__(RolloutConfig(), "", max_model_len=0, device=None, seed=0)
        self._folder = folder
        self._build = lambda: PlantedEngine(folder)

    def piece(self, asked: Any) -> tuple:
        with (self._folder / "asked").open("a") as file:
            file.write(f"{asked.piece}\n")
        return super().piece(asked)


@ray.remote
class SeeingTeacher(RunActor):
    """Leaves a mark when it is asked about something."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def score(self, payload: TeacherPayload, *parts: list[Rollout]) -> tuple:
        with self._lane.span("score"):
            (self._folder / "seen").touch()
        rollouts = [rollout for part in parts for rollout in part]
        scored = [ScoredRollout(rollout=one, teacher=TeacherScores(sampled=-torch.ones(1))) for one in rollouts]
        return with_sampled_reverse_kl(summarise(rollouts), scored), *regroup(scored, parts)


@dataclass(frozen=True, slots=True)
class Crew:
    """A sampler and a teacher, each with one process, and the folder that says what they do."""

    folder: Path
    sampler: Member
    teacher: Member

    def role(self, num_parts: int = 1) -> RaySampler:
        """The sampler as a role that cuts batches."""

        def staged() -> AbstractContextManager[Publication]:
            return nullcontext(PUBLICATION)

        routes = WeightRoutes(receivers=(None,))
        return RaySampler([self.sampler], routes, num_parts, uncharged, staged, NUM_PIECES)


@pytest.fixture(scope="module")
def actors(session: RaySession, tmp_path_factory: pytest.TempPathFactory) -> Crew:
    folder = tmp_path_factory.mktemp("planted")
    sampler: Any = ray.remote(PlantedSampler)
    teacher: Any = SeeingTeacher
    options = {"num_cpus": 0, "max_restarts": 1, "max_concurrency": NUM_PIECES + 1}
    crew = Crew(
        folder,
        Member("sampler 0", sampler.options(**options).remote(folder)),
        Member("teacher 0", teacher.options(num_cpus=0).remote(folder)),
    )
    make_ready(crew.sampler)
    crew.role().load(PUBLICATION)
    return crew


@pytest.fixture
def crew(actors: Crew) -> Iterator[Crew]:
    yield actors
    assert not (actors.folder / "fault").exists(), "a planted fault was not met"
    for path in actors.folder.iterdir():
        path.unlink()


def request_for(num_prompts: int) -> GenerateRequest:
    prompts = tuple(
        Prompt(prompt_id=str(index), token_ids=(100 + index,), text="", answer="") for index in range(num_prompts)
    )
    return GenerateRequest(prompts=prompts, num_samples=1, max_response_len=1, temperature=1.0, top_p=1.0, seed=0)


def tokens(handle: RolloutHandle) -> list[list[int]]:
    """What the references of every part hold, one after the other."""
    return [[int(one.response_token_ids) for piece in part for one in ray.get(piece)] for part in handle.parts]


def test_pieces_together_are_what_is_sampled_at_once(crew: Crew) -> None:
    # Pieces of 3, 4 and 4 of eleven prompts; ranks get 4, 4 and 3 of them.
    role = crew.role(num_parts=3)
    pieces = dict(role.stream(request_for(11), VERSION))
    assert [len(pieces[number].summaries) for number in range(NUM_PIECES)] == [3, 4, 4]
    streamed, whole = joined([pieces[number] for number in range(NUM_PIECES)]), role.generate(request_for(11), VERSION)
    assert tokens(streamed) == tokens(whole) == [[100, 101, 102, 103], [104, 105, 106, 107], [108, 109, 110]]
    assert streamed.summaries == whole.summaries


def test_an_error_in_mid_batch_comes_out_as_itself_and_the_sampler_lives_on(crew: Crew) -> None:
    (crew.folder / "fault").write_text("fail")
    with pytest.raises(RolloutError, match=r"^prompt 0 cannot be answered$"):
        list(crew.role().stream(request_for(6), VERSION))
    assert len(list(crew.role().stream(request_for(6), VERSION))) == NUM_PIECES


def test_a_piece_that_the_engine_never_gives_is_an_error_and_no_endless_wait(crew: Crew) -> None:
    (crew.folder / "fault").write_text("end")
    with pytest.raises(EffOPDError, match="the engine ended without a piece"):
        list(crew.role().stream(request_for(6), VERSION))


class Stream:
    """A stream of the same prompts, and a tracker that writes nothing."""

    def take(self, position: int, num_prompts: int) -> tuple[Prompt, ...]:
        return request_for(num_prompts).prompts

    def phase(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def count_train_rewards(self, num_rewards: int) -> None: ...


def test_the_teacher_scores_pieces_while_their_sampler_is_at_the_last(crew: Crew) -> None:
    # The first piece is sampled only when the teacher has seen another.
    (crew.folder / "fault").write_text("wait")
    actors = [crew.sampler.actor, crew.teacher.actor]
    ray.get([actor.begin_lane.remote() for actor in actors])
    stream: Any = Stream()
    roles = Roles(
        prompts=stream, sampler=crew.role(), teacher=RayTeacher([crew.teacher], uncharged), reference=None, verifier=None,
        learner=stream, publisher=stream, evaluator=None, accelerator=stream, tracker=stream,
    )  # fmt: skip
    config = RunConfig(rollout=replace(RolloutConfig(), prompts_per_step=6, samples_per_prompt=1))
    gathered = gather(config, roles, AlgorithmNeeds(teacher=TeacherPayload.SAMPLED), RunState(), VERSION)
    (batch,) = gathered.batches
    scored = [item for piece in batch.parts[0] for item in ray.get(piece)]
    assert [item.rollout.prompt_id for item in scored] == list("012345")
    # Minus a log-probability of -1 from each teacher, against 0.
    assert [summary.sampled_reverse_kl for summary in batch.summaries] == [1.0] * 6
    spans: list[tuple[Span, ...]] = ray.get([actor.spans.remote() for actor in actors])
    (generate,), scores = spans
    assert len(scores) == NUM_PIECES
    assert scores[0].start < generate.start + generate.seconds


def test_an_engine_that_hangs_is_named_with_its_place_and_only_what_it_had_not_finished_is_asked_again(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwatched(member: Member) -> None:
        """Make a new process ready, and take the time that it needs."""
        keep_watch(Watchdog())
        make_ready(member)

    monkeypatch.setattr("effopd.actors.sampler.make_ready", unwatched)
    watched = {crew.sampler.actor._actor_id.hex(): Watched(name=crew.sampler.name, address="10.0.0.1", node=None)}
    (crew.folder / "fault").write_text("hang")
    try:
        keep_watch(Watchdog(hang_seconds=1.0, watched=watched, report_path=crew.folder / "hangs.txt"))
        pieces = crew.role().stream(request_for(6), VERSION)
        # The engine gives the last two pieces, and then hangs at the first.
        finished = dict([next(pieces), next(pieces)])
        assert 0 not in finished
        finished |= dict(pieces)
    finally:
        keep_watch(Watchdog())
    assert tokens(joined([finished[number] for number in range(NUM_PIECES)])) == [[100, 101, 102, 103, 104, 105]]
    where = (
        r"sampler 0 \(.*\) hangs: sampling from weights 0\.0 for \d s without an answer; in piece, at wait .* < _hang "
    )
    assert re.search(where, (crew.folder / "hangs.txt").read_text())
    asked = (crew.folder / "asked").read_text().split()
    assert [asked.count(str(piece)) for piece in range(NUM_PIECES)] == [2, 1, 1]

"""Role groups over light actors: what their handles hold."""

from dataclasses import replace
from typing import Any

import pytest
import ray
import torch

from effopd.actors.pieces import PieceRequest
from effopd.actors.sampler import RaySampler, nothing_staged
from effopd.actors.session import RaySession
from effopd.actors.supervision import Member
from effopd.actors.teacher import RayTeacher
from effopd.actors.weight_routes import WeightRoutes
from effopd.handles import joined, regroup, split_by_prompt, split_evenly, summarise
from effopd.production import uncharged
from effopd.types import (
    FinishReason,
    GenerateRequest,
    PolicyVersion,
    Prompt,
    Rollout,
    ScoredRollout,
    TeacherPayload,
    TeacherScores,
)


@ray.remote
class Echo:
    """A sampler that answers every prompt with one token."""

    def first(self, rollouts: list[Rollout], num_rollouts: int) -> list[Rollout]:
        return rollouts[:num_rollouts]

    def generate(
        self, request: GenerateRequest, version: PolicyVersion, num_parts: int, start: int, num_prompts: int
    ) -> tuple:
        rollouts = [
            Rollout(
                prompt_id=prompt.prompt_id,
                sample_index=0,
                prompt_token_ids=prompt.token_ids,
                response_token_ids=torch.tensor([1]),
                rollout_logprobs=torch.zeros(1),
                text="",
                finish_reason=FinishReason.STOP,
                seed=0,
                policy_version=version,
            )
            for prompt in request.prompts
        ]
        parts = [part for part in split_by_prompt(rollouts, num_parts, start, num_prompts) if part]
        return tuple(summarise(part) for part in parts), *parts

    def piece(self, asked: PieceRequest) -> tuple:
        request = ray.get(asked.share)
        prompts = split_evenly(request.prompts, asked.num_pieces)[asked.piece]
        share = replace(request, prompts=prompts)
        return self.generate(share, asked.version, asked.num_parts, asked.start, asked.num_prompts)


@ray.remote
class Rater:
    """A teacher that says of every response how many it was given in the same call, as its log-probability."""

    def score(self, payload: TeacherPayload, *parts: list[Rollout]) -> tuple:
        rollouts = [rollout for part in parts for rollout in part]
        rating = torch.full((1,), float(len(rollouts)))
        scored = [ScoredRollout(rollout=rollout, teacher=TeacherScores(sampled=rating)) for rollout in rollouts]
        return tuple(summarise(rollouts)), *regroup(scored, parts)


@pytest.fixture(scope="module")
def sampler(session: RaySession) -> RaySampler:
    """Two samplers for four learner ranks."""
    actor: Any = Echo
    members = [Member(f"sampler {index}", actor.options(num_cpus=0).remote()) for index in range(2)]
    return RaySampler(members, WeightRoutes(receivers=(None, None)), 4, uncharged, nothing_staged, num_pieces=2)


@pytest.fixture(scope="module")
def teacher(session: RaySession) -> RayTeacher:
    """Two replicas."""
    actor: Any = Rater
    return RayTeacher([Member(f"teacher {index}", actor.options(num_cpus=0).remote()) for index in range(2)], uncharged)


def request_for(num_prompts: int) -> GenerateRequest:
    prompts = tuple(Prompt(prompt_id=str(index), token_ids=(1,), text="", answer="") for index in range(num_prompts))
    return GenerateRequest(prompts=prompts, num_samples=1, max_response_len=1, temperature=1.0, top_p=1.0, seed=0)


def test_a_handle_refers_to_no_empty_part(sampler: RaySampler) -> None:
    # Of five prompts rank 0 gets two, 0 and 1, and ranks 1 to 3 get 2, 3 and 4. The first sampler has 0 and 1.
    handle = sampler.generate(request_for(5), PolicyVersion(step=0))
    held = [[[rollout.prompt_id for rollout in ray.get(part)] for part in parts] for parts in handle.parts]
    assert held == [[["0", "1"]], [["2"]], [["3"]], [["4"]]]
    assert [summary.prompt_id for summary in handle.summaries] == ["0", "1", "2", "3", "4"]


def test_pieces_of_all_samplers_together_are_the_whole_batch(sampler: RaySampler) -> None:
    # The samplers have 4 and 5 of nine prompts, in pieces of 2, 2, 2 and 3; ranks get 3, 2, 2 and 2 of them.
    pieces = dict(sampler.stream(request_for(9), PolicyVersion(step=0)))
    assert [[summary.prompt_id for summary in pieces[number].summaries] for number in sorted(pieces)] == [
        ["0", "1"],
        ["2", "3"],
        ["4", "5"],
        ["6", "7", "8"],
    ]
    whole = joined([pieces[number] for number in sorted(pieces)])
    held = [[[rollout.prompt_id for rollout in ray.get(part)] for part in parts] for parts in whole.parts]
    assert held == [[["0", "1"], ["2"]], [["3"], ["4"]], [["5"], ["6"]], [["7", "8"]]]
    assert whole.summaries == sampler.generate(request_for(9), PolicyVersion(step=0)).summaries


def test_a_sampler_with_fewer_prompts_than_pieces_gives_each_its_own(sampler: RaySampler) -> None:
    # One prompt for the second sampler, and none for the first.
    ((number, piece),) = sampler.stream(request_for(1), PolicyVersion(step=0))
    assert (number, [summary.prompt_id for summary in piece.summaries]) == (0, ["0"])


def test_a_preview_is_the_first_responses_in_the_order_of_the_summaries(sampler: RaySampler) -> None:
    handle = sampler.generate(request_for(5), PolicyVersion(step=0))
    shown = sampler.preview(handle, 3)
    assert [rollout.prompt_id for rollout in shown] == ["0", "1", "2"]


def test_scored_parts_are_where_the_parts_were(sampler: RaySampler, teacher: RayTeacher) -> None:
    handle = sampler.generate(request_for(9), PolicyVersion(step=0))
    scored = teacher.score(handle, TeacherPayload.SAMPLED)
    before = [[[rollout.prompt_id for rollout in ray.get(part)] for part in parts] for parts in handle.parts]
    after = [[[item.rollout.prompt_id for item in ray.get(part)] for part in parts] for parts in scored.parts]
    assert after == before
    assert scored.summaries == handle.summaries


def test_a_teacher_is_asked_a_few_times_only_however_many_parts_there_are(
    sampler: RaySampler, teacher: RayTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effopd.actors.teacher.CALLS_PER_MEMBER", 1)
    # Ranks get 3, 2, 2 and 2 of nine prompts, and the first sampler has four: parts of 3; 1, 1; 2; 2. One teacher is asked
    # for the first two of them, which are four responses, the other for the last three.
    handle = sampler.generate(request_for(9), PolicyVersion(step=0))
    scored = teacher.score(handle, TeacherPayload.SAMPLED)
    ratings = [int(item.teacher.sampled) for own in scored.parts for part in own for item in ray.get(part)]
    assert sorted(ratings) == [4] * 4 + [5] * 5

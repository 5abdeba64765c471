"""What an update trains on, gathered from deterministic stand-ins for the roles."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import torch

from effopd.config.schema import AlgoConfig, AlgorithmName, RolloutConfig, RunConfig
from effopd.errors import RolloutError
from effopd.gathering import Gathered, gather
from effopd.handles import rewards_of, summarise, to_train_on
from effopd.roles import Roles
from effopd.train import after_update
from effopd.types import (
    AlgorithmNeeds,
    FinishReason,
    GenerateRequest,
    PolicyVersion,
    Prompt,
    Rollout,
    RolloutHandle,
    RunState,
    ScoredHandle,
    ScoredRollout,
    TeacherPayload,
    TeacherScores,
)

REWARDS = AlgorithmNeeds(rewards=True)
RIGHT, WRONG, MIXED = (1.0, 1.0), (0.0, 0.0), (1.0, 0.0)


@dataclass
class Stage:
    """A stream of named prompts, and how both responses to each are scored. Response lengths are 1 and 2 tokens."""

    batches: Sequence[str]
    """One letter a prompt; past the last batch the stream begins anew."""
    scores: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Prompts that are not named are mixed."""
    requests: list[GenerateRequest] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    num_verified: int = 0
    num_counted: int = 0
    finished: Sequence[int] | None = None
    """The order in which prompts are finished, each of which is a piece then; None: all are one."""
    events: list[str] = field(default_factory=list)
    waited: list[str] = field(default_factory=list)
    """For teacher and verifier: about whose responses."""

    def take(self, position: int, num_prompts: int) -> tuple[Prompt, ...]:
        self.positions.append(position)
        names = self.batches[position % len(self.batches)]
        assert len(names) == num_prompts
        return tuple(Prompt(prompt_id=name, token_ids=(7,), text=name, answer="") for name in names)

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        assert request.prompts, "nothing to sample"
        self.requests.append(request)
        self.events.append("sampled " + "".join(prompt.prompt_id for prompt in request.prompts))
        rollouts = [
            Rollout(
                prompt_id=prompt.prompt_id,
                sample_index=index,
                prompt_token_ids=prompt.token_ids,
                response_token_ids=torch.arange(index + 1),
                rollout_logprobs=torch.zeros(index + 1),
                text="",
                finish_reason=FinishReason.LENGTH if index else FinishReason.STOP,
                seed=0,
                policy_version=version,
            )
            for prompt in request.prompts
            for index in range(request.num_samples)
        ]
        return RolloutHandle(parts=((rollouts,),), summaries=tuple(summarise(rollouts)), policy_version=version)

    def stream(self, request: GenerateRequest, version: PolicyVersion) -> Iterator[tuple[int, RolloutHandle]]:
        if self.finished is None:
            yield 0, self.generate(request, version)
            return
        for number in self.finished:
            yield number, self.generate(replace(request, prompts=request.prompts[number : number + 1]), version)

    def preview(self, rollouts: RolloutHandle, num_rollouts: int) -> list[Rollout]:
        raise AssertionError("nobody looks")

    def load(self, publication: object) -> None:
        raise AssertionError("weights are not gathered")

    def rewards(self, rollouts: RolloutHandle, prompts: Sequence[Prompt]) -> list[float]:
        self.num_verified += len(rollouts.summaries)
        self.waited.append(names_in(rollouts))
        assert {prompt.prompt_id for prompt in prompts} == {summary.prompt_id for summary in rollouts.summaries}
        return [self.scores.get(s.prompt_id, MIXED)[s.sample_index] for s in rollouts.summaries]

    def score(self, rollouts: RolloutHandle, payload: TeacherPayload) -> ScoredHandle:
        ((items,),) = rollouts.parts
        self.waited.append(names_in(rollouts))
        scored = [ScoredRollout(rollout=item, teacher=TeacherScores(sampled=item.rollout_logprobs)) for item in items]
        return ScoredHandle(parts=((scored,),), summaries=rollouts.summaries, policy_version=rollouts.policy_version)

    def begin_score(self, rollouts: RolloutHandle, payload: TeacherPayload) -> Callable[[], ScoredHandle]:
        self.events.append("asked the teacher about " + names_in(rollouts))
        return partial(self.score, rollouts, payload)

    def begin_rewards(self, rollouts: RolloutHandle, prompts: Sequence[Prompt]) -> Callable[[], list[float]]:
        self.events.append("asked the verifier about " + names_in(rollouts))
        return partial(self.rewards, rollouts, prompts)

    def score_reference(self, batch: ScoredHandle) -> ScoredHandle:
        scored = [
            replace(item, reference_logprobs=item.rollout.rollout_logprobs - 1)
            for item in to_train_on(batch.parts[0][0], None)
        ]
        return replace(batch, parts=((scored,),))

    def phase(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def count_train_rewards(self, num_rewards: int) -> None:
        self.num_counted += num_rewards


def names_in(rollouts: RolloutHandle) -> str:
    return "".join(dict.fromkeys(summary.prompt_id for summary in rollouts.summaries))


def roles(stage: Stage, **absent: None) -> Roles:
    others = dict.fromkeys(("learner", "publisher", "evaluator", "accelerator"))
    played = dict.fromkeys(("prompts", "sampler", "teacher", "reference", "verifier", "tracker"), stage)
    return Roles(**{**others, **played, **absent})


def config(prompts_per_step: int, *, is_dynamic: bool, max_rounds: int = 10) -> RunConfig:
    return RunConfig(
        algo=AlgoConfig(name=AlgorithmName.dapo, dynamic_sampling=is_dynamic, max_sampling_rounds=max_rounds),
        rollout=RolloutConfig(prompts_per_step=prompts_per_step, samples_per_prompt=2),
    )


def gathered(
    stage: Stage,
    needs: AlgorithmNeeds = REWARDS,
    *,
    is_dynamic: bool = True,
    state: RunState | None = None,
    max_rounds: int = 10,
    **absent: None,
) -> Gathered:
    settings = config(len(stage.batches[0]), is_dynamic=is_dynamic, max_rounds=max_rounds)
    return gather(settings, roles(stage, **absent), needs, state or RunState(), PolicyVersion(step=0))


def trained_on(result: Gathered) -> list[ScoredRollout]:
    """What the learner makes of the batches."""
    items = [item for batch in result.batches for piece in batch.parts[0] for item in piece]
    return to_train_on(items, rewards_of(result.batches))


def names(result: Gathered) -> list[str]:
    return [item.rollout.prompt_id for item in trained_on(result)]


def test_without_dynamic_sampling_one_batch_is_kept_whole_with_its_rewards() -> None:
    stage = Stage(["abc"], {"a": RIGHT, "b": WRONG})
    result = gathered(stage, is_dynamic=False)
    assert names(result) == list("aabbcc")
    assert [item.reward for item in trained_on(result)] == [1, 1, 0, 0, 1, 0]
    assert len(stage.requests) == 1


def test_dynamic_sampling_keeps_the_first_groups_that_disagree_as_many_as_were_wanted() -> None:
    # b of the first batch; d, e and f of the second, of which the last is one too many.
    stage = Stage(["abc", "def", "ghi"], {"a": RIGHT, "c": WRONG})
    result = gathered(stage)
    assert names(result) == list("bbddee")
    assert [item.reward for item in trained_on(result)] == [1, 0] * 3


def test_a_batch_that_suffices_is_the_only_one() -> None:
    stage = Stage(["abc", "def"])
    assert names(gathered(stage)) == list("aabbcc")
    assert stage.positions == [0]


def test_all_generated_tokens_count_those_of_groups_that_are_dropped_too() -> None:
    # Three batches of three prompts with responses of one and two tokens.
    stage = Stage(["abc", "def", "ghi"], dict.fromkeys("abcdef", RIGHT))
    result = gathered(stage)
    assert result.num_generated_tokens == 3 * 3 * (1 + 2)
    assert stage.num_counted == stage.num_verified == 18  # verifier calls, likewise
    assert result.metrics["response_len"] == 1.5
    assert result.metrics["truncated_fraction"] == 0.5


def test_metrics_speak_of_everything_that_was_sampled() -> None:
    # Scores: a 2 of 2, b 0 of 2, c to f one of 2 each: 6 of 12 right, 4 of 6 groups disagree.
    metrics = gathered(Stage(["abc", "def"], {"a": RIGHT, "b": WRONG})).metrics
    assert metrics["reward"] == 0.5
    assert metrics["informative_fraction"] == pytest.approx(4 / 6)


def test_the_stream_advances_by_the_batches_that_were_taken() -> None:
    stage = Stage(["abc", "def", "ghi"], dict.fromkeys("abdeg", WRONG))
    result = gathered(stage, state=RunState(step=4, data_position=3, num_generated_tokens=100))
    assert stage.positions == [3, 4, 5]
    state = after_update(RunState(step=4, data_position=3, num_generated_tokens=100), result)
    assert (state.step, state.data_position, state.num_generated_tokens) == (5, 6, 100 + 27)


def test_no_prompt_is_sampled_twice_in_one_step() -> None:
    # A second epoch begins within the step and brings a and b back.
    stage = Stage(["abc", "bad", "cea"], dict.fromkeys("abc", RIGHT))
    with pytest.raises(RolloutError):
        gathered(stage, max_rounds=3)
    assert [[prompt.prompt_id for prompt in request.prompts] for request in stage.requests] == [
        ["a", "b", "c"],
        ["d"],
        ["e"],
    ]


def test_a_batch_without_a_new_prompt_counts_as_taken_and_is_not_sampled() -> None:
    stage = Stage(["ab", "ba", "cd"], {"a": RIGHT, "c": MIXED, "b": MIXED})
    result = gathered(stage)
    assert names(result) == list("bbcc")
    assert len(stage.requests) == 2
    assert result.num_prompt_batches == 3


def test_when_rounds_run_out_the_error_has_the_numbers_and_the_remedies() -> None:
    stage = Stage(["abc"], {"a": RIGHT, "b": WRONG})
    with pytest.raises(RolloutError) as raised:
        gathered(stage, state=RunState(step=6), max_rounds=4)
    message = str(raised.value)
    assert "step 7: 4 batches of 3 prompts gave 1 groups" in message and "3 wanted" in message
    assert "algo.max_sampling_rounds" in message and "algo.dynamic_sampling=false" in message
    assert "\n" not in message


def test_every_round_has_seeds_of_its_own_and_a_step_always_the_same() -> None:
    def seeds(is_dynamic: bool, step: int) -> list[int]:
        stage = Stage(["ab", "cd", "ef"], dict.fromkeys("abcd", WRONG))
        gathered(stage, is_dynamic=is_dynamic, state=RunState(step=step))
        return [request.seed for request in stage.requests]

    assert len(set(seeds(True, 5) + seeds(True, 6))) == 6
    assert seeds(True, 5) == seeds(True, 5)
    assert seeds(True, 5)[:1] == seeds(False, 5)  # the first round is what there would be without


def test_scores_that_agree_but_for_rounding_do_not_disagree() -> None:
    stage = Stage(["ab", "cd"], {"a": (0.1 + 0.2, 0.3)})
    assert names(gathered(stage)) == list("bbcc")


def test_only_what_is_needed_is_asked_for() -> None:
    stage = Stage(["abc"])
    result = gathered(stage, AlgorithmNeeds(teacher=TeacherPayload.SAMPLED), is_dynamic=False)
    assert stage.num_verified == 0
    assert all(item.teacher is not None for item in trained_on(result))
    assert all(item.reward is None and item.reference_logprobs is None for item in trained_on(result))
    assert "reward" not in result.metrics


def test_teacher_reference_and_rewards_meet_at_the_same_response() -> None:
    needs = AlgorithmNeeds(teacher=TeacherPayload.SAMPLED, rewards=True, reference=True)
    (first, second, *_) = trained_on(gathered(Stage(["abc"]), needs))
    assert first.reward == 1.0 and second.reward == 0.0
    for item in (first, second):
        assert item.teacher is not None and item.teacher.sampled is not None
        assert item.reference_logprobs is not None
        assert item.reference_logprobs.tolist() == [-1.0] * item.rollout.response_len


def test_teacher_and_verifier_are_asked_about_a_piece_before_the_next_is_finished() -> None:
    stage = Stage(["abc"], finished=[1, 2, 0])
    gathered(stage, AlgorithmNeeds(teacher=TeacherPayload.SAMPLED, rewards=True), is_dynamic=False)
    assert stage.events == [
        event
        for name in "bca"
        for event in (f"sampled {name}", f"asked the teacher about {name}", f"asked the verifier about {name}")
    ]


def test_answers_are_waited_for_in_the_order_of_asking_lest_who_is_at_another_piece_seems_to_hang() -> None:
    stage = Stage(["abc"], finished=[1, 2, 0])
    gathered(stage, AlgorithmNeeds(teacher=TeacherPayload.SAMPLED, rewards=True), is_dynamic=False)
    assert stage.waited == [*"bca", *"bca"]  # rewards, then the teacher's scores


@pytest.mark.parametrize("is_dynamic", [False, True])
def test_pieces_are_trained_on_in_the_order_of_the_prompts_whichever_is_finished_first(is_dynamic: bool) -> None:
    # With dynamic sampling the first batch, whose responses are all right, is not trained on.
    def result(finished: Sequence[int] | None) -> Gathered:
        stage = Stage(["xyz", "abc"], {**dict.fromkeys("xyz", RIGHT), "b": (0.0, 1.0)}, finished=finished)
        return gathered(stage, AlgorithmNeeds(teacher=TeacherPayload.SAMPLED, rewards=True), is_dynamic=is_dynamic)

    whole, cut = result(None), result([2, 0, 1])
    assert names(cut) == names(whole) == list("aabbcc" if is_dynamic else "xxyyzz")
    assert [item.reward for item in trained_on(cut)] == [item.reward for item in trained_on(whole)]
    assert cut.rollouts.summaries == whole.rollouts.summaries
    assert cut.metrics == whole.metrics


def test_a_recording_which_has_no_verifier_is_replayed_as_it_was_kept() -> None:
    stage = Stage(["abc", "def"], dict.fromkeys("abcdef", RIGHT))
    result = gathered(stage, verifier=None)
    assert len(stage.requests) == 1
    assert result.batches[0].rewards is None


@pytest.mark.parametrize("make", [lambda stage: gathered(stage), lambda stage: gathered(stage, is_dynamic=False)])
def test_rollouts_for_people_are_of_the_first_batch(make: Callable[[Stage], Gathered]) -> None:
    result = make(Stage(["ab", "cd"], {"a": RIGHT}))
    assert [summary.prompt_id for summary in result.rollouts.summaries] == list("aabb")

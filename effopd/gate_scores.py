"""What teacher, learner and verifier say of responses to held-out prompts, and the score that follows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from effopd.evaluate import mean_by_prompt
from effopd.roles import Learner, Teacher, Verifier
from effopd.types import (
    GateScore,
    KLSum,
    Prompt,
    RolloutHandle,
    RolloutSummary,
    ScoredHandle,
    TeacherPayload,
)


class Measure(StrEnum):
    """What the value of a score is."""

    ACCURACY = "accuracy"
    REVERSE_KL = "reverse_kl"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredResponse:
    """One response, with what is known of it."""

    summary: RolloutSummary
    reward: float | None
    reverse_kl: float | None
    """Sum over its tokens, nats: exact where that was asked for, else the sampled tokens' estimate."""


def measure(
    rollouts: RolloutHandle,
    prompts: Sequence[Prompt],
    by: Measure,
    *,
    learner: Learner,
    teacher: Teacher | None,
    verifier: Verifier | None,
) -> list[MeasuredResponse]:
    """Measure responses to `prompts` of the weights that the learner holds.

    By reverse KL, a teacher is needed and the KL is exact; by accuracy, a verifier is. The other one is asked too where it
    exists, for the record.
    """
    summaries = rollouts.summaries
    rewards: Sequence[float | None] = [None] * len(summaries)
    reverse_kls: Sequence[float | None] = [None] * len(summaries)
    if verifier is not None:
        rewards = verifier.rewards(rollouts, prompts)
    if by is Measure.REVERSE_KL:
        assert teacher is not None, "a KL gate needs a teacher; config.check sees to it"
        scored = teacher.score(rollouts, TeacherPayload.HIDDEN_STATES)
        reverse_kls = exact_reverse_kl(learner.reverse_kl(scored), scored)
    elif teacher is not None:
        scored = teacher.score(rollouts, TeacherPayload.SAMPLED)
        reverse_kls = [summary.sampled_reverse_kl or 0.0 for summary in scored.summaries]
    return [
        MeasuredResponse(summary=summary, reward=reward, reverse_kl=reverse_kl)
        for summary, reward, reverse_kl in zip(summaries, rewards, reverse_kls, strict=True)
    ]


def measure_again(batches: Iterable[ScoredHandle], learner: Learner) -> list[MeasuredResponse]:
    """Measure the exact reverse KL, under the weights that the learner holds, of responses that have the teacher's hidden
    states already. Nothing is sampled, so the responses are those of other weights."""
    return [
        MeasuredResponse(summary=summary, reward=None, reverse_kl=reverse_kl)
        for batch in batches
        for summary, reverse_kl in zip(batch.summaries, exact_reverse_kl(learner.reverse_kl(batch), batch), strict=True)
    ]


def exact_reverse_kl(sums: Sequence[KLSum], batch: ScoredHandle) -> list[float]:
    """Return the sums in the order of the batch's summaries."""
    by_response = {(item.prompt_id, item.sample_index): item.reverse_kl_sum for item in sums}
    return [by_response[summary.prompt_id, summary.sample_index] for summary in batch.summaries]


def as_score(responses: Sequence[MeasuredResponse], by: Measure) -> GateScore:
    """Return the score of sampled responses, whose value is mean accuracy or minus the reverse KL per response token."""
    summaries = [response.summary for response in responses]
    num_tokens = sum(summary.response_len for summary in summaries)
    rewards = [response.reward for response in responses if response.reward is not None]
    reverse_kls = [response.reverse_kl for response in responses if response.reverse_kl is not None]
    entropies = [summary.sampled_entropy for summary in summaries if summary.sampled_entropy is not None]

    accuracies = mean_by_prompt(summaries, rewards) if rewards else None
    accuracy = None if accuracies is None else sum(accuracies.values()) / len(accuracies)
    match by:
        case Measure.REVERSE_KL:
            value = -sum(reverse_kls) / num_tokens
            means = [-total / summary.response_len for total, summary in zip(reverse_kls, summaries, strict=True)]
            per_prompt = mean_by_prompt(summaries, means)
        case Measure.ACCURACY:
            assert accuracies is not None and accuracy is not None, "no verifier; config.check sees to it"
            value, per_prompt = accuracy, accuracies
    return GateScore(
        value=value,
        per_prompt=per_prompt,
        accuracy=accuracy,
        reverse_kl_per_token=sum(reverse_kls) / num_tokens if reverse_kls else None,
        reverse_kl_per_sequence=sum(reverse_kls) / len(responses) if reverse_kls else None,
        mean_response_len=num_tokens / len(responses),
        num_generated_tokens=num_tokens,
        entropy_per_token=sum(entropies) / num_tokens if entropies else None,
    )

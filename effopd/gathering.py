"""Everything that an update trains on: responses, and what teacher, reference and verifier say of them.

Responses come in pieces, and teacher and verifier are asked about each as soon as it is there. What a piece holds and the order
in which pieces are put together do not depend on which of them was first.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from effopd.config.schema import RunConfig
from effopd.errors import RolloutError
from effopd.handles import as_scored, joined
from effopd.roles import Roles
from effopd.seeds import derive_seed
from effopd.types import (
    AlgorithmNeeds,
    Gathered,
    GenerateRequest,
    PolicyVersion,
    Prompt,
    RolloutHandle,
    RunState,
    ScoredHandle,
)

Rewards = dict[tuple[str, int], float]
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some responses of a batch, and what was asked about them. The answers are waited for once."""

    number: int
    """Its place in the batch."""
    rollouts: RolloutHandle
    scored: Callable[[], ScoredHandle]
    """Where no teacher is needed, as nobody has scored them."""
    rewards: Callable[[], list[float]] | None
    """None where no verifier is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """The responses of one update, before one has waited for teacher and verifier."""

    data_position: int
    """Of the first batch of prompts in the stream."""
    drawn: tuple[tuple[Piece, ...], ...]
    """One per batch of prompts that was not empty; pieces in the order in which they came."""
    num_prompts: int
    """Of all these batches."""
    num_prompt_batches: int
    rewards: Rewards
    """Of all responses, where sampling had to know them: empty without dynamic sampling."""
    kept: tuple[Rewards, ...]
    """Likewise, of those that are trained on, per batch."""


def gather(config: RunConfig, roles: Roles, needs: AlgorithmNeeds, state: RunState, version: PolicyVersion) -> Gathered:
    """Sample, from the weights `version`, and score what the update after `state` trains on.

    With `algo.dynamic_sampling`, batches of prompts are drawn until `rollout.prompts_per_step` groups of responses differ
    in their rewards, and only those are kept. Raises RolloutError when `algo.max_sampling_rounds` do not suffice.
    """
    gathered = score(roles, needs, sample(config, roles, needs, state.step, state.data_position, version))
    roles.tracker.count_train_rewards(gathered.num_rewards)
    return gathered


def sample(
    config: RunConfig, roles: Roles, needs: AlgorithmNeeds, step: int, data_position: int, version: PolicyVersion
) -> Sampled:
    """Sample what the update after `step` trains on: return when samplers are done. Errors are those of `gather`."""
    is_dynamic = config.algo.dynamic_sampling and roles.verifier is not None  # a recording holds what was kept
    wanted = config.rollout.prompts_per_step
    seen: set[str] = set()
    all_rewards: Rewards = {}
    kept: list[Rewards] = []
    drawn: list[tuple[Piece, ...]] = []
    num_rounds = 0
    while num_rounds == 0 or (is_dynamic and _num_groups(kept) < wanted):
        if num_rounds == config.algo.max_sampling_rounds:
            raise RolloutError(
                f"step {step + 1}: {num_rounds} batches of {wanted} prompts gave {_num_groups(kept)} groups whose "
                f"responses differ in reward, of the {wanted} wanted: the task is too easy or too hard for the policy by "
                "now; raise algo.max_sampling_rounds or rollout.samples_per_prompt, lower rollout.prompts_per_step, or set "
                "algo.dynamic_sampling=false"
            )
        batch = roles.prompts.take(data_position + num_rounds, wanted)
        prompts = tuple(prompt for prompt in batch if prompt.prompt_id not in seen)
        num_rounds += 1
        if not prompts:  # the stream has begun anew within this step
            continue
        seen.update(prompt.prompt_id for prompt in prompts)
        request = training_request(config, prompts, step, num_rounds - 1)
        drawn.append(_drawn(roles, needs, request, version))
        if is_dynamic:
            rewards = _rewards(roles, drawn[-1])
            all_rewards |= rewards
            kept.append(_informative(rewards, wanted - _num_groups(kept)))
    return Sampled(
        data_position=data_position,
        drawn=tuple(drawn),
        num_prompts=len(seen),
        num_prompt_batches=num_rounds,
        rewards=all_rewards,
        kept=tuple(kept),
    )


def score(roles: Roles, needs: AlgorithmNeeds, sampled: Sampled) -> Gathered:
    """Wait for what verifier and teacher say, and ask the reference, where `needs` names them: all that needs no sampler."""
    all_rewards, kept = sampled.rewards, sampled.kept
    if needs.rewards and roles.verifier is not None and not kept:
        kept = tuple(_rewards(roles, pieces) for pieces in sampled.drawn)
        all_rewards = {key: reward for rewards in kept for key, reward in rewards.items()}
    batches = []
    for index, pieces in enumerate(sampled.drawn):
        scored = joined(_in_order(pieces, lambda piece: piece.scored()))
        if needs.reference and roles.reference is not None:
            scored = roles.reference.score_reference(scored)
        batches.append(replace(scored, rewards=kept[index]) if kept else scored)
    drawn = [joined(_in_order(pieces, lambda piece: piece.rollouts)) for pieces in sampled.drawn]
    summaries = [summary for rollouts in drawn for summary in rollouts.summaries]
    metrics = {
        "response_len": sum(summary.response_len for summary in summaries) / len(summaries),
        "truncated_fraction": sum(summary.is_truncated for summary in summaries) / len(summaries),
    }
    if all_rewards:
        metrics["reward"] = sum(all_rewards.values()) / len(all_rewards)
        metrics["informative_fraction"] = _num_groups([_informative(all_rewards, None)]) / sampled.num_prompts
    return Gathered(
        rollouts=drawn[0],
        batches=tuple(batches),
        num_prompt_batches=sampled.num_prompt_batches,
        num_generated_tokens=sum(summary.response_len for summary in summaries),
        num_rewards=len(all_rewards),
        metrics=metrics,
    )


def training_request(
    config: RunConfig, prompts: Sequence[Prompt], step: int, sampling_round: int = 0
) -> GenerateRequest:
    """Return the request for the rollouts of the update that follows `step`."""
    purpose = "rollout" if sampling_round == 0 else f"rollout, round {sampling_round}"
    return GenerateRequest(
        prompts=tuple(prompts),
        num_samples=config.rollout.samples_per_prompt,
        max_response_len=config.rollout.max_response_len,
        temperature=1.0,
        top_p=1.0,
        seed=derive_seed(config.seed, purpose, step),
    )


def _drawn(roles: Roles, needs: AlgorithmNeeds, request: GenerateRequest, version: PolicyVersion) -> tuple[Piece, ...]:
    """Sample, and ask about every piece when it is there."""
    return tuple(
        _asked_about(roles, needs, number, rollouts, request.prompts)
        for number, rollouts in roles.sampler.stream(request, version)
    )


def _in_order(pieces: Sequence[Piece], answer: Callable[[Piece], Answer]) -> list[Answer]:
    """Return what is known of every piece, in the order of the prompts.

    It is waited for in the order of asking, which is that of answering: whoever is waited for would otherwise seem silent
    while it works at the others.
    """
    answers = {piece.number: answer(piece) for piece in pieces}
    return [answers[number] for number in sorted(answers)]


def _asked_about(
    roles: Roles, needs: AlgorithmNeeds, number: int, rollouts: RolloutHandle, prompts: Sequence[Prompt]
) -> Piece:
    """Ask teacher and verifier about `rollouts`, which answer some of `prompts`, and do not wait for them."""
    scored, rewards = partial(as_scored, rollouts), None
    if needs.teacher is not None:
        assert roles.teacher is not None
        scored = roles.teacher.begin_score(rollouts, needs.teacher)
    if needs.rewards and roles.verifier is not None:
        answered = {summary.prompt_id for summary in rollouts.summaries}
        rewards = roles.verifier.begin_rewards(rollouts, [prompt for prompt in prompts if prompt.prompt_id in answered])
    return Piece(number=number, rollouts=rollouts, scored=scored, rewards=rewards)


def _rewards(roles: Roles, pieces: Sequence[Piece]) -> Rewards:
    def rewards_of(piece: Piece) -> Rewards:
        assert piece.rewards is not None, "there is a verifier, and rewards are needed"
        with roles.tracker.phase("verify"):
            scores = piece.rewards()
        keys = [(summary.prompt_id, summary.sample_index) for summary in piece.rollouts.summaries]
        return dict(zip(keys, scores, strict=True))

    return {key: reward for of_piece in _in_order(pieces, rewards_of) for key, reward in of_piece.items()}


def _informative(rewards: Rewards, max_groups: int | None) -> Rewards:
    """Return the rewards of the first `max_groups` prompts whose responses do not all have the same one."""
    groups: defaultdict[str, Rewards] = defaultdict(dict)
    for key, reward in rewards.items():
        groups[key[0]][key] = reward
    informative = [group for group in groups.values() if not math.isclose(min(group.values()), max(group.values()))]
    return {key: reward for group in informative[:max_groups] for key, reward in group.items()}


def _num_groups(rewards: Sequence[Rewards]) -> int:
    return len({prompt_id for batch in rewards for prompt_id, _ in batch})

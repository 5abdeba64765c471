"""Everything that an update trains on: responses, and what teacher, reference and verifier say of them."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from effopd.config.schema import RunConfig
from effopd.errors import RolloutError
from effopd.handles import as_scored
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
)

Rewards = dict[tuple[str, int], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """The responses of one update, before teacher and reference have seen them."""

    data_position: int
    """Of the first batch of prompts in the stream."""
    drawn: tuple[RolloutHandle, ...]
    """One per batch of prompts that was not empty."""
    prompts: tuple[tuple[Prompt, ...], ...]
    """Likewise."""
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
    gathered = score(roles, needs, sample(config, roles, state.step, state.data_position, version))
    roles.tracker.count_train_rewards(gathered.num_rewards)
    return gathered


def sample(config: RunConfig, roles: Roles, step: int, data_position: int, version: PolicyVersion) -> Sampled:
    """Sample what the update after `step` trains on: all that needs samplers. Errors are those of `gather`."""
    is_dynamic = config.algo.dynamic_sampling and roles.verifier is not None  # a recording holds what was kept
    wanted = config.rollout.prompts_per_step
    seen: set[str] = set()
    all_rewards: Rewards = {}
    kept: list[Rewards] = []
    drawn: list[RolloutHandle] = []
    asked: list[tuple[Prompt, ...]] = []
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
        drawn.append(roles.sampler.generate(request, version))
        asked.append(prompts)
        if is_dynamic:
            rewards = _rewards(roles, drawn[-1], prompts)
            all_rewards |= rewards
            kept.append(_informative(rewards, wanted - _num_groups(kept)))
    return Sampled(
        data_position=data_position,
        drawn=tuple(drawn),
        prompts=tuple(asked),
        num_prompt_batches=num_rounds,
        rewards=all_rewards,
        kept=tuple(kept),
    )


def score(roles: Roles, needs: AlgorithmNeeds, sampled: Sampled) -> Gathered:
    """Ask verifier, teacher and reference for what `needs` names: all that needs no sampler."""
    all_rewards, kept = sampled.rewards, sampled.kept
    if needs.rewards and roles.verifier is not None and not kept:
        kept = tuple(_rewards(roles, *batch) for batch in zip(sampled.drawn, sampled.prompts, strict=True))
        all_rewards = {key: reward for rewards in kept for key, reward in rewards.items()}
    batches = []
    for index, rollouts in enumerate(sampled.drawn):
        scored = as_scored(rollouts)
        if needs.teacher is not None:
            assert roles.teacher is not None
            scored = roles.teacher.score(rollouts, needs.teacher)
        if needs.reference and roles.reference is not None:
            scored = roles.reference.score_reference(scored)
        batches.append(replace(scored, rewards=kept[index]) if kept else scored)
    summaries = [summary for rollouts in sampled.drawn for summary in rollouts.summaries]
    metrics = {
        "response_len": sum(summary.response_len for summary in summaries) / len(summaries),
        "truncated_fraction": sum(summary.is_truncated for summary in summaries) / len(summaries),
    }
    if all_rewards:
        num_prompts = sum(len(prompts) for prompts in sampled.prompts)
        metrics["reward"] = sum(all_rewards.values()) / len(all_rewards)
        metrics["informative_fraction"] = _num_groups([_informative(all_rewards, None)]) / num_prompts
    return Gathered(
        rollouts=sampled.drawn[0],
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


def _rewards(roles: Roles, rollouts: RolloutHandle, prompts: Sequence[Prompt]) -> Rewards:
    assert roles.verifier is not None
    with roles.tracker.phase("verify"):
        rewards = roles.verifier.rewards(rollouts, prompts)
    keys = [(summary.prompt_id, summary.sample_index) for summary in rollouts.summaries]
    return dict(zip(keys, rewards, strict=True))


def _informative(rewards: Rewards, max_groups: int | None) -> Rewards:
    """Return the rewards of the first `max_groups` prompts whose responses do not all have the same one."""
    groups: defaultdict[str, Rewards] = defaultdict(dict)
    for key, reward in rewards.items():
        groups[key[0]][key] = reward
    informative = [group for group in groups.values() if not math.isclose(min(group.values()), max(group.values()))]
    return {key: reward for group in informative[:max_groups] for key, reward in group.items()}


def _num_groups(rewards: Sequence[Rewards]) -> int:
    return len({prompt_id for batch in rewards for prompt_id, _ in batch})

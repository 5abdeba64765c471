"""The surrogates that the algorithms' files state, written again from the formulas, for plain numbers and one token at a
time. Nothing here is imported from `effopd.algorithms`."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from toy_world import Group, Outcome, Response, World


@dataclass
class Bounds:
    """Clipping and truncation, and how often each branch was taken."""

    low: float = 0.2
    high: float = 0.2
    dual: float = 3.0
    cap: float = 5.0

    def __post_init__(self) -> None:
        self.taken: dict[str, int] = dict.fromkeys(("inside", "above", "below", "dual", "capped"), 0)

    def token_loss(self, logprob: Tensor, old: float, sampled: float, advantage: float) -> Tensor:
        """Minus the truncated weight times the clipped objective of one token."""
        weight = math.exp(old - sampled)
        if weight > self.cap:
            weight = self.cap
            self.taken["capped"] += 1
        ratio = (logprob - old).exp()
        branch = "inside"
        if advantage >= 0 and float(ratio) > 1 + self.high:
            ratio, branch = torch.tensor(1 + self.high), "above"
        elif advantage < 0 and float(ratio) > self.dual:
            ratio, branch = torch.tensor(self.dual), "dual"
        elif advantage < 0 and float(ratio) < 1 - self.low:
            ratio, branch = torch.tensor(1 - self.low), "below"
        self.taken[branch] += 1
        return -weight * advantage * ratio


def k3(logprob: Tensor, reference: float) -> Tensor:
    """q / p - 1 - log(q / p)."""
    return (reference - logprob).exp() - 1 - (reference - logprob)


def compared(rewards: list[float]) -> list[float]:
    """Rewards of one group, less their mean, over their sample deviation."""
    mean, deviation = statistics.fmean(rewards), statistics.stdev(rewards)
    return [(reward - mean) / (deviation + 1e-6) for reward in rewards]


def token_losses(
    world: World, bounds: Bounds, prompt: int, response: Response, advantages: list[float], kl_coef: float = 0.0
) -> list[Tensor]:
    """The loss of every token of one response."""
    logprobs = world.logprobs[world.student][prompt, response]
    # On-policy the policy before the update is the policy, as a number.
    old, sampled = world.told(world.old, prompt, response), world.told(world.sampler, prompt, response)
    reference = world.told(world.reference, prompt, response)
    return [
        bounds.token_loss(logprobs[t], old[t], sampled[t], advantages[t]) + kl_coef * k3(logprobs[t], reference[t])
        for t in range(len(response))
    ]


def grpo(world: World, outcome: Outcome, bounds: Bounds, kl_coef: float) -> Tensor:
    """Mean over responses of the mean over their tokens."""
    means = []
    for prompt, group in zip(world.prompts, outcome, strict=True):
        for response, advantage in zip(group, compared(_rewards(world, prompt, group)), strict=True):
            losses = token_losses(world, bounds, prompt, response, [advantage] * len(response), kl_coef)
            means.append(torch.stack(losses).sum() / len(response))
    return torch.stack(means).sum() / len(means)


def dapo(world: World, outcome: Outcome, bounds: Bounds, buffer: int = 0, limit: int = 0) -> Tensor:
    """Mean over the tokens of all responses; rewards less up to 1 for the last `buffer` tokens before `limit`."""
    losses: list[Tensor] = []
    for prompt, group in zip(world.prompts, outcome, strict=True):
        rewards = _rewards(world, prompt, group)
        for index, response in enumerate(group):
            too_long = len(response) - (limit - buffer)
            if buffer and too_long > 0:
                rewards[index] -= too_long / buffer
        for response, advantage in zip(group, compared(rewards), strict=True):
            losses += token_losses(world, bounds, prompt, response, [advantage] * len(response))
    return torch.stack(losses).sum() / len(losses)


def ppo(
    world: World,
    outcome: Outcome,
    bounds: Bounds,
    *,
    value: Callable[[int, Response], float],
    discount: float,
    gae_lambda: float,
    kl_coef: float,
    is_kl_in_reward: bool,
) -> Tensor:
    """Mean over all tokens, with generalised advantages: for every token the sum over the later ones' surprises."""
    losses: list[Tensor] = []
    for prompt, group in zip(world.prompts, outcome, strict=True):
        for response in group:
            length = len(response)
            sampled = world.told(world.sampler, prompt, response)
            reference = world.told(world.reference, prompt, response)
            rewards = [0.0] * (length - 1) + [world.reward(prompt, response)]
            if is_kl_in_reward:
                rewards = [rewards[t] - kl_coef * (sampled[t] - reference[t]) for t in range(length)]
            values = [value(prompt, response[:t]) for t in range(length)] + [0.0]
            surprises = [rewards[t] + discount * values[t + 1] - values[t] for t in range(length)]
            advantages = [
                sum((discount * gae_lambda) ** (later - t) * surprises[later] for later in range(t, length))
                for t in range(length)
            ]
            losses += token_losses(world, bounds, prompt, response, advantages, 0.0 if is_kl_in_reward else kl_coef)
    return torch.stack(losses).sum() / len(losses)


def opd_with_outcome(world: World, outcome: Outcome, bounds: Bounds, reward_coef: float) -> Tensor:
    """Mean over all tokens of the teacher's log-ratio and the compared outcome in one advantage."""
    losses: list[Tensor] = []
    for prompt, group in zip(world.prompts, outcome, strict=True):
        for response, comparison in zip(group, compared(_rewards(world, prompt, group)), strict=True):
            old, teacher = world.told(world.old, prompt, response), world.told(world.teacher, prompt, response)
            advantages = [teacher[t] - old[t] + reward_coef * comparison for t in range(len(response))]
            losses += token_losses(world, bounds, prompt, response, advantages)
    return torch.stack(losses).sum() / len(losses)


def _rewards(world: World, prompt: int, group: Group) -> list[float]:
    return [world.reward(prompt, response) for response in group]

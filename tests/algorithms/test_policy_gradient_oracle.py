"""Every loss made of rewards against gradients that are enumerated: PPO, GRPO, DAPO, and OPD with an outcome.

Two questions. Is a loss the surrogate that its file states? Then its expected gradient over all outcomes of a toy world is
that of the surrogate written by hand. And is it an unbiased policy gradient, where it claims to be? Then that is the
gradient of the expected reward. Losses with a known fault must fail, and sampled gradients must converge.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
import by_hand
from by_hand import Bounds
from toy_world import (
    Outcome,
    Response,
    World,
    expected_gradient,
    is_close,
    loss_of,
    policy_gradient,
    relative_difference,
    stated,
)

from effopd.algorithms.dapo import DAPO
from effopd.algorithms.grpo import GRPO
from effopd.algorithms.opd import OPD
from effopd.algorithms.ppo import PPO
from effopd.algorithms.surrogate import Clipping
from effopd.types import StepTotals

ONE_PROMPT = World()
"""15 responses of 1 to 3 tokens in groups of 2: 225 outcomes."""
THREES = World(max_response_len=2, group_size=3)
"""7 responses in groups of 3: 343 outcomes."""
TWO_PROMPTS = World(vocabulary=2, prompts=(0, 1))
"""4 responses to either prompt in groups of 2: 256 outcomes."""
STALE = World(is_on_policy=False)
STALE_TWO_PROMPTS = World(vocabulary=2, prompts=(0, 1), is_on_policy=False)
WORLDS = {
    "one prompt": ONE_PROMPT,
    "groups of three": THREES,
    "two prompts": TWO_PROMPTS,
    "stale": STALE,
    "stale, two prompts": STALE_TWO_PROMPTS,
}
in_every_world = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)

# Truncated where some weights of the stale worlds are truncated.
CAP = 1.15
SYMMETRIC = Clipping(low=0.2, high=0.2, dual=1.5)
HIGHER = Clipping(low=0.2, high=0.28, dual=1.5)
NEVER = Clipping(low=0.999, high=1e9, dual=1e9)


def bounds_of(clipping: Clipping, cap: float = CAP) -> Bounds:
    return Bounds(clipping.low, clipping.high, clipping.dual, cap)


def ppo(clipping: Clipping = SYMMETRIC, cap: float = CAP, **settings: float | bool) -> PPO:
    chosen = {"kl_coef": 0.0, "is_kl_in_reward": False, "discount": 1.0, "gae_lambda": 1.0, **settings}
    return PPO(clipping, cap, value_clip=0.2, **chosen)


# Is it the surrogate?


@in_every_world
@pytest.mark.parametrize("kl_coef", [0.0, 0.3])
def test_grpo_is_a_mean_over_responses_of_group_normalised_rewards_and_k3(world: World, kl_coef: float) -> None:
    bounds = bounds_of(SYMMETRIC)
    expected = expected_gradient(world, lambda outcome: by_hand.grpo(world, outcome, bounds, kl_coef))
    assert is_close(expected_gradient(world, stated(world, GRPO(SYMMETRIC, CAP, kl_coef))), expected)


@in_every_world
@pytest.mark.parametrize("buffer", [0, 1, 2])
def test_dapo_is_a_mean_over_tokens_with_clip_higher_and_punished_length(world: World, buffer: int) -> None:
    # A limit beyond the longest response is a limit like any other.
    limit, bounds = max(3, world.max_response_len), bounds_of(HIGHER)
    expected = expected_gradient(world, lambda outcome: by_hand.dapo(world, outcome, bounds, buffer, limit))
    algorithm = DAPO(HIGHER, CAP, limit, buffer)
    assert is_close(expected_gradient(world, stated(world, algorithm)), expected)


@in_every_world
@pytest.mark.parametrize(("discount", "gae_lambda"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.7), (0.8, 0.0)])
@pytest.mark.parametrize(("kl_coef", "is_kl_in_reward"), [(0.0, False), (0.3, False), (0.3, True)])
def test_ppo_is_a_mean_over_tokens_of_generalised_advantages_with_kl_in_loss_or_reward(
    world: World, discount: float, gae_lambda: float, kl_coef: float, is_kl_in_reward: bool
) -> None:
    settings = {
        "discount": discount,
        "gae_lambda": gae_lambda,
        "kl_coef": kl_coef,
        "is_kl_in_reward": is_kl_in_reward,
    }
    # A group means nothing to PPO: one response a prompt is enough to enumerate.
    world = replace(world, group_size=1)
    bounds = bounds_of(SYMMETRIC)
    expected = expected_gradient(
        world, lambda outcome: by_hand.ppo(world, outcome, bounds, value=world.value, **settings)
    )
    assert is_close(expected_gradient(world, stated(world, ppo(**settings), world.value)), expected)


@in_every_world
@pytest.mark.parametrize("reward_coef", [0.0, 0.5])
def test_opd_adds_the_compared_outcome_to_the_log_ratio(world: World, reward_coef: float) -> None:
    bounds = bounds_of(SYMMETRIC)
    expected = expected_gradient(world, lambda outcome: by_hand.opd_with_outcome(world, outcome, bounds, reward_coef))
    assert is_close(expected_gradient(world, stated(world, OPD(SYMMETRIC, CAP, reward_coef))), expected)


@pytest.mark.parametrize("clipping", [SYMMETRIC, HIGHER])
def test_the_stale_world_meets_every_branch_of_the_clipping(clipping: Clipping) -> None:
    bounds = bounds_of(clipping)
    expected_gradient(STALE, lambda outcome: by_hand.dapo(STALE, outcome, bounds))
    assert all(bounds.taken.values()), bounds.taken


# Is it a policy gradient?


def reward_gradient(world: World) -> Tensor:
    return policy_gradient(world, world.reward)


def with_fixed_denominator(world: World, algorithm: PPO, value: Callable[[int, Response], float]) -> Tensor:
    """The expected gradient of minus the loss of one response, without its random number of tokens."""
    world = replace(world, group_size=1)
    return -expected_gradient(world, stated(world, algorithm, value, StepTotals(num_tokens=1, num_sequences=1)))


def test_ppo_with_a_critic_of_zeros_is_the_gradient_of_the_expected_reward() -> None:
    gradient = with_fixed_denominator(ONE_PROMPT, ppo(), lambda prompt, prefix: 0.0)
    assert is_close(gradient, reward_gradient(ONE_PROMPT))


def test_with_lambda_1_a_critic_however_wrong_changes_no_expected_gradient() -> None:
    gradient = with_fixed_denominator(ONE_PROMPT, ppo(), ONE_PROMPT.value)
    assert is_close(gradient, reward_gradient(ONE_PROMPT))


@pytest.mark.parametrize("gae_lambda", [0.0, 0.6])
def test_below_lambda_1_the_gradient_is_as_good_as_the_critic(gae_lambda: float) -> None:
    exact = reward_gradient(ONE_PROMPT)
    algorithm = ppo(gae_lambda=gae_lambda)
    assert is_close(with_fixed_denominator(ONE_PROMPT, algorithm, ONE_PROMPT.true_value), exact)
    assert relative_difference(with_fixed_denominator(ONE_PROMPT, algorithm, ONE_PROMPT.value), exact) > 0.1


def test_a_critic_one_token_late_is_not_a_critic() -> None:
    # What a wrong shift would do: the value of the prefix that ends *with* the token is no baseline for it.
    responses = ONE_PROMPT.responses

    def late(prompt: int, prefix: Response) -> float:
        longer = [response[: len(prefix) + 1] for response in responses if response[: len(prefix)] == prefix]
        return ONE_PROMPT.true_value(prompt, longer[0])

    gradient = with_fixed_denominator(ONE_PROMPT, ppo(gae_lambda=0.0), late)
    assert relative_difference(gradient, reward_gradient(ONE_PROMPT)) > 0.1


def test_the_kl_in_the_reward_descends_the_reverse_kl_to_the_reference() -> None:
    world, kl_coef = ONE_PROMPT, 0.3

    def objective(prompt: int, response: Response) -> Tensor:
        log_ratio = world.logprobs[world.student][prompt, response] - world.logprobs[world.reference][prompt, response]
        return world.reward(prompt, response) - kl_coef * log_ratio.sum()

    gradient = with_fixed_denominator(world, ppo(kl_coef=kl_coef, is_kl_in_reward=True), world.value)
    assert is_close(gradient, policy_gradient(world, objective))


def test_importance_weights_undo_the_sampler_s_error_and_the_policy_s_age_for_single_tokens() -> None:
    # For one token the weight times the ratio is the whole likelihood ratio; the cap and the clipping are out of the way.
    world = World(vocabulary=5, max_response_len=1, is_on_policy=False)
    gradient = with_fixed_denominator(world, ppo(NEVER, cap=1e9), world.value)
    assert is_close(gradient, reward_gradient(world))
    truncated = with_fixed_denominator(world, ppo(NEVER, cap=1.0), world.value)
    assert relative_difference(truncated, reward_gradient(world)) > 0.02


def test_grpo_is_not_the_gradient_of_the_expected_reward() -> None:
    # The deviation reweights: what its file says of itself.
    gradient = -expected_gradient(TWO_PROMPTS, stated(TWO_PROMPTS, GRPO(SYMMETRIC, CAP, 0.0)))
    exact = reward_gradient(TWO_PROMPTS)
    best = (gradient @ exact) / (gradient @ gradient) * gradient
    assert relative_difference(best, exact) > 0.05  # not even up to a factor


# Known faults. Each is plausible, and each must be rejected.


def test_the_oracle_rejects_rewards_normalised_over_the_batch() -> None:
    world, bounds = TWO_PROMPTS, bounds_of(SYMMETRIC)
    algorithm = GRPO(SYMMETRIC, CAP, 0.0)

    def loss(outcome: Outcome) -> Tensor:
        batch = world.batch(outcome)
        batch = algorithm.prepare(replace(batch, group_index=torch.zeros_like(batch.group_index)))
        return loss_of(world, algorithm, batch, world.totals(outcome))

    expected = expected_gradient(world, lambda outcome: by_hand.grpo(world, outcome, bounds, 0.0))
    assert relative_difference(expected_gradient(world, loss), expected) > 0.1


def test_the_oracle_rejects_a_mean_per_micro_batch() -> None:
    # One response to a micro-batch, divided by its own tokens: DAPO's token mean has become GRPO's sequence mean.
    world, bounds, algorithm = ONE_PROMPT, bounds_of(HIGHER), DAPO(HIGHER, CAP, 3, 0)

    def loss(outcome: Outcome) -> Tensor:
        batch = algorithm.prepare(world.batch(outcome))
        shares = []
        for row, length in enumerate(batch.response_mask.sum(-1).tolist()):
            fields = ("token_ids", "attention_mask", "response_mask", "rollout_logprobs", "advantages")
            micro_batch = replace(batch, **{name: getattr(batch, name)[row : row + 1] for name in fields})
            shares.append(loss_of(world, algorithm, micro_batch, StepTotals(num_tokens=length, num_sequences=1)))
        return torch.stack(shares).mean()

    expected = expected_gradient(world, lambda outcome: by_hand.dapo(world, outcome, bounds))
    assert relative_difference(expected_gradient(world, loss), expected) > 0.05
    as_grpo = expected_gradient(world, lambda outcome: by_hand.grpo(world, outcome, bounds, 0.0))
    assert is_close(expected_gradient(world, loss), as_grpo)


@pytest.mark.parametrize(("is_global", "least", "most"), [(True, 0.0, 1e-5), (False, 0.1, 100.0)])
def test_the_oracle_rejects_advantages_whitened_per_micro_batch(is_global: bool, least: float, most: float) -> None:
    world, bounds, algorithm = ONE_PROMPT, bounds_of(SYMMETRIC), ppo()

    def whitened(advantages: Tensor) -> Tensor:
        return (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)

    def loss(outcome: Outcome) -> Tensor:
        batch = algorithm.prepare(world.batch(outcome, world.value))
        mask, advantages = batch.response_mask, batch.advantages
        assert advantages is not None
        result = torch.zeros_like(advantages)
        if is_global:
            result[mask] = whitened(advantages[mask])
        else:
            for row in range(len(mask)):
                result[row, mask[row]] = whitened(advantages[row, mask[row]])
        return loss_of(world, algorithm, replace(batch, advantages=result), world.totals(outcome))

    def expected(outcome: Outcome) -> Tensor:
        # With lambda 1 a token's advantage is the reward less the value of what precedes it.
        (group,) = outcome
        advantages = [world.reward(1, y) - world.value(1, y[:t]) for y in group for t in range(len(y))]
        mean = sum(advantages) / len(advantages)
        deviation = (sum((advantage - mean) ** 2 for advantage in advantages) / len(advantages)) ** 0.5
        rest = iter((advantage - mean) / (deviation + 1e-8) for advantage in advantages)
        losses = [loss for y in group for loss in by_hand.token_losses(world, bounds, 1, y, [next(rest) for _ in y])]
        return torch.stack(losses).sum() / len(losses)

    distance = relative_difference(expected_gradient(world, loss), expected_gradient(world, expected))
    assert least <= distance <= most


def test_the_oracle_rejects_the_policy_before_the_update_in_place_of_the_sampler() -> None:
    # The weight would be 1 everywhere, and the sampler's error uncorrected.
    world, bounds, algorithm = STALE, bounds_of(HIGHER), DAPO(HIGHER, CAP, 3, 0)

    def loss(outcome: Outcome) -> Tensor:
        batch = algorithm.prepare(world.batch(outcome))
        batch = replace(batch, rollout_logprobs=batch.old_logprobs)
        return loss_of(world, algorithm, batch, world.totals(outcome))

    expected = expected_gradient(world, lambda outcome: by_hand.dapo(world, outcome, bounds))
    assert relative_difference(expected_gradient(world, loss), expected) > 0.02

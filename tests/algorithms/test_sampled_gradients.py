"""Sampled steps against enumerated ones: the mean gradient of many steps converges to that of the surrogate by hand.

How close it has to be is not chosen: the standard error of the mean is computed from the same enumeration.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
import by_hand
from by_hand import Bounds
from toy_world import Group, Outcome, World, expected_gradient, outcome_gradients, stated

from effopd.algorithms.build import Algorithm
from effopd.algorithms.dapo import DAPO
from effopd.algorithms.grpo import GRPO
from effopd.algorithms.opd import OPD
from effopd.algorithms.ppo import PPO
from effopd.algorithms.surrogate import Clipping
from effopd.config.schema import AlgoConfig, AlgorithmName, RolloutConfig, RunConfig
from effopd.gathering import gather
from effopd.handles import summarise, to_train_on
from effopd.roles import Roles
from effopd.seeds import sample_seed
from effopd.types import (
    AlgorithmNeeds,
    GenerateRequest,
    PolicyVersion,
    Prompt,
    Rollout,
    RolloutHandle,
    RunState,
)

STALE = World(is_on_policy=False)
ON_POLICY = World()
CLIPPING, CAP = Clipping(low=0.2, high=0.28, dual=1.5), 1.15
GAE = {"discount": 0.9, "gae_lambda": 0.7, "kl_coef": 0.3, "is_kl_in_reward": True}

Case = tuple[Algorithm, Callable[[World, Outcome], Tensor]]


def bounds() -> Bounds:
    return Bounds(CLIPPING.low, CLIPPING.high, CLIPPING.dual, CAP)


CASES: dict[str, Case] = {
    "ppo": (
        PPO(CLIPPING, CAP, value_clip=0.2, **GAE),
        lambda world, outcome: by_hand.ppo(world, outcome, bounds(), value=world.value, **GAE),
    ),
    "grpo": (GRPO(CLIPPING, CAP, 0.3), lambda world, outcome: by_hand.grpo(world, outcome, bounds(), 0.3)),
    "dapo": (DAPO(CLIPPING, CAP, 3, 2), lambda world, outcome: by_hand.dapo(world, outcome, bounds(), 2, 3)),
    "opd": (OPD(CLIPPING, CAP, 0.5), lambda world, outcome: by_hand.opd_with_outcome(world, outcome, bounds(), 0.5)),
}


def assert_converged(mean: Tensor, expected: Tensor, gradients: Tensor, probabilities: Tensor, num_steps: int) -> None:
    """The squared distance of a mean of `num_steps` draws has the expectation trace(covariance) / num_steps."""
    trace = (probabilities[:, None] * (gradients - expected).square()).sum()
    standard_error = (trace / num_steps).sqrt()
    assert (mean - expected).norm() < 2 * standard_error
    assert 2 * standard_error < 0.2 * expected.norm(), "too few steps to tell anything"


@pytest.mark.parametrize("num_steps", [20_000, 2_000_000])
@pytest.mark.parametrize("world", [ON_POLICY, STALE], ids=["on-policy", "stale"])
@pytest.mark.parametrize("name", CASES)
def test_sampled_gradients_converge_to_the_enumerated_surrogate(name: str, world: World, num_steps: int) -> None:
    algorithm, surrogate = CASES[name]
    table = outcome_gradients(world, stated(world, algorithm, world.value if name == "ppo" else None))
    gradients = torch.stack(list(table.values()))
    probabilities = torch.tensor([probability for _, probability in world.outcomes()], dtype=torch.float64)
    drawn = torch.multinomial(probabilities, num_steps, replacement=True, generator=torch.Generator().manual_seed(0))
    mean = gradients[drawn.unique()].T @ (torch.bincount(drawn)[drawn.unique()] / num_steps).double()
    expected = expected_gradient(world, lambda outcome: surrogate(world, outcome))
    assert_converged(mean, expected, gradients, probabilities, num_steps)


# Dynamic sampling, by the code that gathers


class ToyRoles:
    """An endless stream of the world's one prompt under ever new names, its sampler and its verifier."""

    def __init__(self, world: World) -> None:
        self.world = world
        (self.prompt,) = world.prompts
        self.probabilities = torch.tensor([world.probability(self.prompt, y) for y in world.responses])

    def take(self, position: int, num_prompts: int) -> tuple[Prompt, ...]:
        return tuple(
            Prompt(prompt_id=f"{position}-{index}", token_ids=(self.prompt,), text="", answer="")
            for index in range(num_prompts)
        )

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        rollouts = []
        for prompt in request.prompts:
            for index in range(request.num_samples):
                seed = sample_seed(request.seed, prompt.prompt_id, index)
                drawn = torch.multinomial(self.probabilities, 1, generator=torch.Generator().manual_seed(seed))
                rollouts.append(self._rollout(prompt, index, self.world.responses[int(drawn)]))
        return RolloutHandle(parts=((rollouts,),), summaries=tuple(summarise(rollouts)), policy_version=version)

    def stream(self, request: GenerateRequest, version: PolicyVersion) -> Iterator[tuple[int, RolloutHandle]]:
        yield 0, self.generate(request, version)

    def _rollout(self, prompt: Prompt, index: int, response: tuple[int, ...]) -> Rollout:
        known = self.world.rollout(self.prompt, index, response).rollout
        return Rollout(
            prompt_id=prompt.prompt_id,
            sample_index=index,
            prompt_token_ids=known.prompt_token_ids,
            response_token_ids=known.response_token_ids,
            rollout_logprobs=known.rollout_logprobs,
            text="",
            finish_reason=known.finish_reason,
            seed=0,
            policy_version=PolicyVersion(step=0),
        )

    def rewards(self, rollouts: RolloutHandle, prompts: Sequence[Prompt]) -> list[float]:
        ((items,),) = rollouts.parts
        return [self.world.reward(self.prompt, tuple(item.response_token_ids.tolist())) for item in items]

    def begin_rewards(self, rollouts: RolloutHandle, prompts: Sequence[Prompt]) -> Callable[[], list[float]]:
        return partial(self.rewards, rollouts, prompts)

    def phase(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def count_train_rewards(self, num_rewards: int) -> None:
        pass


def test_dynamic_sampling_is_an_expectation_over_groups_that_disagree() -> None:
    world, num_steps = ON_POLICY, 4000
    algorithm, surrogate = CASES["dapo"]
    toys = ToyRoles(world)
    roles = Roles(
        prompts=toys, sampler=toys, verifier=toys, tracker=toys, teacher=None, reference=None,
        learner=None, publisher=None, evaluator=None, accelerator=None,
    )  # fmt: skip
    config = RunConfig(
        algo=AlgoConfig(name=AlgorithmName.dapo, dynamic_sampling=True, max_sampling_rounds=100),
        rollout=RolloutConfig(prompts_per_step=1, samples_per_prompt=world.group_size),
    )
    table = outcome_gradients(world, stated(world, algorithm))
    drawn: list[Tensor] = []
    for step in range(num_steps):
        gathered = gather(config, roles, AlgorithmNeeds(rewards=True), RunState(step=step), PolicyVersion(step=step))
        trained = [item for batch in gathered.batches for item in to_train_on(batch.parts[0][0], batch.rewards)]
        group: Group = tuple(tuple(item.rollout.response_token_ids.tolist()) for item in trained)
        drawn.append(table[(group,)])

    def disagrees(outcome: Outcome) -> bool:
        return len({world.reward(toys.prompt, response) for response in outcome[0]}) > 1

    kept = {outcome: probability for outcome, probability in world.outcomes() if disagrees(outcome)}
    probabilities = torch.tensor(list(kept.values()), dtype=torch.float64)
    probabilities /= probabilities.sum()
    gradients = torch.stack([table[outcome] for outcome in kept])
    expected = expected_gradient(world, lambda outcome: surrogate(world, outcome), disagrees)
    assert_converged(torch.stack(drawn).mean(0), expected, gradients, probabilities, num_steps)
    # Without the condition it is another gradient, and farther away than chance explains.
    everything = expected_gradient(world, lambda outcome: surrogate(world, outcome))
    assert (everything - expected).norm() > 0.2 * expected.norm()

"""Gates that ask several roles, whole triggers of them, on quadratics with known noise: how often they accept.

`tests/extrapolation/test_false_accepts.py` has the searches and the rules of acceptance by themselves.
"""

import numpy as np
import pytest
from rates_by_theory import assert_count, binomial, normal_cdf, paired_rate
from trigger_world import STEP_ROLLOUTS, TRAINED_ON, FakeWorld, effopd

from effopd.config.schema import AccelerateConfig, AcceptRule, GateKind
from effopd.config.search_schema import SearchKind
from effopd.types import KLSum, Prompt, RolloutHandle, RunState, ScoredHandle

NUM_TRIGGERS = 400
NOISE = 0.1
PROMPTS = tuple(Prompt(prompt_id=str(number), token_ids=(1,), text="", answer="") for number in range(50))


class NoisyWorld(FakeWorld):
    """Its reverse KL per token on a prompt is how hard that is, plus a loss, plus noise; every answer is a coin.

    On what was trained on, step size 2 looks better than it is.
    """

    def __init__(
        self, generator: np.random.Generator, loss_at: dict[float, float], right_at: dict[float, float]
    ) -> None:
        super().__init__(right_at, reverse_kl_at=loss_at, training_kl_at={0.0: 1.0, 2.0: 0.5})
        self.generator = generator
        self.hardness = {prompt.prompt_id: float(generator.normal(5.0, 1.0)) for prompt in PROMPTS}

    def reverse_kl(self, batch: ScoredHandle) -> list[KLSum]:
        exact = super().reverse_kl(batch)
        if batch.summaries == STEP_ROLLOUTS.summaries:
            return exact
        noise = self.generator.normal(0.0, NOISE, len(exact))
        return [
            KLSum(
                prompt_id=one.prompt_id,
                sample_index=one.sample_index,
                reverse_kl_sum=one.reverse_kl_sum + one.num_tokens * (self.hardness[one.prompt_id] + float(own)),
                num_tokens=one.num_tokens,
            )
            for one, own in zip(exact, noise, strict=True)
        ]

    def rewards(self, rollouts: RolloutHandle, prompts: object) -> list[float]:
        return [float(coin < self.accuracy_at[self.held]) for coin in self.generator.random(len(rollouts.summaries))]


def settled(config: AccelerateConfig, change: float, right_after: float = 0.5, seed: int = 0) -> list[float]:
    """Where triggers settle when step size 2 changes the loss by `change`, and 4 makes it far worse."""
    generator = np.random.default_rng(seed)
    step_sizes = []
    for _ in range(NUM_TRIGGERS):
        world = NoisyWorld(generator, {0.0: 0.0, 2.0: change, 4.0: 1.0}, {0.0: 0.5, 2.0: right_after, 4.0: 0.5})
        record = effopd(world, config, PROMPTS).try_jump(RunState(step=8), TRAINED_ON)
        step_sizes.append(record.accepted_step_size)
    assert set(step_sizes) <= {0.0, 2.0}
    return step_sizes


@pytest.mark.parametrize("change", [0.0, 0.01, -0.03])
def test_candidates_sampled_side_by_side_are_accepted_as_often_as_theory_says(change: float) -> None:
    config = AccelerateConfig(
        gate=GateKind.reverse_kl, accept=AcceptRule.paired, search=SearchKind.parallel, step_sizes=[2.0, 4.0]
    )
    assert_count(np.count_nonzero(settled(config, change)), paired_rate(-change, NOISE), NUM_TRIGGERS)


@pytest.mark.parametrize("change", [0.0, 0.01, -0.03])
def test_what_looked_good_on_training_responses_is_confirmed_as_often_as_theory_says(change: float) -> None:
    # The search accepts every time; fresh responses decide.
    config = AccelerateConfig(
        gate=GateKind.reuse_kl, accept=AcceptRule.paired, search=SearchKind.fixed, step_sizes=[2.0]
    )
    assert_count(np.count_nonzero(settled(config, change)), paired_rate(-change, NOISE), NUM_TRIGGERS)


@pytest.mark.parametrize(("change", "right_after"), [(0.0, 0.5), (0.01, 0.4), (-0.03, 0.4)])
def test_a_divergence_confirmed_by_accuracy_is_accepted_as_often_as_theory_says(
    change: float, right_after: float
) -> None:
    # Not worse in the mean of 50 differences, each with a standard deviation of √2 noise; and not fewer of 50 coins.
    kl_rate = normal_cdf(-change * 50**0.5 / (2**0.5 * NOISE))
    before, after = binomial(50, 0.5), binomial(50, right_after)
    config = AccelerateConfig(gate=GateKind.kl_then_accuracy, accept=AcceptRule.non_worse, step_sizes=[2.0, 4.0])
    count = np.count_nonzero(settled(config, change, right_after))
    assert_count(count, kl_rate * float((after * before.cumsum()).sum()), NUM_TRIGGERS)

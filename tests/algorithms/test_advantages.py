"""From rewards to advantages: slow references and numbers worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from effopd.algorithms.advantages import at_last_token, generalised_advantages, group_normalised, over_response
from effopd.algorithms.dapo import DAPO, overlong_punishment
from effopd.algorithms.masked import sequence_mean, token_mean
from effopd.algorithms.ppo import PPO
from effopd.algorithms.surrogate import Clipping
from effopd.types import ScoredBatch, StepTotals, TrainBatch

CLIPPING = Clipping(low=0.2, high=0.2, dual=3.0)
# Responses of 3, 1, 4 and 2 tokens, after prompts of 1, 3, 1 and 2; padding to the right.
RAGGED = torch.tensor(
    [
        [False, True, True, True, False],
        [False, False, False, True, False],
        [False, True, True, True, True],
        [False, False, True, True, False],
    ]
)


def double_loop(
    rewards: Tensor, values: Tensor, mask: Tensor, discount: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns as the sum of eq. 16 of arXiv 1506.02438 is written: all pairs t <= s, nothing reused."""
    advantages, returns = torch.zeros_like(values), torch.zeros_like(values)
    for row in range(mask.shape[0]):
        tokens = mask[row].nonzero().flatten().tolist()
        for position, t in enumerate(tokens):
            advantage = 0.0
            for distance, s in enumerate(tokens[position:]):
                is_last = s == tokens[-1]
                next_value = 0.0 if is_last else float(values[row, s + 1])
                delta = float(rewards[row, s]) + discount * next_value - float(values[row, s])
                advantage += (discount * gae_lambda) ** distance * delta
            advantages[row, t] = advantage
            returns[row, t] = advantage + float(values[row, t])
    return advantages, returns


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.95, 1.0])
def test_generalised_advantages_are_those_of_the_double_loop(discount: float, gae_lambda: float) -> None:
    generator = torch.Generator().manual_seed(0)
    # Numbers outside the response, too: what a forward says of prompt and padding must not leak in.
    rewards = torch.randn(RAGGED.shape, generator=generator, dtype=torch.float64)
    values = torch.randn(RAGGED.shape, generator=generator, dtype=torch.float64)
    advantages, returns = generalised_advantages(rewards, values, RAGGED, discount=discount, gae_lambda=gae_lambda)
    expected_advantages, expected_returns = double_loop(rewards, values, RAGGED, discount, gae_lambda)
    torch.testing.assert_close(advantages, expected_advantages)
    torch.testing.assert_close(returns, expected_returns)
    assert (advantages[~RAGGED] == 0).all() and (returns[~RAGGED] == 0).all()


def test_with_lambda_1_the_returns_are_the_discounted_rewards_to_come() -> None:
    # Telescoping: the values cancel. 1 + 0.5 * (2 + 0.5 * 4) = 3, 2 + 0.5 * 4 = 4, 4.
    rewards = torch.tensor([[0.0, 1.0, 2.0, 4.0]])
    values = torch.tensor([[9.0, 3.0, -1.0, 7.0]])
    mask = torch.tensor([[False, True, True, True]])
    advantages, returns = generalised_advantages(rewards, values, mask, discount=0.5, gae_lambda=1.0)
    assert returns.tolist() == [[0, 3, 4, 4]]
    assert advantages.tolist() == [[0, 0, 5, -3]]


def test_with_lambda_0_an_advantage_looks_one_token_ahead() -> None:
    # 1 + 0.5 * -1 - 3, 2 + 0.5 * 7 - -1, 4 - 7
    rewards = torch.tensor([[0.0, 1.0, 2.0, 4.0]])
    values = torch.tensor([[9.0, 3.0, -1.0, 7.0]])
    mask = torch.tensor([[False, True, True, True]])
    advantages, _ = generalised_advantages(rewards, values, mask, discount=0.5, gae_lambda=0.0)
    assert advantages.tolist() == [[0, -2.5, 6.5, -3]]


def test_a_score_belongs_to_the_last_token_of_the_response() -> None:
    placed = at_last_token(torch.tensor([1.0, 2.0, 3.0, 4.0]), RAGGED)
    assert placed.tolist() == [[0, 0, 0, 1, 0], [0, 0, 0, 2, 0], [0, 0, 0, 0, 3], [0, 0, 0, 4, 0]]


def test_an_outcome_is_shared_by_all_tokens_of_the_response() -> None:
    spread = over_response(torch.tensor([1.0, 2.0, 3.0, 4.0]), RAGGED)
    assert spread.tolist() == [[0, 1, 1, 1, 0], [0, 0, 0, 2, 0], [0, 3, 3, 3, 3], [0, 0, 4, 4, 0]]


def test_rewards_are_normalised_within_their_own_group_by_the_sample_deviation() -> None:
    # Groups {1, 0} (mean 1/2, deviation sqrt(1/2)) and {1, 3, 5} (mean 3, deviation 2), interleaved.
    rewards, groups = torch.tensor([1.0, 1.0, 3.0, 0.0, 5.0]), torch.tensor([0, 1, 1, 0, 1])
    root = math.sqrt(0.5)
    assert group_normalised(rewards, groups).tolist() == pytest.approx([root, -1.0, 0.0, -root, 1.0], abs=2e-6)


def test_a_group_of_one_has_no_advantage() -> None:
    assert group_normalised(torch.tensor([0.7, 0.2, 0.4]), torch.tensor([0, 1, 1]))[0] == 0


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 0.7, 1 / 3])
@pytest.mark.parametrize("size", [2, 3, 7, 16, 100])
def test_a_group_that_agrees_has_no_advantage_whatever_it_agrees_on(reward: float, size: int) -> None:
    # In float32 the mean of 7 times 0.1 is not 0.1, and what is left over would be divided by next to nothing.
    advantages = group_normalised(torch.full((size,), reward), torch.zeros(size, dtype=torch.int64))
    assert (advantages == 0).all()


@pytest.mark.parametrize(
    ("length", "punishment"),
    # DAPO eq. 13 with a limit of 20 and a buffer of 8: from 12 tokens on, an eighth each.
    [(1, 0.0), (12, 0.0), (13, -0.125), (16, -0.5), (19, -0.875), (20, -1.0), (21, -1.0)],
)
def test_long_responses_are_punished_softly(length: int, punishment: float) -> None:
    assert overlong_punishment(torch.tensor([length]), 20, 8).tolist() == [punishment]


def scored(rewards: list[float]) -> ScoredBatch:
    return ScoredBatch(
        token_ids=torch.zeros(RAGGED.shape, dtype=torch.int64),
        attention_mask=torch.ones_like(RAGGED),
        response_mask=RAGGED,
        rollout_logprobs=torch.zeros(RAGGED.shape),
        group_index=torch.tensor([0, 0, 1, 1]),
        rewards=torch.tensor(rewards),
    )


def test_dapo_compares_rewards_after_the_punishment_of_length() -> None:
    # Limit 4, buffer 2: lengths 3, 1, 4, 2 lose 1/2, 0, 1, 0. So {1/2, 1} and {0, 1}: twice the same comparison.
    advantages = DAPO(CLIPPING, 5.0, max_response_len=4, overlong_buffer=2).prepare(scored([1, 1, 1, 1])).advantages
    root = math.sqrt(0.5)
    expected = over_response(torch.tensor([-root, root, -root, root]), RAGGED)
    assert advantages is not None
    torch.testing.assert_close(advantages, expected, rtol=0, atol=5e-6)


def test_a_mean_over_sequences_weighs_a_short_one_as_much_as_a_long_one() -> None:
    values = torch.full(RAGGED.shape, float("nan")).masked_fill(RAGGED, 0.0)
    values[0, 1], values[1, 3] = 3.0, 3.0  # the first of three tokens, and the only one
    assert sequence_mean(values, RAGGED, num_sequences=4).item() == pytest.approx((3 / 3 + 3 / 1) / 4)
    assert token_mean(values, RAGGED, num_tokens=10).item() == pytest.approx(6 / 10)


def test_a_packed_sequence_weighs_as_much_as_a_padded_one() -> None:
    # The rows above without their padding: 4, 4, 5 and 4 tokens.
    lengths = tuple(int(row.nonzero().max()) + 1 for row in RAGGED)
    values = torch.arange(RAGGED.numel(), dtype=torch.float32).reshape(RAGGED.shape)
    packed = [
        torch.cat([row[:length] for row, length in zip(rows, lengths, strict=True)])[None] for rows in (values, RAGGED)
    ]
    expected = sequence_mean(values, RAGGED, num_sequences=4)
    assert sequence_mean(*packed, num_sequences=4, packed_lengths=lengths).item() == expected.item()
    assert sequence_mean(*packed, num_sequences=4).item() != expected.item()


def value_output(value: float, old_value: float, target: float) -> tuple[float, float, float, float]:
    """Loss, its gradient, and the two metrics, of one response token among the four of the step."""
    algorithm = PPO(
        CLIPPING, 5.0, 0.0, is_kl_in_reward=False, discount=1.0, gae_lambda=1.0, value_clip=0.5
    )  # fmt: skip
    mask = torch.tensor([[False, True]])
    batch = TrainBatch(
        token_ids=torch.zeros(1, 2, dtype=torch.int64),
        attention_mask=torch.ones_like(mask),
        response_mask=mask,
        rollout_logprobs=torch.zeros(1, 2),
        old_values=torch.tensor([[99.0, old_value]]),
        returns=torch.tensor([[99.0, target]]),
    )
    values = torch.tensor([[-99.0, value]], requires_grad=True)
    output = algorithm.value_loss(batch, values, StepTotals(num_tokens=4, num_sequences=2))
    (gradient,) = torch.autograd.grad(output.loss, [values])
    assert gradient[0, 0] == 0  # not a response token
    metrics = output.metrics
    return (
        output.loss.item(),
        gradient[0, 1].item(),
        *(metrics[k].item() for k in ("value_error", "value_clipped_fraction")),
    )


@pytest.mark.parametrize(
    ("value", "old_value", "target", "loss", "gradient", "error", "clipped"),
    [
        # Within 0.5 of the old value: half the square of 1.25 - 1, a quarter of it for one token in four.
        (1.25, 1.0, 1.0, 0.25**2 / 2, 0.25, 0.25**2, 0.0),
        # Moved by 2 towards a target that is farther away: clipped at 1.5, which is farther off; nothing pulls.
        (3.0, 1.0, 4.0, 2.5**2 / 2, 0.0, 1.0, 1.0),
        # Moved by 2 away from the target: clipped at 1.5 it would be nearer; the larger error counts and pulls back.
        (3.0, 1.0, 0.0, 3.0**2 / 2, 3.0, 9.0, 0.0),
        # Moved past the target: clipped at 1.5 as good as the target, 3 is not.
        (3.0, 1.0, 1.5, 1.5**2 / 2, 1.5, 1.5**2, 0.0),
    ],
)
def test_the_value_loss_is_the_larger_of_the_clipped_and_the_unclipped_error(
    value: float, old_value: float, target: float, loss: float, gradient: float, error: float, clipped: float
) -> None:
    expected = [number / 4 for number in (loss, gradient, error, clipped)]
    assert value_output(value, old_value, target) == pytest.approx(expected)

"""Values worked out by hand, and invariants."""

import math

import pytest
import torch
from torch import Tensor

from effopd.algorithms.divergence import reverse_kl_k1, reverse_kl_k2, reverse_kl_k3
from effopd.algorithms.logprobs import entropy, exact_forward_kl, exact_reverse_kl, gather_logprobs
from effopd.algorithms.masked import masked_sum, token_mean
from effopd.algorithms.opd import OPD
from effopd.algorithms.policy_output import PolicyOutput
from effopd.algorithms.surrogate import Clipping, clipped_surrogate, truncated_importance_weights
from effopd.types import StepTotals, TrainBatch


def surrogate(logprob: float, old_logprob: float, advantage: float) -> float:
    return clipped_surrogate(
        torch.tensor([[logprob]]),
        torch.tensor([[old_logprob]]),
        torch.tensor([[advantage]]),
        clip_low=0.2,
        clip_high=0.3,
        dual_clip=3.0,
    ).item()


def test_logprobs_and_divergences_of_two_coins() -> None:
    p, q = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[0.0, 0.0]])  # 3/4, 1/4 and 1/2, 1/2
    assert gather_logprobs(p, torch.tensor([0])).item() == pytest.approx(math.log(0.75))
    # 3/4 log(3/2) + 1/4 log(1/2)
    assert exact_reverse_kl(p, q).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    # 1/2 log(2/3) + 1/2 log 2
    assert exact_forward_kl(p, q).item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    assert entropy(q).item() == pytest.approx(math.log(2))


def test_k1_and_k3_average_to_the_exact_reverse_kl_and_k2_does_not() -> None:
    p, q = torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5])
    exact = (p * (p / q).log()).sum().item()
    assert (p * reverse_kl_k1(p.log(), q.log())).sum().item() == pytest.approx(exact)
    assert (p * reverse_kl_k3(p.log(), q.log())).sum().item() == pytest.approx(exact)
    assert (p * reverse_kl_k2(p.log(), q.log())).sum().item() != pytest.approx(exact)
    assert (reverse_kl_k3(p.log(), q.log()) >= 0).all() and (reverse_kl_k2(p.log(), q.log()) >= 0).all()


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.0, 2.0, -2.0),
        (1.5, 2.0, -2.6),  # clipped at 1.3
        (0.5, 2.0, -1.0),  # not clipped: the pessimistic side
        (0.5, -2.0, 1.6),  # clipped at 0.8
        (1.5, -2.0, 3.0),  # not clipped
        (5.0, -2.0, 6.0),  # dual clip: at most 3 times the advantage
    ],
)
def test_the_surrogate_is_clipped_where_ppo_says(ratio: float, advantage: float, expected: float) -> None:
    assert surrogate(math.log(ratio), 0.0, advantage) == pytest.approx(expected)


def test_importance_weights_are_capped_and_carry_no_gradient() -> None:
    old = torch.tensor([[math.log(0.5), math.log(0.9)]], requires_grad=True)
    weights = truncated_importance_weights(old, torch.tensor([[math.log(0.05), math.log(0.6)]]), cap=5.0)
    assert weights.tolist()[0] == pytest.approx([5.0, 1.5])  # 0.5 / 0.05 = 10, capped
    assert not weights.requires_grad


def test_masked_values_are_ignored_even_when_they_are_not_finite() -> None:
    values = torch.tensor([[1.0, float("nan"), 2.0]])
    mask = torch.tensor([[True, False, True]])
    assert masked_sum(values, mask).item() == 3.0
    assert token_mean(values, mask, 6).item() == 0.5  # this micro-batch's share of a mean over six tokens


def make_output(chunk_tokens: int, hidden: Tensor, head: Tensor, token_ids: Tensor, mask: Tensor) -> PolicyOutput:
    return PolicyOutput(hidden, lambda part: part @ head.T, token_ids, mask, chunk_tokens)


@pytest.mark.parametrize("chunk_tokens", [1, 3, 100])
def test_chunking_changes_neither_logprobs_nor_gradients(chunk_tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 5, 4, generator=generator, requires_grad=True)
    head = torch.randn(7, 4, generator=generator, requires_grad=True)
    token_ids = torch.randint(7, (2, 5), generator=generator)
    mask = torch.tensor([[False, False, True, True, True], [False, True, True, False, False]])

    reference = (hidden @ head.T).log_softmax(-1)[:, :-1].gather(-1, token_ids[:, 1:, None]).squeeze(-1)
    reference = torch.nn.functional.pad(reference, (1, 0)) * mask
    output = make_output(chunk_tokens, hidden, head, token_ids, mask)
    torch.testing.assert_close(output.logprobs, reference)
    assert (output.logprobs[~mask] == 0).all()

    expected = torch.autograd.grad(reference.square().sum(), [hidden, head])
    actual = torch.autograd.grad(output.logprobs.square().sum(), [hidden, head])
    torch.testing.assert_close(actual, expected)


def test_position_zero_cannot_be_a_response_token() -> None:
    with pytest.raises(AssertionError, match="position 0"):
        make_output(8, torch.zeros(1, 2, 3), torch.zeros(4, 3), torch.zeros(1, 2).long(), torch.ones(1, 2).bool())


def test_micro_batches_add_up_to_the_whole_batch() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(3, 4, 5, generator=generator)
    head = torch.randn(6, 5, generator=generator)
    token_ids = torch.randint(6, (3, 4), generator=generator)
    mask = torch.tensor([[False, True, True, True], [False, False, True, False], [False, True, True, False]])
    teacher = torch.randn(3, 4, generator=generator) - 2
    rollout = torch.randn(3, 4, generator=generator) * 0.1 - 2
    algorithm = OPD(Clipping(low=0.2, high=0.2, dual=3.0), importance_cap=5.0)

    def loss_of(rows: slice) -> Tensor:
        batch = TrainBatch(
            token_ids=token_ids[rows],
            attention_mask=torch.ones_like(mask[rows]),
            response_mask=mask[rows],
            rollout_logprobs=rollout[rows],
            teacher_logprobs=teacher[rows],
        )
        output = make_output(100, hidden[rows], head, token_ids[rows], mask[rows])
        return algorithm.loss(batch, output, None, StepTotals(num_tokens=6, num_sequences=3)).loss

    torch.testing.assert_close(loss_of(slice(0, 1)) + loss_of(slice(1, 3)), loss_of(slice(0, 3)))

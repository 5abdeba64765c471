"""Every loss against the gradient that it claims to estimate, by enumerating all responses of a toy policy.

The policy has a vocabulary of 50 and writes two tokens after one prompt token; what it says depends on the whole prefix.
The expectation of a loss's gradient over all 2,500 responses, exactly on-policy and with a fixed denominator, must be the
gradient of the stated objective. Losses known to be wrong in other code bases must fail the same test. Losses made of
rewards are in `test_policy_gradient_oracle.py`.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from toy_policy import ToyPolicy, assert_same, difference, response_logprobs

from effopd.algorithms.divergence import reverse_kl_k1, reverse_kl_k3
from effopd.algorithms.logprobs import exact_forward_kl, exact_reverse_kl
from effopd.algorithms.masked import token_mean
from effopd.algorithms.opd import OPD
from effopd.algorithms.opd_full import FullVocabularyOPD, policy_reverse_kl
from effopd.algorithms.policy_output import Head, PolicyOutput
from effopd.algorithms.surrogate import Clipping
from effopd.types import ScoredBatch, StepTotals

V, D, R = 50, 6, 2
PROMPT = 7
TOTALS = StepTotals(num_tokens=R, num_sequences=1)


@pytest.fixture(scope="module")
def student() -> ToyPolicy:
    return ToyPolicy(0, V, D).requires_grad()


@pytest.fixture(scope="module")
def teacher() -> ToyPolicy:
    return ToyPolicy(1, V, D)


def responses() -> Tensor:
    """All [V*V, 3] sequences: the prompt and two response tokens."""
    pairs = torch.cartesian_prod(torch.arange(V), torch.arange(V))
    return torch.cat([torch.full((V * V, 1), PROMPT), pairs], dim=1)


def exact_objective_gradient(
    student: ToyPolicy, teacher: ToyPolicy, divergence: Callable[[Tensor, Tensor], Tensor]
) -> list[Tensor]:
    """Gradient of (1/R) * sum over positions of E_prefix[divergence(student, teacher | prefix)], prefixes held fixed."""
    first = torch.tensor([[PROMPT]])
    at_first = divergence(student.logits(first)[:, -1], teacher.logits(first)[:, -1]).sum()
    prefixes = torch.stack([torch.full((V,), PROMPT), torch.arange(V)], dim=1)
    weights = student.logits(first)[0, -1].softmax(-1).detach()
    at_second = (weights * divergence(student.logits(prefixes)[:, -1], teacher.logits(prefixes)[:, -1])).sum()
    return list(torch.autograd.grad((at_first + at_second) / R, student.parameters()))


def expected_gradient(
    student: ToyPolicy, teacher: ToyPolicy, loss_of: Callable[[ScoredBatch, PolicyOutput], Tensor]
) -> list[Tensor]:
    """E_{y ~ student}[grad loss(y)], by enumeration.

    A loss is a sum over responses. All gradients flow through the logits, so scaling those of response y by the
    probability of y there turns the gradient of the sum into the expectation of the gradients.
    """
    token_ids = responses()
    with torch.no_grad():
        probabilities = response_logprobs(student, token_ids).sum(-1).exp()
    assert probabilities.sum().item() == pytest.approx(1.0)

    def weighted_head(hidden: Tensor) -> Tensor:
        logits = hidden @ student.head.T  # [B * R, V], row by row
        if logits.requires_grad:
            logits.register_hook(lambda gradient: gradient * probabilities.repeat_interleave(R)[:, None])
        return logits

    batch = batch_of(student, teacher, token_ids)
    return list(torch.autograd.grad(loss_of(batch, output_of(student, batch, weighted_head)), student.parameters()))


def batch_of(student: ToyPolicy, teacher: ToyPolicy, token_ids: Tensor) -> ScoredBatch:
    """What collate would give for responses that the student itself has sampled."""
    mask = torch.ones_like(token_ids, dtype=torch.bool)
    mask[:, 0] = False
    hidden = torch.zeros(*token_ids.shape, D, dtype=torch.float64)
    hidden[:, 1:] = teacher.hidden(token_ids)[:, :-1]  # entry t predicts token t
    with torch.no_grad():
        return ScoredBatch(
            token_ids=token_ids,
            attention_mask=torch.ones_like(mask),
            response_mask=mask,
            rollout_logprobs=response_logprobs(student, token_ids),
            group_index=torch.zeros(len(token_ids), dtype=torch.int64),
            teacher_logprobs=response_logprobs(teacher, token_ids),
            teacher_hidden_states=hidden,
        )


def output_of(student: ToyPolicy, batch: ScoredBatch, head: Head | None = None) -> PolicyOutput:
    head = head or (lambda hidden: hidden @ student.head.T)
    return PolicyOutput(
        student.hidden(batch.token_ids), head, batch.token_ids, batch.response_mask, chunk_tokens=10_000
    )


def teacher_head_of(teacher: ToyPolicy) -> Head:
    return lambda hidden: hidden @ teacher.head.T


def test_sampled_opd_estimates_the_exact_reverse_kl_gradient_with_prefixes_held_fixed(
    student: ToyPolicy, teacher: ToyPolicy
) -> None:
    algorithm = OPD(Clipping(low=0.2, high=0.2, dual=3.0), importance_cap=5.0)

    def loss_of(batch: ScoredBatch, output: PolicyOutput) -> Tensor:
        return algorithm.loss(algorithm.prepare(batch), output, None, TOTALS).loss

    assert_same(
        expected_gradient(student, teacher, loss_of), exact_objective_gradient(student, teacher, exact_reverse_kl)
    )


def test_full_vocabulary_opd_estimates_the_same_gradient(student: ToyPolicy, teacher: ToyPolicy) -> None:
    algorithm = FullVocabularyOPD()

    def loss_of(batch: ScoredBatch, output: PolicyOutput) -> Tensor:
        return algorithm.loss(algorithm.prepare(batch), output, teacher_head_of(teacher), TOTALS).loss

    assert_same(
        expected_gradient(student, teacher, loss_of), exact_objective_gradient(student, teacher, exact_reverse_kl)
    )


def test_full_vocabulary_opd_has_less_variance_than_sampled_opd(student: ToyPolicy, teacher: ToyPolicy) -> None:
    sampled = OPD(Clipping(low=0.2, high=0.2, dual=3.0), importance_cap=5.0)
    full = FullVocabularyOPD()
    exact = exact_objective_gradient(student, teacher, exact_reverse_kl)
    with torch.no_grad():
        probabilities = response_logprobs(student, responses()).sum(-1).exp()
    chosen = responses()[torch.multinomial(probabilities, 64, generator=torch.Generator().manual_seed(0))]

    def mean_squared_distance(algorithm: OPD | FullVocabularyOPD) -> float:
        total = 0.0
        for row in chosen:
            batch = batch_of(student, teacher, row[None])
            output = output_of(student, batch)
            loss = algorithm.loss(algorithm.prepare(batch), output, teacher_head_of(teacher), TOTALS).loss
            total += difference(list(torch.autograd.grad(loss, student.parameters())), exact) ** 2
        return total / len(chosen)

    assert mean_squared_distance(full) < mean_squared_distance(sampled) / 2


# What other code bases have shipped. Each is the expected gradient of a plausible loss, and each must be rejected.


def test_the_oracle_rejects_k1_back_propagated_because_its_gradient_ignores_the_teacher(
    student: ToyPolicy, teacher: ToyPolicy
) -> None:
    # grad E[log p - log q] with samples held fixed is E[grad log p] = 0, whoever the teacher is (AReaL's joint mode).
    def loss_of(batch: ScoredBatch, output: PolicyOutput) -> Tensor:
        assert batch.teacher_logprobs is not None
        return token_mean(reverse_kl_k1(output.logprobs, batch.teacher_logprobs), batch.response_mask, R)

    exact = exact_objective_gradient(student, teacher, exact_reverse_kl)
    gradient = expected_gradient(student, teacher, loss_of)
    assert difference(gradient, exact) == pytest.approx(1.0, abs=1e-3)  # it is zero, so all of `exact` is missing


def test_the_oracle_rejects_k3_back_propagated_because_it_descends_the_forward_kl(
    student: ToyPolicy, teacher: ToyPolicy
) -> None:
    # grad of q/p - 1 - log(q/p) under p is E_p[(1 - q/p) grad log p] = -E_q[grad log p], the forward KL's gradient.
    def loss_of(batch: ScoredBatch, output: PolicyOutput) -> Tensor:
        assert batch.teacher_logprobs is not None
        return token_mean(reverse_kl_k3(output.logprobs, batch.teacher_logprobs), batch.response_mask, R)

    gradient = expected_gradient(student, teacher, loss_of)
    assert_same(gradient, exact_objective_gradient(student, teacher, exact_forward_kl))
    assert difference(gradient, exact_objective_gradient(student, teacher, exact_reverse_kl)) > 0.5


def test_the_oracle_rejects_a_vocabulary_wide_kl_used_as_an_advantage(student: ToyPolicy, teacher: ToyPolicy) -> None:
    # The KL summed over the vocabulary is the same number whichever token was sampled. As an advantage it multiplies
    # E[grad log p] = 0: no signal at its own position (miles issue 2362).
    def loss_of(batch: ScoredBatch, output: PolicyOutput) -> Tensor:
        assert batch.teacher_hidden_states is not None
        advantages = -policy_reverse_kl(output, teacher_head_of(teacher), batch.teacher_hidden_states)
        return token_mean(-advantages.detach() * output.logprobs, batch.response_mask, R)

    gradient = expected_gradient(student, teacher, loss_of)
    assert difference(gradient, exact_objective_gradient(student, teacher, exact_reverse_kl)) == pytest.approx(
        1.0, abs=1e-3
    )

"""A toy policy's responses to one or two prompts, all of them, sampled in groups: for the oracle of losses of rewards.

Token 0 ends a response, so responses differ in length. An *outcome* is what one step might have sampled: a group of
responses for every prompt. Everything a loss could be told about it is here, each source of log-probabilities a policy of
its own, so that a loss that takes one for another is found out.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from toy_policy import ToyPolicy, response_logprobs

from effopd.algorithms.build import Algorithm
from effopd.algorithms.policy_output import PolicyOutput
from effopd.data.collate import align, collate
from effopd.types import (
    FinishReason,
    PolicyVersion,
    Rollout,
    ScoredBatch,
    ScoredRollout,
    StepTotals,
    TeacherScores,
    TrainBatch,
)

END = 0
WIDTH = 4

Response = tuple[int, ...]
Group = tuple[Response, ...]
Outcome = tuple[Group, ...]


def all_responses(vocabulary: int, max_response_len: int) -> list[Response]:
    """Every response that ends with its first END, or is cut."""
    responses: list[Response] = [(END,)]
    for token in range(1, vocabulary):
        rest = all_responses(vocabulary, max_response_len - 1) if max_response_len > 1 else [()]
        responses += [(token, *tail) for tail in rest]
    return responses


@dataclass(frozen=True)
class World:
    """Who says what of which response. Seeds are chosen by the tests so that all branches of a loss are met."""

    vocabulary: int = 3
    max_response_len: int = 3
    prompts: tuple[int, ...] = (1,)
    group_size: int = 2
    is_on_policy: bool = True
    """Else the policy has moved since the rollouts, and the sampler's numerics are not the learner's."""
    levels: tuple[float, ...] = (0.0, 0.5, 1.0)
    """Rewards are drawn from these; with few of them, groups agree now and then."""
    student: ToyPolicy = field(init=False)
    old: ToyPolicy = field(init=False)
    sampler: ToyPolicy = field(init=False)
    reference: ToyPolicy = field(init=False)
    teacher: ToyPolicy = field(init=False)
    responses: list[Response] = field(init=False)
    logprobs: dict[ToyPolicy, dict[tuple[int, Response], Tensor]] = field(init=False)
    """Policy, then prompt and response, to the [R] log-probabilities of its tokens; the student's carry gradients."""

    def __post_init__(self) -> None:
        student = ToyPolicy(0, self.vocabulary, WIDTH).requires_grad()
        old = student if self.is_on_policy else student.moved(1, 0.35)
        policies = {
            "student": student,
            "old": old,
            "sampler": student if self.is_on_policy else old.moved(2, 0.2),
            "reference": student.moved(3, 0.3),
            "teacher": ToyPolicy(4, self.vocabulary, WIDTH),
        }
        for name, value in policies.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "responses", all_responses(self.vocabulary, self.max_response_len))
        table = {
            policy: {
                (prompt, response): response_logprobs(policy, torch.tensor([(prompt, *response)]))[0, 1:]
                for prompt in self.prompts
                for response in self.responses
            }
            for policy in policies.values()
        }
        object.__setattr__(self, "logprobs", table)

    def told(self, policy: ToyPolicy, prompt: int, response: Response) -> list[float]:
        """Log-probabilities as numbers."""
        return self.logprobs[policy][prompt, response].tolist()

    def probability(self, prompt: int, response: Response) -> float:
        return math.exp(sum(self.told(self.sampler, prompt, response)))

    def reward(self, prompt: int, response: Response) -> float:
        """An arbitrary function."""
        index = prompt * len(self.responses) + self.responses.index(response)
        return self.levels[int(torch.randint(len(self.levels), (1,), generator=torch.Generator().manual_seed(index)))]

    def value(self, prompt: int, prefix: Response) -> float:
        """What a critic says of a prefix: again anything."""
        seed = 1000 * prompt + sum((token + 1) * 7**position for position, token in enumerate(prefix))
        return float(torch.randn(1, generator=torch.Generator().manual_seed(seed)))

    def true_value(self, prompt: int, prefix: Response) -> float:
        """The expected reward of what the sampler makes of `prefix`."""
        ways = [response for response in self.responses if response[: len(prefix)] == prefix]
        mass = sum(self.probability(prompt, response) for response in ways)
        return sum(self.probability(prompt, way) * self.reward(prompt, way) for way in ways) / mass

    def outcomes(self) -> Iterator[tuple[Outcome, float]]:
        """Every outcome with its probability."""
        groups = list(itertools.product(self.responses, repeat=self.group_size))
        for outcome in itertools.product(groups, repeat=len(self.prompts)):
            drawn = zip(self.prompts, outcome, strict=True)
            yield outcome, math.prod(self.probability(prompt, y) for prompt, group in drawn for y in group)

    def rollout(self, prompt: int, sample_index: int, response: Response) -> ScoredRollout:
        rollout = Rollout(
            prompt_id=f"prompt {prompt}",
            sample_index=sample_index,
            prompt_token_ids=(prompt,),
            response_token_ids=torch.tensor(response),
            rollout_logprobs=self.logprobs[self.sampler][prompt, response].detach(),
            text="",
            finish_reason=FinishReason.STOP if response[-1] == END else FinishReason.LENGTH,
            seed=0,
            policy_version=PolicyVersion(step=0),
        )
        return ScoredRollout(
            rollout=rollout,
            teacher=TeacherScores(sampled=self.logprobs[self.teacher][prompt, response]),
            reward=self.reward(prompt, response),
            reference_logprobs=self.logprobs[self.reference][prompt, response],
        )

    def batch(self, outcome: Outcome, value: Callable[[int, Response], float] | None = None) -> ScoredBatch:
        """What the learner would hand to `prepare`, by its own collation."""
        rows = [(prompt, y) for prompt, group in zip(self.prompts, outcome, strict=True) for y in group]
        batch = collate([self.rollout(prompt, index, y) for index, (prompt, y) in enumerate(rows)], pad_token_id=0)
        if not self.is_on_policy:
            old = [self.logprobs[self.old][row].detach() for row in rows]
            batch = replace(batch, old_logprobs=align(old, batch.response_mask))
        if value is not None:
            said = [torch.tensor([value(prompt, y[:t]) for t in range(len(y))]) for prompt, y in rows]
            batch = replace(batch, values=align(said, batch.response_mask))
        return batch

    def totals(self, outcome: Outcome) -> StepTotals:
        lengths = [len(response) for group in outcome for response in group]
        return StepTotals(num_tokens=sum(lengths), num_sequences=len(lengths))


def loss_of(world: World, algorithm: Algorithm, batch: TrainBatch, totals: StepTotals) -> Tensor:
    student = world.student
    hidden = student.hidden(batch.token_ids)
    output = PolicyOutput(hidden, lambda h: h @ student.head.T, batch.token_ids, batch.response_mask, 10_000)
    return algorithm.loss(batch, output, None, totals).loss


def stated(
    world: World,
    algorithm: Algorithm,
    value: Callable[[int, Response], float] | None = None,
    totals: StepTotals | None = None,
) -> Callable[[Outcome], Tensor]:
    """The loss of an outcome as the learner would form it; `totals` that are given make a fixed denominator."""

    def loss(outcome: Outcome) -> Tensor:
        batch = algorithm.prepare(world.batch(outcome, value))
        return loss_of(world, algorithm, batch, totals or world.totals(outcome))

    return loss


def outcome_gradients(
    world: World, loss: Callable[[Outcome], Tensor], outcomes: Sequence[Outcome] | None = None
) -> dict[Outcome, Tensor]:
    """The flattened gradient of the loss of every outcome."""
    gradients = {}
    for outcome in outcomes if outcomes is not None else [outcome for outcome, _ in world.outcomes()]:
        parts = torch.autograd.grad(
            loss(outcome), world.student.parameters(), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        gradients[outcome] = torch.cat([part.flatten() for part in parts])
    return gradients


def expected_gradient(
    world: World, loss: Callable[[Outcome], Tensor], condition: Callable[[Outcome], bool] = lambda outcome: True
) -> Tensor:
    """E[grad loss], flattened, over the outcomes that fulfil `condition`, by enumeration."""
    weights = {outcome: probability for outcome, probability in world.outcomes() if condition(outcome)}
    gradients = outcome_gradients(world, loss, list(weights))
    mass = sum(weights.values())
    return torch.stack([gradients[outcome] * (weights[outcome] / mass) for outcome in weights]).sum(0)


def policy_gradient(world: World, objective: Callable[[int, Response], Tensor | float]) -> Tensor:
    """Gradient of the mean over prompts of E_{y ~ student}[objective(prompt, y)], by differentiating probabilities."""
    table = world.logprobs[world.student]
    terms = [table[prompt, y].sum().exp() * objective(prompt, y) for prompt in world.prompts for y in world.responses]
    parts = torch.autograd.grad(
        torch.stack(terms).sum() / len(world.prompts), world.student.parameters(), retain_graph=True
    )
    return torch.cat([part.flatten() for part in parts])


def is_close(actual: Tensor, expected: Tensor) -> bool:
    """Whether two gradients agree as far as the core's float32 goes."""
    assert expected.norm() > 1e-3, "there must be a gradient to speak of"
    return relative_difference(actual, expected) < 1e-5


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()

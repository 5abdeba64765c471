"""Several evaluation sets: each sampled and scored in its own way, and what the one score is."""

import math
from collections.abc import Sequence

import pytest
import torch

from effopd.evaluate import EvaluationSet, SamplingEvaluator
from effopd.handles import summarise
from effopd.types import (
    FinishReason,
    GenerateRequest,
    PolicyVersion,
    Prompt,
    Publication,
    Rollout,
    RolloutHandle,
)


class Parrot:
    """A sampler whose every response has as many tokens as its prompt, and which remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[GenerateRequest] = []

    def load(self, publication: Publication) -> None: ...

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        self.requests.append(request)
        rollouts = [
            Rollout(
                prompt_id=prompt.prompt_id,
                sample_index=index,
                prompt_token_ids=prompt.token_ids,
                response_token_ids=torch.tensor(prompt.token_ids),
                rollout_logprobs=torch.zeros(len(prompt.token_ids)),
                text=prompt.text,
                finish_reason=FinishReason.STOP,
                seed=0,
                policy_version=version,
            )
            for prompt in request.prompts
            for index in range(request.num_samples)
        ]
        return RolloutHandle(parts=((rollouts,),), summaries=tuple(summarise(rollouts)), policy_version=version)

    def preview(self, rollouts: RolloutHandle, num_rollouts: int) -> list[Rollout]:
        return []


class Says:
    """A verifier with one opinion of everything, unless a prompt's text is in `right`."""

    def __init__(self, score: float, right: Sequence[str] = ()) -> None:
        self._score = score
        self._right = right

    def rewards(self, rollouts: RolloutHandle, prompts: Sequence[Prompt]) -> list[float]:
        text_of = {prompt.prompt_id: prompt.text for prompt in prompts}
        return [1.0 if text_of[one.prompt_id] in self._right else self._score for one in rollouts.summaries]


def evaluation_set(name: str, num_prompts: int, verifier: Says, **settings: float) -> EvaluationSet:
    prompts = tuple(
        Prompt(prompt_id=f"row {n}", token_ids=(1,) * (n + 1), text=f"{name} {n}", answer="")
        for n in range(num_prompts)
    )
    return EvaluationSet(
        name=name,
        prompts=prompts,
        verifier=verifier,
        samples_per_prompt=int(settings.get("samples_per_prompt", 1)),
        temperature=settings.get("temperature", 1.0),
        top_p=settings.get("top_p", 1.0),
        max_response_len=int(settings.get("max_response_len", 8)),
    )


def test_the_score_is_the_mean_over_sets_however_large_they_are() -> None:
    sets = [evaluation_set("a", 1, Says(1.0)), evaluation_set("b", 9, Says(0.0))]
    report = SamplingEvaluator(Parrot(), sets, seed=1).evaluate(3, PolicyVersion(step=3))
    assert (report.step, report.score, report.per_set) == (3, 0.5, {"a": 1.0, "b": 0.0})
    assert report.mean_response_len == 46 / 10  # over responses: the sets are of different size
    assert report.num_generated_tokens == 1 + 45
    assert len(report.per_prompt) == 10 and report.per_prompt["a/row 0"] == 1.0


def test_errors_of_sets_add_like_those_of_independent_means() -> None:
    half_right = [evaluation_set(name, 2, Says(0.0, right=[f"{name} 0"])) for name in ("a", "b")]
    report = SamplingEvaluator(Parrot(), half_right, seed=1).evaluate(0, PolicyVersion(step=0))
    # Each set: values 1 and 0, variance 1/2, standard error sqrt(1/2 / 2) = 1/2. Of the mean: sqrt(1/4 + 1/4) / 2.
    assert report.standard_error == pytest.approx(math.sqrt(0.5) / 2)


def test_a_single_set_is_reported_as_it_is() -> None:
    report = SamplingEvaluator(Parrot(), [evaluation_set("eval", 2, Says(0.25))], seed=1).evaluate(
        0, PolicyVersion(step=0)
    )
    assert (report.score, report.per_set, set(report.per_prompt)) == (0.25, {"eval": 0.25}, {"row 0", "row 1"})


def test_every_set_is_sampled_in_its_own_way() -> None:
    sampler = Parrot()
    sets = [
        evaluation_set("a", 1, Says(0.0), samples_per_prompt=3, temperature=0.5),
        evaluation_set("b", 1, Says(0.0), top_p=0.9, max_response_len=99),
    ]
    SamplingEvaluator(sampler, sets, seed=1).evaluate(0, PolicyVersion(step=0))
    first, second = sampler.requests
    assert (first.num_samples, first.temperature, first.top_p, first.max_response_len) == (3, 0.5, 1.0, 8)
    assert (second.num_samples, second.temperature, second.top_p, second.max_response_len) == (1, 1.0, 0.9, 99)

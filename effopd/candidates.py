"""The weights that one trigger compares: brought to learner and samplers, sampled, measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from effopd.gate_scores import Measure, MeasuredResponse, measure
from effopd.roles import Learner, Publisher, Sampler, Teacher, Verifier
from effopd.types import GenerateRequest, PolicyVersion, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerRoles:
    """Whom a trigger calls."""

    learner: Learner
    sampler: Sampler
    teacher: Teacher | None
    publisher: Publisher
    verifier: Verifier | None


class Candidates:
    """Step sizes as weights. When a trigger opens, learner and samplers hold step size 0 as (step, 0).

    Every other step size is published under the next candidate number, whenever the samplers need it.
    """

    def __init__(self, step: int, roles: TriggerRoles, max_response_len: int) -> None:
        self._roles = roles
        self._max_response_len = max_response_len
        self._held = 0.0
        self._published = 0.0
        self._version = PolicyVersion(step=step)
        self._num_published = 0

    def hold(self, step_size: float) -> None:
        """Make the learner hold a step size."""
        if self._held != step_size:
            self._roles.learner.write_candidate(step_size)
            self._held = step_size

    def show(self, step_size: float) -> PolicyVersion:
        """Make learner and samplers hold a step size; return the version that it goes by."""
        self.hold(step_size)
        if self._published != step_size:
            self._num_published += 1
            self._version = PolicyVersion(step=self._version.step, candidate=self._num_published)
            self._roles.publisher.publish(self._version)
            self._published = step_size
        return self._version

    def measure(
        self, step_size: float, prompts: Sequence[Prompt], num_samples: int, by: Measure, seed: int
    ) -> list[MeasuredResponse]:
        """Sample `prompts` with a step size, and measure the responses."""
        version = self.show(step_size)
        request = GenerateRequest(
            prompts=tuple(prompts),
            num_samples=num_samples,
            max_response_len=self._max_response_len,
            temperature=1.0,
            top_p=1.0,
            seed=seed,
        )
        roles = self._roles
        return measure(
            request,
            version,
            by,
            learner=roles.learner,
            sampler=roles.sampler,
            teacher=roles.teacher,
            verifier=roles.verifier,
        )

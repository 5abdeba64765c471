"""The weights that one trigger compares: brought to learner and samplers, sampled, measured."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from effopd.errors import WeightsLostError
from effopd.gate_scores import Measure, MeasuredResponse, measure
from effopd.roles import Learner, Publisher, Sampler, Teacher, Verifier
from effopd.types import GenerateRequest, PolicyVersion, Prompt, RolloutHandle, TeacherPayload


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerRoles:
    """Whom a trigger calls."""

    learner: Learner
    sampler: Sampler
    teacher: Teacher | None
    publisher: Publisher
    verifier: Verifier | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerSetting:
    """What a trigger needs to know of the run, beside `AccelerateConfig`."""

    gate_prompts: tuple[Prompt, ...]
    audit_prompts: tuple[Prompt, ...]
    max_response_len: int
    num_steps: int
    seed: int
    trained_payload: TeacherPayload | None
    """What the teacher said of the responses that a step trains on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How prompts are sampled."""

    num_samples: int
    """Per prompt."""
    max_response_len: int
    seed: int


class Candidates:
    """Step sizes as weights. When a trigger opens, learner and samplers hold step size 0 as (step, 0).

    Every other step size is published under the next candidate number, whenever the samplers need it.
    """

    def __init__(self, step: int, roles: TriggerRoles) -> None:
        self._roles = roles
        self._held = 0.0
        self._published: float | None = 0.0  # None while the samplers hold different ones
        self._version = PolicyVersion(step=step)

    @property
    def were_published(self) -> bool:
        """Whether the samplers have held anything but the weights that they had when the trigger opened."""
        return self._version.candidate > 0

    @property
    def has_several_engines(self) -> bool:
        """Whether different step sizes can be sampled at the same time."""
        return len(self._roles.sampler.groups(2)) > 1

    def hold(self, step_size: float) -> None:
        """Make the learner hold a step size."""
        if self._held != step_size:
            self._roles.learner.write_candidate(step_size)
            self._held = step_size

    def show(self, step_size: float) -> PolicyVersion:
        """Make learner and samplers hold a step size; return the version that it goes by."""
        self.hold(step_size)
        if self._published != step_size:
            self._roles.publisher.publish(self._next_version())
            self._published = step_size
        return self._version

    def measure(
        self, step_size: float, prompts: Sequence[Prompt], sampling: Sampling, by: Measure
    ) -> list[MeasuredResponse]:
        """Sample `prompts` with a step size, and measure the responses."""
        version = self.show(step_size)
        rollouts = self._roles.sampler.generate(_request(prompts, sampling), version)
        return self._measured(rollouts, prompts, by)

    def measure_side_by_side(
        self, sampling_of: Mapping[float, Sampling], prompts: Sequence[Prompt], by: Measure
    ) -> dict[float, list[MeasuredResponse]]:
        """Do the same for several step sizes, each on its share of the sampling engines: as many at a time as there are
        engines. While one is sampled the next one is built, for an engine has its own copy of the weights."""
        sizes = list(sampling_of)
        if not sizes:
            return {}
        groups = self._roles.sampler.groups(len(sizes))
        measured = {}
        self._published = None
        for first in range(0, len(sizes), len(groups)):
            wave = sizes[first : first + len(groups)]
            requests = [_request(prompts, sampling_of[size]) for size in wave]
            with ThreadPoolExecutor(len(wave)) as pool:
                sampling = [
                    pool.submit(group.generate, request, self._load(size, group))
                    for size, request, group in zip(wave, requests, groups, strict=False)
                ]
                rollouts = [
                    self._sampled(future.result, group, request, size)
                    for future, group, request, size in zip(sampling, groups, requests, wave, strict=False)
                ]
            for size, own in zip(wave, rollouts, strict=True):
                self.hold(size)
                measured[size] = self._measured(own, prompts, by)
        return measured

    def _sampled(
        self, sample: Callable[[], RolloutHandle], group: Sampler, request: GenerateRequest, step_size: float
    ) -> RolloutHandle:
        """Return what some engines sample; if one is replaced meanwhile, bring the step size to them and ask again."""
        while True:
            try:
                return sample()
            except WeightsLostError:
                sample = partial(group.generate, request, self._load(step_size, group))

    def _load(self, step_size: float, group: Sampler) -> PolicyVersion:
        """Bring a step size to some engines. Canaries are for publishes to all of them."""
        self.hold(step_size)
        version = self._next_version()
        group.load(self._roles.learner.stage(version))
        return version

    def _next_version(self) -> PolicyVersion:
        self._version = PolicyVersion(step=self._version.step, candidate=self._version.candidate + 1)
        return self._version

    def _measured(self, rollouts: RolloutHandle, prompts: Sequence[Prompt], by: Measure) -> list[MeasuredResponse]:
        roles = self._roles
        return measure(rollouts, prompts, by, learner=roles.learner, teacher=roles.teacher, verifier=roles.verifier)


def _request(prompts: Sequence[Prompt], sampling: Sampling) -> GenerateRequest:
    return GenerateRequest(
        prompts=tuple(prompts),
        num_samples=sampling.num_samples,
        max_response_len=sampling.max_response_len,
        temperature=1.0,
        top_p=1.0,
        seed=sampling.seed,
    )

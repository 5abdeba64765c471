"""A trigger's decision: candidates through a gate, step by step, to the step size that is settled on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from effopd.candidates import Candidates, Sampling, TriggerSetting
from effopd.config.schema import AccelerateConfig, AcceptRule, GateKind, SeedRule
from effopd.config.search_schema import SearchKind
from effopd.extrapolation.gate import (
    Accept,
    SequentialTest,
    accept_by_posterior,
    accept_by_value,
    accept_in_chunks,
    divergence_posterior,
    right_or_wrong_posterior,
    with_entropy_guard,
    with_length_guard,
)
from effopd.extrapolation.search import Judge, accepted_step_size, search, withdrawn
from effopd.extrapolation.step_sizes import step_sizes_within
from effopd.gate_scores import Measure, MeasuredResponse, as_score, measure_again
from effopd.roles import Learner
from effopd.seeds import derive_seed
from effopd.types import CandidateRecord, GateScore, ScoredHandle


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a search has come to."""

    step_size: float
    candidates: tuple[CandidateRecord, ...] = ()
    confirmation: tuple[CandidateRecord, ...] = ()


class FreshSamples:
    """The gate prompts, sampled by every candidate that is asked for."""

    def __init__(self, config: AccelerateConfig, candidates: Candidates, setting: TriggerSetting, step: int) -> None:
        self._config = config
        self._candidates = candidates
        self._setting = setting
        self._prompts = setting.gate_prompts
        self._step = step
        self._responses: dict[float, list[MeasuredResponse]] = {}

    @property
    def has_several_engines(self) -> bool:
        return self._candidates.has_several_engines

    def score(self, step_size: float, by: Measure) -> GateScore:
        """Return the score on all gate prompts, which are sampled once per step size."""
        *_, score = self._scores(step_size, by, len(self._prompts))
        return score

    def scores_in_chunks(self, step_size: float, by: Measure) -> Iterator[GateScore]:
        """Yield the score on the first `chunk_prompts` gate prompts, then on twice as many, and so on. The prompts are
        sampled as they are needed, with the seeds that they would have all at once."""
        return self._scores(step_size, by, self._config.chunk_prompts)

    def _scores(self, step_size: float, by: Measure, chunk_prompts: int) -> Iterator[GateScore]:
        if step_size in self._responses:
            yield as_score(self._responses[step_size], by)
            return
        sampling = self._sampling(len(self._responses))
        self._responses[step_size] = []
        for first in range(0, len(self._prompts), chunk_prompts):
            chunk = self._prompts[first : first + chunk_prompts]
            self._responses[step_size] += self._candidates.measure(step_size, chunk, sampling, by)
            yield as_score(self._responses[step_size], by)

    def sample_side_by_side(self, step_sizes: Sequence[float], by: Measure) -> None:
        """Sample several step sizes at the same time, with the seeds that they would have in this order."""
        first = len(self._responses)
        sampling_of = {size: self._sampling(first + number) for number, size in enumerate(step_sizes)}
        self._responses |= self._candidates.measure_side_by_side(sampling_of, self._prompts, by)

    def _sampling(self, number: int) -> Sampling:
        """Return how candidate `number`, 0 being the baseline, samples."""
        own_number = 0 if self._config.seeds is SeedRule.common else number
        return Sampling(
            num_samples=self._config.samples_per_prompt,
            max_response_len=self._config.max_response_len or self._setting.max_response_len,
            seed=derive_seed(self._setting.seed, "gate", self._step, own_number),
        )


def search_on_fresh_samples(config: AccelerateConfig, fresh: FreshSamples, by: Measure, longest: float) -> Decision:
    """Search with every candidate scored on responses of its own: the gates `accuracy` and `reverse_kl`.

    What will be looked at whatever the others' scores are, a parabola's probes, is sampled side by side where there are
    engines for it.
    """
    baseline = fresh.score(0.0, by)
    planned: list[float] = []
    if config.search is SearchKind.parallel or (config.search is SearchKind.parabola and fresh.has_several_engines):
        planned = step_sizes_within(config, longest)
        fresh.sample_side_by_side(planned, by)
    if config.accept is AcceptRule.sequential:
        judge = _judge_in_chunks(config, fresh, by, baseline)
    else:
        judge = _judge_whole(config, fresh, by, baseline)
    records = search(config, baseline, judge, longest)
    # Those behind a refusal were sampled all the same, so they belong into the record.
    passed = [size for size in planned if size not in {record.step_size for record in records}]
    records += tuple(_not_reached(size, fresh.score(size, by)) for size in passed)
    return Decision(step_size=accepted_step_size(records), candidates=records)


def confirmed_by_accuracy(config: AccelerateConfig, fresh: FreshSamples, decision: Decision) -> Decision:
    """Return the decision if the winner's accuracy passes too, else a refusal: the gate `kl_then_accuracy`.

    The responses are those of the search. A lower divergence that is bought with wrong answers is no gain.
    """
    if decision.step_size == 0:
        return decision
    accept = accept_rule(config, Measure.ACCURACY)
    # The tokens were counted by the search.
    baseline, winner = (
        replace(fresh.score(step_size, Measure.ACCURACY), num_generated_tokens=0)
        for step_size in (0.0, decision.step_size)
    )
    return _confirmed(decision, baseline, winner, accept)


def search_on_training_samples(
    config: AccelerateConfig,
    candidates: Candidates,
    fresh: FreshSamples,
    learner: Learner,
    batches: Sequence[ScoredHandle],
    longest: float,
) -> Decision:
    """Search by the exact reverse KL on what the step trained on, without sampling; confirm the winner: the gate `reuse_kl`.

    The responses in `batches` bear the teacher's hidden states and were drawn from the weights before the update, so far
    jumps look better on them than they are: hence the confirmation, by the same rule, on fresh responses of both.
    """

    def score(step_size: float) -> GateScore:
        candidates.hold(step_size)
        return replace(as_score(measure_again(batches, learner), Measure.REVERSE_KL), num_generated_tokens=0)

    accept = accept_rule(config, Measure.REVERSE_KL)

    def judge(step_size: float, best: GateScore) -> CandidateRecord:
        return _record(step_size, score(step_size), best, accept)

    baseline = score(0.0)
    records = search(config, baseline, judge, longest)
    decision = Decision(step_size=accepted_step_size(records), candidates=records)
    if decision.step_size == 0:
        return decision
    before, after = (fresh.score(size, Measure.REVERSE_KL) for size in (0.0, decision.step_size))
    return _confirmed(decision, before, after, guarded(config, accept, Measure.REVERSE_KL, before))


def accept_rule(config: AccelerateConfig, by: Measure) -> Accept:
    """Return what `accelerate.accept` means for scores of this kind."""
    match config.accept, by:
        case AcceptRule.paired, Measure.ACCURACY:
            return accept_by_posterior(right_or_wrong_posterior, config.min_posterior)
        case AcceptRule.paired, Measure.REVERSE_KL:
            return accept_by_posterior(divergence_posterior, config.min_posterior)
        case rule, _:
            return accept_by_value(rule)


def guarded(config: AccelerateConfig, accept: Accept, by: Measure, baseline: GateScore) -> Accept:
    """Return `accept` behind the guards that the settings ask for."""
    if by is Measure.REVERSE_KL:
        accept = with_length_guard(accept, baseline, config.max_length_change)
    if config.max_entropy_change is not None:
        accept = with_entropy_guard(accept, baseline, config.max_entropy_change)
    return accept


def measure_of(gate: GateKind) -> Measure:
    """Return what a gate's search looks at."""
    return Measure.ACCURACY if gate is GateKind.accuracy else Measure.REVERSE_KL


def _judge_whole(config: AccelerateConfig, fresh: FreshSamples, by: Measure, baseline: GateScore) -> Judge:
    accept = guarded(config, accept_rule(config, by), by, baseline)

    def judge(step_size: float, best: GateScore) -> CandidateRecord:
        return _record(step_size, fresh.score(step_size, by), best, accept)

    return judge


def _judge_in_chunks(config: AccelerateConfig, fresh: FreshSamples, by: Measure, baseline: GateScore) -> Judge:
    test = SequentialTest(
        win_rate=config.win_rate, max_false_accepts=config.max_false_accepts, max_misses=config.max_misses
    )

    def judge(step_size: float, best: GateScore) -> CandidateRecord:
        score, is_better, reason = accept_in_chunks(fresh.scores_in_chunks(step_size, by), best, test)
        return _record(step_size, score, best, guarded(config, lambda *_: (is_better, reason), by, baseline))

    return judge


def _record(step_size: float, score: GateScore, best: GateScore, accept: Accept) -> CandidateRecord:
    is_accepted, reason = accept(score, best)
    return CandidateRecord(step_size=step_size, score=score, is_accepted=is_accepted, reason=reason)


def _not_reached(step_size: float, score: GateScore) -> CandidateRecord:
    return CandidateRecord(step_size=step_size, score=score, is_accepted=False, reason="behind a refusal")


def _confirmed(decision: Decision, baseline: GateScore, winner: GateScore, accept: Accept) -> Decision:
    record = _record(decision.step_size, winner, baseline, accept)
    confirmation = (
        CandidateRecord(step_size=0.0, score=baseline, is_accepted=True, reason="baseline"),
        record,
    )
    if record.is_accepted:
        return replace(decision, confirmation=confirmation)
    return Decision(
        step_size=0.0,
        candidates=withdrawn(decision.candidates, f"not confirmed: {record.reason}"),
        confirmation=confirmation,
    )

"""How good a trigger's decision was, judged on prompts that had no part in it: for studies, not for training."""

import time
from collections.abc import Mapping, Sequence

from effopd.candidates import Candidates, Sampling
from effopd.evaluate import standard_error
from effopd.gate_scores import Measure, MeasuredResponse, as_score
from effopd.types import Audit, AuditPoint, Prompt


def audit(
    candidates: Candidates, prompts: Sequence[Prompt], sampling: Sampling, grid: Sequence[float], settled: float
) -> Audit:
    """Score the current weights, those settled on and the step sizes of `grid` on `prompts`, while the trigger is open.

    All of them share sampling seeds, so that differences are measured with less noise than scores. The oracle is the line
    search that the gate replaces: the lowest exact reverse KL on all these prompts.
    """
    started = time.monotonic()
    responses = {
        size: candidates.measure(size, prompts, sampling, Measure.REVERSE_KL) for size in sorted({0.0, settled, *grid})
    }
    points = {size: _point(size, own, responses[0.0]) for size, own in responses.items()}
    oracle = min(points.values(), key=lambda point: point.reverse_kl_per_token)
    return Audit(
        points=tuple(points.values()),
        settled_step_size=settled,
        oracle_step_size=oracle.step_size,
        regret=points[settled].reverse_kl_per_token - oracle.reverse_kl_per_token,
        seconds=time.monotonic() - started,
    )


def _point(step_size: float, responses: Sequence[MeasuredResponse], current: Sequence[MeasuredResponse]) -> AuditPoint:
    score, before = (as_score(own, Measure.REVERSE_KL) for own in (responses, current))
    assert score.reverse_kl_per_token is not None
    # Values are minus the divergence.
    kl_changes = {prompt_id: before.per_prompt[prompt_id] - value for prompt_id, value in score.per_prompt.items()}
    accuracy_changes = None if score.accuracy is None else _accuracy_changes(responses, current)
    return AuditPoint(
        step_size=step_size,
        accuracy=score.accuracy,
        reverse_kl_per_token=score.reverse_kl_per_token,
        accuracy_change=None if accuracy_changes is None else _mean(accuracy_changes),
        accuracy_change_error=None if accuracy_changes is None else standard_error(accuracy_changes),
        reverse_kl_change=_mean(kl_changes),
        reverse_kl_change_error=standard_error(kl_changes),
    )


def _accuracy_changes(responses: Sequence[MeasuredResponse], current: Sequence[MeasuredResponse]) -> dict[str, float]:
    after, before = (as_score(own, Measure.ACCURACY) for own in (responses, current))
    return {prompt_id: value - before.per_prompt[prompt_id] for prompt_id, value in after.per_prompt.items()}


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)

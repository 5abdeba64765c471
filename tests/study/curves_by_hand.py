"""Runs made of a few numbers."""

from effopd.config.study import Cell
from effopd.study.records import Audit, OraclePoint, ScoredPoint, StudyRun, Trigger


def run(method="vanilla", lr=1e-3, seed=0, scores=(0.4, 0.6, 0.8), seconds_per_step=2.0, task="sums", jumps=()):
    """Evaluations at steps 0, 10, 20, ...; 100 generated tokens a step, of which 20 are the gate's."""
    return StudyRun(
        cell=Cell(task=task, method=method, lr=lr, seed=seed),
        points=tuple(
            ScoredPoint(
                steps=10 * index,
                generated_tokens=1000 * index,
                learner_tokens=800 * index,
                seconds=10 * index * seconds_per_step,
                score=score,
            )
            for index, score in enumerate(scores)
        ),
        triggers=tuple(trigger(size) for size in jumps),
    )


def trigger(accepted=2.0, audit=None):
    return Trigger(step=8, accepted_step_size=accepted, seconds=1.0, audit=audit)


def audit(before, after, oracle=(), num_prompts=1024, accuracy_before=0.5, accuracy_after=0.5):
    return Audit(
        num_prompts=num_prompts,
        accuracy_before=accuracy_before,
        accuracy_after=accuracy_after,
        reverse_kl_before=before,
        reverse_kl_after=after,
        oracle=tuple(OraclePoint(step_size=size, reverse_kl=value) for size, value in oracle),
    )

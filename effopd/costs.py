"""What a run has asked of its teacher and its verifier so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from effopd.config.schema import REVERSE_KL_ALGORITHMS, RunConfig
from effopd.types import EvalReport, TriggerRecord


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Costs:
    """Totals since the beginning of a run. None of them ever decreases."""

    teacher_tokens: int = 0
    """Response tokens that the teacher has scored, those of the gate included."""
    train_rewards: int = 0
    """Responses that the verifier has judged for training; the next two likewise."""
    gate_rewards: int = 0
    eval_rewards: int = 0

    @property
    def verifier_calls(self) -> int:
        """Every response that the verifier has judged, for whatever purpose."""
        return self.train_rewards + self.gate_rewards + self.eval_rewards

    def after_teacher(self, num_tokens: int) -> "Costs":
        return replace(self, teacher_tokens=self.teacher_tokens + num_tokens)

    def after_train_rewards(self, num_rewards: int) -> "Costs":
        return replace(self, train_rewards=self.train_rewards + num_rewards)

    def after_trigger(self, record: TriggerRecord) -> "Costs":
        """Return the totals with a trigger's, which scores every candidate with the teacher, the verifier, or both."""
        scores = [candidate.score for candidate in (*record.candidates, *record.confirmation)]
        tokens = sum(score.num_generated_tokens for score in scores if score.reverse_kl_per_token is not None)
        tokens += record.num_rescored_tokens
        rewards = sum(
            num_responses(score.num_generated_tokens, score.mean_response_len)
            for score in scores
            if score.accuracy is not None
        )
        return replace(self.after_teacher(tokens), gate_rewards=self.gate_rewards + rewards)

    def after_evaluation(self, report: EvalReport) -> "Costs":
        rewards = num_responses(report.num_generated_tokens, report.mean_response_len)
        return replace(self, eval_rewards=self.eval_rewards + rewards)

    def calls(self) -> dict[str, int]:
        """Return the verifier calls as the rows of a run hold them."""
        return {"total_train": self.train_rewards, "total_gate": self.gate_rewards, "total_eval": self.eval_rewards}


def num_responses(num_tokens: int, mean_response_len: float) -> int:
    """Return how many responses have `num_tokens` tokens at that mean length."""
    return round(num_tokens / mean_response_len)


def scores_with_teacher(config: RunConfig) -> bool:
    """Return whether every training response is scored by the teacher."""
    return config.algo.name in REVERSE_KL_ALGORITHMS


def costs_of_row(row: Mapping) -> Costs | None:
    """Return the totals in a row of `metrics.jsonl` or `eval.jsonl`; None where the row is of a version without them."""
    if "calls" not in row:
        return None
    return Costs(
        teacher_tokens=row["tokens"]["total_teacher"],
        train_rewards=row["calls"]["total_train"],
        gate_rewards=row["calls"]["total_gate"],
        eval_rewards=row["calls"]["total_eval"],
    )


def costs_of_evaluations(
    evals: Sequence[Mapping], triggers: Sequence[Mapping], config: RunConfig | None
) -> list[Costs | None]:
    """Return the totals at each row of `eval.jsonl`.

    Runs of a version that did not write them are reconstructed: all of these distil, so the teacher scores every generated
    token and training calls no verifier. None where the rows, or settings, are missing that it takes.
    """
    recorded = [costs_of_row(row) for row in evals]
    if None not in recorded:
        return recorded
    if config is None or not scores_with_teacher(config):
        return [None] * len(evals)
    totals, costs = Costs(), []
    try:
        for row in evals:
            totals = replace(
                totals,
                teacher_tokens=row["tokens"]["total_generated"],
                gate_rewards=sum(_gate_rewards(trigger) for trigger in triggers if trigger["step"] <= row["step"]),
                eval_rewards=totals.eval_rewards + num_responses(row["tokens"]["evaluation"], row["mean_response_len"]),
            )
            costs.append(totals)
    except KeyError:
        return [None] * len(evals)
    return costs


def _gate_rewards(trigger: Mapping) -> int:
    scores = [candidate["score"] for candidate in trigger["candidates"]]
    return sum(
        num_responses(score["num_generated_tokens"], score["mean_response_len"])
        for score in scores
        if score["accuracy"] is not None
    )

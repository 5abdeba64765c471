"""Whether a candidate is better than what it would replace."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from effopd.config.schema import AcceptRule
from effopd.extrapolation.posterior import mean_posterior, sign_posterior
from effopd.types import GateScore

Accept = Callable[[GateScore, GateScore], tuple[bool, str]]
"""(candidate, best so far) to (accepted?, the reason in words)."""

Posterior = Callable[[GateScore, GateScore], float]
"""(candidate, best so far) to the probability that the candidate is better."""


def accept_by_value(rule: AcceptRule) -> Accept:
    """Return the paper's gate: keep the candidate when its value is at least (`non_worse`, as printed) or greater than
    (`strict`, as released) the best so far."""

    def accept(candidate: GateScore, best: GateScore) -> tuple[bool, str]:
        match rule:
            case AcceptRule.strict:
                is_accepted = candidate.value > best.value
                return is_accepted, "better" if is_accepted else "not better"
            case AcceptRule.non_worse:
                is_accepted = candidate.value >= best.value
                return is_accepted, "not worse" if is_accepted else "worse"
            case _:
                raise AssertionError(f"{rule} looks at more than the value")

    return accept


def accept_by_posterior(posterior: Posterior, min_posterior: float) -> Accept:
    """Return the paired gate: keep a candidate that is better with probability `min_posterior` or more."""

    def accept(candidate: GateScore, best: GateScore) -> tuple[bool, str]:
        probability = posterior(candidate, best)
        return probability >= min_posterior, f"better with probability {probability:.3f}"

    return accept


def right_or_wrong_posterior(candidate: GateScore, best: GateScore) -> float:
    """Return the posterior for accuracies, from the prompts that got better and those that got worse."""
    return sign_posterior(*wins_and_losses(candidate, best))


def divergence_posterior(candidate: GateScore, best: GateScore) -> float:
    """Return the posterior for reverse KLs, from their mean difference. Every prompt counts the same, however long."""
    return mean_posterior(differences(candidate, best))


def differences(candidate: GateScore, best: GateScore) -> list[float]:
    """Return candidate minus best on every prompt that the candidate was scored on."""
    return [value - best.per_prompt[prompt_id] for prompt_id, value in candidate.per_prompt.items()]


def wins_and_losses(candidate: GateScore, best: GateScore) -> tuple[int, int]:
    """Return how many prompts the candidate answers better, and how many worse."""
    changes = differences(candidate, best)
    return sum(change > 0 for change in changes), sum(change < 0 for change in changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialTest:
    """Wald's sequential probability ratio test on the prompts that a candidate changed.

    H0: a changed prompt changes for the better with probability 1/2, that is, nothing has been gained. H1: with
    probability `win_rate`. The likelihood ratio λ grows by 2·win_rate with every win and shrinks by 2·(1 - win_rate) with
    every loss. Accept when λ >= 1 / max_false_accepts, refuse when λ <= max_misses. Under H0, and for any candidate that
    loses more often than it wins, λ is a supermartingale, so the probability that it ever gets so high is at most
    `max_false_accepts` (Ville's inequality), however often one looks; likewise for misses under H1. Source: Wald,
    Sequential Analysis (1947), chapter 6 on pairs; his bounds (1 - β) / α and β / (1 - α) are approximate, these hold.
    """

    win_rate: float
    max_false_accepts: float
    max_misses: float

    def log_ratio(self, num_wins: int, num_losses: int) -> float:
        """Return log λ."""
        return num_wins * math.log(2 * self.win_rate) + num_losses * math.log(2 * (1 - self.win_rate))

    def is_better(self, num_wins: int, num_losses: int) -> bool:
        return self.log_ratio(num_wins, num_losses) >= -math.log(self.max_false_accepts)

    def is_not_better(self, num_wins: int, num_losses: int) -> bool:
        return self.log_ratio(num_wins, num_losses) <= math.log(self.max_misses)


def accept_in_chunks(scores: Iterable[GateScore], best: GateScore, test: SequentialTest) -> tuple[GateScore, bool, str]:
    """Pull scores on more and more prompts from `scores` until the test decides; return (the last score, accepted?, reason).

    Undecided at the end is refused. A refused candidate is sampled no further; an accepted one to the end, for the next one
    is compared with it on every prompt, and its mean over all of them must be better too.
    """
    score, is_accepted, reason = best, False, "nothing was sampled"
    for score in scores:
        if is_accepted:
            continue
        num_wins, num_losses = wins_and_losses(score, best)
        num_prompts = len(score.per_prompt)
        reason = f"{num_wins} prompts better and {num_losses} worse of {num_prompts}"
        is_accepted = test.is_better(num_wins, num_losses)
        if test.is_not_better(num_wins, num_losses):
            return score, False, reason
    if is_accepted and score.value <= best.value:
        return score, False, f"{reason}, but {score.value:.4f} against {best.value:.4f} over all"
    return score, is_accepted, reason if is_accepted else f"{reason}, undecided"


def with_length_guard(accept: Accept, baseline: GateScore, max_change: float) -> Accept:
    """Return `accept` that also refuses a mean response length more than `max_change` (a fraction) off the baseline's.

    A mean over tokens can be gamed by writing more of the easy ones.
    """

    def guarded(candidate: GateScore, best: GateScore) -> tuple[bool, str]:
        change = candidate.mean_response_len / baseline.mean_response_len - 1
        if abs(change) > max_change:
            return False, f"mean response length changed by {change:+.0%}, more than {max_change:.0%}"
        return accept(candidate, best)

    return guarded


def with_entropy_guard(accept: Accept, baseline: GateScore, max_change: float) -> Accept:
    """Return `accept` that also refuses a sampled entropy per token more than `max_change` (a fraction) off the baseline's.

    A policy that has collapsed may look good for a while.
    """

    def guarded(candidate: GateScore, best: GateScore) -> tuple[bool, str]:
        before, after = baseline.entropy_per_token, candidate.entropy_per_token
        assert before is not None and after is not None, "scores of sampled responses have an entropy"
        # A baseline of 0 is a deterministic policy, from which any randomness is an infinite change.
        change = after / before - 1 if before > 0 else (0.0 if after == before else math.inf)
        if abs(change) > max_change:
            return False, f"entropy per token changed by {change:+.0%}, more than {max_change:.0%}"
        return accept(candidate, best)

    return guarded

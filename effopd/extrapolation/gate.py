"""Whether a candidate is better than what it would replace."""

from collections.abc import Callable

from effopd.config.schema import AcceptRule
from effopd.types import GateScore

Accept = Callable[[GateScore, GateScore], tuple[bool, str]]
"""(candidate, best so far) to (accepted?, the reason in words)."""


def accept_by_value(rule: AcceptRule) -> Accept:
    """Return the paper's gate: keep the candidate when its value is at least (`non_worse`, as printed) or greater than
    (`strict`, as released) the best so far."""

    def accept(candidate: GateScore, best: GateScore) -> tuple[bool, str]:
        comparison = f"{candidate.value:.4f} against {best.value:.4f}"
        match rule:
            case AcceptRule.strict:
                return candidate.value > best.value, comparison
            case AcceptRule.non_worse:
                return candidate.value >= best.value, comparison

    return accept


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

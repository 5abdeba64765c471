"""What becomes of an optimizer step whose gradient is not finite, and which responses are named for it.

A loss that is not finite makes the gradient so (`sharded_model.py`), and the gradient's norm is the same on all ranks, so
one look at it decides for all of them alike.
"""

from collections.abc import Sequence

from effopd.config.schema import NonfiniteRule
from effopd.errors import GradientError

MAX_SKIPS_IN_A_ROW = 3
"""More is no bad batch any more: weights that are not finite themselves never become so again."""
_MAX_NAMED = 8


class NonfiniteSteps:
    """Counts the steps of one model that are skipped, for one run in one process."""

    def __init__(self, rule: NonfiniteRule) -> None:
        self._rule = rule
        self._num_in_a_row = 0
        self._skipped: list[str] = []

    def taken(self) -> None:
        self._num_in_a_row = 0

    def met(self, error: GradientError) -> None:
        """Return when the step is to be skipped; raise `error` when it is not."""
        if self._rule is not NonfiniteRule.skip:
            raise error
        self._num_in_a_row += 1
        if self._num_in_a_row > MAX_SKIPS_IN_A_ROW:
            raise GradientError(f"{error}; {MAX_SKIPS_IN_A_ROW} steps before it were skipped already, so the run ends")
        self._skipped.append(f"{error}; skipped")

    def take_skipped(self) -> tuple[str, ...]:
        """Return what was skipped since this was last asked."""
        skipped, self._skipped = tuple(self._skipped), []
        return skipped


def culprits(names: Sequence[str], num_responses: int) -> str:
    """Say which responses, of all ranks, have a loss that is not finite."""
    if not names:
        return "the loss of every response is finite, only the gradient is not"
    if len(names) == num_responses:
        return f"not finite is the loss of all {num_responses} responses, so no prompt is to blame"
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"not finite is the loss of {len(names)} of {num_responses} responses: {', '.join(names[:_MAX_NAMED])}{more}"

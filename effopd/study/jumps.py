"""How good the decisions of triggers were. Pure functions of trigger records.

Every trigger says whether it accepted. Whether that was right only an audit can say: a larger evaluation of the weights
before and after, and of other step sizes along the same line, which a run makes when it is told to.

**Harmful** is a jump that was accepted although the audit's reverse KL is higher after it than before, by more than
noise: the mean over prompts of each prompt's change exceeds 1.645 of its standard errors, the one-sided 5 % point.
**Harmful by accuracy** is the same for a fall of the accuracy. Prompts and sampling seeds are shared by both sides.

**Regret** is the audit's reverse KL after the trigger minus the lowest along the line: of the audit's grid, of no step,
and of the one taken. Never negative.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from effopd.study.records import Audit, Trigger
from effopd.study.spreads import upper_bound

_QUANTILE = 1.645
"""One-sided 5 % point of the normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JumpRecord:
    """The triggers of some runs together."""

    num_triggers: int
    num_accepted: int
    accept_rate: float | None
    """None without triggers."""
    num_taken_back: int
    """Accepted jumps that were undone after the next update."""
    num_audited: int
    """Accepted jumps with an audit: the trials of the next three."""
    num_harmful: int
    num_harmful_by_accuracy: int
    false_accept_rate: float | None
    """Harmful among audited; None where nothing was audited."""
    false_accept_upper_bound: float | None
    """One-sided 95 %, Clopper-Pearson."""
    num_searched: int
    """Audited triggers, refused ones too."""
    mean_regret: float | None
    """Nats per response token."""
    lost_share: float | None
    """Summed regret in parts of what the best steps along the lines would have gained; None where there was nothing."""


def judge(triggers: Sequence[Trigger]) -> JumpRecord:
    """Return what the records of triggers say of them."""
    accepted = [trigger for trigger in triggers if trigger.accepted_step_size != 0]
    audits = [trigger.audit for trigger in accepted if trigger.audit is not None]
    searched = [trigger.audit for trigger in triggers if trigger.audit is not None]
    num_harmful = sum(map(is_harmful, audits))
    regrets = [audit.regret for audit in searched]
    possible = sum(audit.possible_gain for audit in searched)
    return JumpRecord(
        num_triggers=len(triggers),
        num_accepted=len(accepted),
        accept_rate=len(accepted) / len(triggers) if triggers else None,
        num_taken_back=sum(trigger.is_taken_back for trigger in accepted),
        num_audited=len(audits),
        num_harmful=num_harmful,
        num_harmful_by_accuracy=sum(map(is_harmful_by_accuracy, audits)),
        false_accept_rate=num_harmful / len(audits) if audits else None,
        false_accept_upper_bound=upper_bound(num_harmful, len(audits)) if audits else None,
        num_searched=len(searched),
        mean_regret=sum(regrets) / len(regrets) if regrets else None,
        lost_share=sum(regrets) / possible if possible > 0 else None,
    )


def is_harmful(audit: Audit) -> bool:
    """Return whether the reverse KL rose by more than noise; see the module."""
    return audit.reverse_kl_change > _QUANTILE * audit.reverse_kl_change_error


def is_harmful_by_accuracy(audit: Audit) -> bool:
    """Return whether the accuracy fell by more than noise; False where nothing verifies."""
    if audit.accuracy_change is None or audit.accuracy_change_error is None:
        return False
    return -audit.accuracy_change > _QUANTILE * audit.accuracy_change_error

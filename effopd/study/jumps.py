"""How good the decisions of triggers were. Pure functions of trigger records.

Every trigger says whether it accepted. Whether that was right only an audit can say: a larger evaluation of the weights
before and after, and of other step sizes along the same line, which a run makes when it is told to.

**Harmful** is a jump that was accepted although the audit's reverse KL is higher after it than before, by more than noise:

    reverse_kl_after − reverse_kl_before > 1.645 · sqrt((reverse_kl_before² + reverse_kl_after²) / num_prompts)

The right-hand side is the one-sided 5 % point of the difference of two independent means over `num_prompts` responses, each
response's reverse KL per token varying about as much as its mean (coefficient of variation 1; the audit does not record it).
At 1,024 prompts that is a rise of about 7 %. The two sides of an audit share their prompts, so the true noise is smaller
and a jump that is called harmful is so with more confidence. **Harmful by accuracy** is the same for a fall of the accuracy,
with the binomial variances p(1 − p) in place of the squares.

**Regret** is the audit's reverse KL after the trigger minus the lowest along the line: of the oracle's step sizes, of no
step, and of the one taken. Never negative.
"""

import math
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
    num_audited: int
    """Accepted jumps with an audit: the trials of the next three."""
    num_harmful: int
    num_harmful_by_accuracy: int
    false_accept_rate: float | None
    """Harmful among audited; None where nothing was audited."""
    false_accept_upper_bound: float | None
    """One-sided 95 %, Clopper-Pearson."""
    num_searched: int
    """Triggers, refused ones too, whose audit has an oracle."""
    mean_regret: float | None
    """Nats per response token."""
    lost_share: float | None
    """Summed regret in parts of what the best steps along the lines would have gained; None where there was nothing."""


def judge(triggers: Sequence[Trigger]) -> JumpRecord:
    """Return what the records of triggers say of them."""
    accepted = [trigger for trigger in triggers if trigger.accepted_step_size > 0]
    audits = [trigger.audit for trigger in accepted if trigger.audit is not None]
    searched = [trigger.audit for trigger in triggers if trigger.audit is not None and trigger.audit.oracle]
    num_harmful = sum(map(is_harmful, audits))
    regrets = [regret(audit) for audit in searched]
    possible = sum(audit.reverse_kl_before - lowest(audit) for audit in searched)
    return JumpRecord(
        num_triggers=len(triggers),
        num_accepted=len(accepted),
        accept_rate=len(accepted) / len(triggers) if triggers else None,
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
    squares = audit.reverse_kl_before**2 + audit.reverse_kl_after**2
    return audit.reverse_kl_after - audit.reverse_kl_before > _QUANTILE * math.sqrt(squares / audit.num_prompts)


def is_harmful_by_accuracy(audit: Audit) -> bool:
    """Return whether the accuracy fell by more than noise."""
    variances = sum(value * (1 - value) for value in (audit.accuracy_before, audit.accuracy_after))
    return audit.accuracy_before - audit.accuracy_after > _QUANTILE * math.sqrt(variances / audit.num_prompts)


def lowest(audit: Audit) -> float:
    """Return the lowest reverse KL that anything along the line would have had."""
    return min(audit.reverse_kl_before, audit.reverse_kl_after, *(point.reverse_kl for point in audit.oracle))


def regret(audit: Audit) -> float:
    """Return how much lower the reverse KL could have been."""
    return audit.reverse_kl_after - lowest(audit)

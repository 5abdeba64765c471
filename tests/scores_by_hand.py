"""Gate scores of given numbers."""

from collections.abc import Mapping, Sequence

from effopd.types import GateScore


def gate_score(
    values: Sequence[float] | Mapping[str, float], mean_response_len: float = 1.0, entropy: float = 1.0
) -> GateScore:
    """The score of weights that have these values on the gate prompts, which are called 0, 1, 2, ... without names."""
    named = values if isinstance(values, Mapping) else {str(number): float(one) for number, one in enumerate(values)}
    return GateScore(
        value=sum(named.values()) / len(named),
        per_prompt=named,
        accuracy=None,
        reverse_kl_per_token=None,
        reverse_kl_per_sequence=None,
        mean_response_len=mean_response_len,
        num_generated_tokens=len(named),
        entropy_per_token=entropy,
    )

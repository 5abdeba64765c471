"""The smoothed score that runs are reported and compared by."""

from collections.abc import Sequence


def ema_weight(num_evaluations: int) -> float:
    """Return the weight of the newest of the evaluations in an average over about `num_evaluations`: 2 / (n + 1)."""
    return 2.0 / (num_evaluations + 1)


def exponential_average(values: Sequence[float], num_evaluations: int) -> list[float]:
    """Return the exponential moving average after each value; the first value begins it."""
    averages: list[float] = []
    for value in values:
        previous = averages[-1] if averages else value
        averages.append(previous + ema_weight(num_evaluations) * (value - previous))
    return averages


def final_weights(num_values: int, num_evaluations: int) -> list[float]:
    """Return the weight that each of `num_values` values has in their last exponential average. They add up to 1."""
    alpha = ema_weight(num_evaluations)
    return [(1 - alpha) ** (num_values - 1 - index) * (1.0 if index == 0 else alpha) for index in range(num_values)]

"""Every error this package raises on purpose.

Each class also inherits the standard-library class it refines, takes one message and survives pickling, because errors
cross process boundaries between Ray actors.
"""


class EffOPDError(Exception):
    """Base of all errors raised on purpose by effopd."""


class ConfigError(EffOPDError, ValueError):
    """A setting is wrong. The message names key, value, rule and remedy."""


class DataError(EffOPDError, ValueError):
    """A data file or a row of it is wrong. The message names file, line, field and reason."""


class RolloutError(EffOPDError, RuntimeError):
    """A sampler could not answer a request, and the message names the prompt; or what it sampled teaches nothing."""


class WeightSyncError(EffOPDError, RuntimeError):
    """Weights in a sampler are not the weights that were asked for."""


class WeightsLostError(WeightSyncError):
    """A sampler was replaced and the weights it had held are no longer staged. Load them again, and ask again."""


class NotReadyError(EffOPDError, RuntimeError):
    """A process was asked for what it holds before it was given it, as a replaced one is."""


class ActorLostError(EffOPDError, RuntimeError):
    """A process died, or hangs, that held what no other has, e.g. a shard of the weights. The run can go on from a checkpoint."""


class CheckpointError(EffOPDError, RuntimeError):
    """A checkpoint is missing, damaged or does not fit the run."""


class GradientError(EffOPDError, ArithmeticError):
    """An optimizer step met a gradient that is not finite. The message names the step."""

"""How long judging one answer may take: what the code sandbox allows itself, and when the pool kills a verifier.

Standard library only.
"""

from effopd.config.schema import RunConfig

CODE_VERIFIERS = "effopd.rewards.code"
"""The module whose verifiers run the sandbox."""

SECONDS = 10.0
"""For an answer, by any other verifier."""

SANDBOX_SECONDS_TO_START = 30.0
SANDBOX_SECONDS = 60.0
"""For all tests of a program together: forty tests of LiveCodeBench at 1.5 s each."""
SANDBOX_SECONDS_PER_TEST = 10.0
SANDBOX_SECONDS_TO_END = 5.0
SANDBOX_SECONDS_IN_ALL = SANDBOX_SECONDS_TO_START + SANDBOX_SECONDS + SANDBOX_SECONDS_TO_END
"""After which the sandbox itself has come to a verdict, or to an error that says what is wrong with the machine."""

CODE_SECONDS = SANDBOX_SECONDS_IN_ALL + 5.0
"""For an answer, by a verifier that runs the sandbox."""


def is_code_verifier(name: str) -> bool:
    """Return whether a verifier, `package.module:function`, is one that runs the sandbox."""
    return name.partition(":")[0] == CODE_VERIFIERS


def seconds_per_answer(config: RunConfig, verifier: str) -> float:
    """Return the seconds after which the pool kills a worker of `verifier` and its answer scores 0."""
    if config.data.verifier_seconds is not None:
        return config.data.verifier_seconds
    return CODE_SECONDS if is_code_verifier(verifier) else SECONDS

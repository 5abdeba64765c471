"""Finding and calling a verifier that the user names as `package.module:function`.

A verifier is any function `f(response: str, answer: str, metadata: Mapping[str, object]) -> float` with a result in
[0, 1]; `metadata["prompt"]` is the prompt's text, the rest are further columns of the data file.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence

from effopd.errors import ConfigError, DataError
from effopd.types import Prompt, Rollout

VerifierFunction = Callable[[str, str, Mapping[str, object]], float]


def load_verifier(name: str) -> VerifierFunction:
    """Import the function that `name` = `package.module:function` stands for. Raises ConfigError saying what is missing."""
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"data.verifier={name}: cannot import {module_name} ({error}); "
            "give package.module:function of something installed or on PYTHONPATH"
        ) from error
    if function_name not in vars(module):
        choices = ", ".join(sorted(key for key, value in vars(module).items() if callable(value) and key[0] != "_"))
        raise ConfigError(f"data.verifier={name}: {module_name} has no {function_name!r}; it has {choices}")
    return vars(module)[function_name]


def verify_rollouts(
    verifier: VerifierFunction, rollouts: Sequence[Rollout], prompts: Mapping[str, Prompt]
) -> list[float]:
    """Return one score per rollout, in order. Raises DataError naming the prompt when a score is not in [0, 1]."""
    scores = []
    for rollout in rollouts:
        prompt = prompts[rollout.prompt_id]
        score = float(verifier(rollout.text, prompt.answer, prompt.metadata))
        if not 0.0 <= score <= 1.0:
            raise DataError(f"the verifier returned {score} for prompt {prompt.prompt_id}; scores must lie in [0, 1]")
        scores.append(score)
    return scores

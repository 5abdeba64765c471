"""Finding a verifier that the user names as `package.module:function`.

A verifier is any function `f(response: str, answer: str, metadata: Mapping[str, object]) -> float` with a result in
[0, 1]. `metadata["prompt"]` is the prompt's text, `metadata["prompt_id"]` its name, the rest are further columns of the
data file, as JSON has them: dates are ISO 8601 text, tuples lists. It runs in worker processes (`effopd.rewards.pool`),
several copies side by side, so it must give the same score to the same arguments whatever it judged before.

Its module may also define `start_worker()`, which every worker calls once before its first answer: the place to set
resource limits, load a model or warm up a parser, none of which is then charged to an answer.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import cast

from effopd.errors import ConfigError

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
    except Exception as error:  # whatever the user's module raises while it is imported
        raise ConfigError(
            f"data.verifier={name}: importing {module_name} raises {type(error).__name__}: {error}; correct the module"
        ) from error
    function = vars(module).get(function_name)
    if not callable(function):
        choices = ", ".join(sorted(key for key, value in vars(module).items() if callable(value) and key[0] != "_"))
        fault = "has no" if function is None else "has no function"
        raise ConfigError(f"data.verifier={name}: {module_name} {fault} {function_name!r}; it has {choices}")
    return cast(VerifierFunction, function)


def start_verifier(name: str) -> VerifierFunction:
    """Return the function after its module's `start_worker()`, if it has one. Raises ConfigError like `load_verifier`."""
    function = load_verifier(name)
    module_name = name.partition(":")[0]
    start_worker = vars(importlib.import_module(module_name)).get("start_worker")
    if start_worker is not None:
        try:
            start_worker()
        except ConfigError as error:
            raise ConfigError(f"data.verifier={name}: {error}") from error
        except Exception as error:  # likewise
            raise ConfigError(
                f"data.verifier={name}: {module_name}.start_worker() raises {type(error).__name__}: {error}; correct it"
            ) from error
    return function

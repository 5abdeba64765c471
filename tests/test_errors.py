"""What errors bring with them when they come out of another process."""

import inspect
import pickle
import signal

import pytest

from effopd import errors
from effopd.termination import Terminated
from effopd.train import SpoiledUpdateError

CASES = [
    *(kind("key=1: a rule; a remedy") for _, kind in inspect.getmembers(errors, inspect.isclass)),
    SpoiledUpdateError("step 3: NaN", 7),
    Terminated(signal.SIGTERM, "; continue with resume=run"),
]


@pytest.mark.parametrize("error", CASES, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling_with_its_type_message_and_fields(error: BaseException) -> None:
    restored = pickle.loads(pickle.dumps(error))
    assert (type(restored), str(restored), vars(restored)) == (type(error), str(error), vars(error))

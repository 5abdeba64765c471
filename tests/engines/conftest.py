"""The lab of the learner's tests: a file's ranks start with its first test and end with its last."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from learner_lab import Lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("learner"))
    yield lab
    for pool in lab.pools.values():
        pool.stop()

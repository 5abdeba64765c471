"""Shared by all tests: two cores, so one thread per process unless a test says otherwise."""

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for a hub

sys.path.insert(0, str(Path(__file__).parent))  # for helpers that tests of several folders share

SLOWEST = ("test_runs.py", "test_recipe_runs.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slowest files first, so that processes that share the files out end together."""
    items.sort(key=lambda item: item.path.name not in SLOWEST)

"""One Ray, on this machine, for the tests of this folder that need it."""

from collections.abc import Iterator

import pytest

from effopd.actors.session import RaySession
from effopd.config.schema import ClusterConfig


@pytest.fixture(scope="package")
def session() -> Iterator[RaySession]:
    session = RaySession(ClusterConfig())
    session.start()
    yield session
    session.stop()

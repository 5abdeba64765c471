"""How sampler actors are shared out among candidates that are sampled at the same time."""

from typing import Any, cast

import pytest

from effopd.actors.sampler import RaySampler, nothing_staged
from effopd.actors.supervision import Member
from effopd.actors.weight_routes import WeightRoutes
from effopd.ledger import Ledger

NOBODY = cast(Any, None)
"""In the place of an actor: nobody is called."""


@pytest.mark.parametrize(
    ("num_samplers", "most", "expected"),
    [
        (1, 2, [[0]]),
        (2, 2, [[0], [1]]),
        (2, 5, [[0], [1]]),
        (5, 2, [[0, 1], [2, 3, 4]]),
        (4, 1, [[0, 1, 2, 3]]),
    ],
)
def test_samplers_are_shared_out_evenly_with_their_own_routes(
    num_samplers: int, most: int, expected: list[list[int]]
) -> None:
    members = [Member(name=f"sampler {index}", actor=NOBODY) for index in range(num_samplers)]
    receivers = tuple(f"machine of {index}" for index in range(num_samplers))
    routes = WeightRoutes(receivers=cast(Any, receivers))
    groups = RaySampler(members, routes, 2, Ledger().phase, nothing_staged).groups(most)
    assert [[member.name for member in group._members] for group in groups] == [
        [f"sampler {index}" for index in share] for share in expected
    ]
    assert [group._routes.receivers for group in groups] == [
        tuple(f"machine of {index}" for index in share) for share in expected
    ]

"""Which machine an actor gets, and what a plan that does not fit is told. Machines have 8 GPUs unless a test says otherwise."""

from collections import Counter
from dataclasses import replace

import pytest

from effopd.actors.placement import Need, Node, Place, place_actors
from effopd.errors import ConfigError


def nodes(*num_gpus: int) -> list[Node]:
    return [
        Node(node_id=f"id{index}", address=f"10.0.0.{index + 1}", num_gpus=count, is_driver=index == 0)
        for index, count in enumerate(num_gpus)
    ]


def needs(role: str, count: int, num_gpus: int = 1, place: Place = Place.ANYWHERE) -> list[Need]:
    return [Need(name=f"{role} {index}", place=place, num_gpus=num_gpus) for index in range(count)]


def ranks(count: int, num_gpus: int = 1) -> list[Need]:
    return needs("learner", count, num_gpus, Place.TOGETHER)


def shape(placed: dict[str, Node]) -> dict[str, Counter]:
    """Roles per machine, by address."""
    found: dict[str, Counter] = {}
    for name, node in placed.items():
        found.setdefault(node.address, Counter())[name.rsplit(" ", 1)[0]] += 1
    return found


def test_four_nodes_hold_the_plan_of_the_preset_with_ranks_on_as_few_machines_as_possible():
    plan = [*ranks(16), *needs("teacher", 1), *needs("sampler", 15)]
    assert shape(place_actors(plan, nodes(8, 8, 8, 8))) == {
        "10.0.0.1": {"learner": 8},
        "10.0.0.2": {"learner": 8},
        "10.0.0.3": {"teacher": 1, "sampler": 7},
        "10.0.0.4": {"sampler": 8},
    }


def test_all_gpus_of_a_tensor_parallel_sampler_are_on_one_machine():
    # 6 ranks leave 2 on the first machine, too few for either sampler of 4.
    placed = place_actors([*ranks(6), *needs("sampler", 2, num_gpus=4), *needs("teacher", 1)], nodes(8, 8))
    assert shape(placed) == {"10.0.0.1": {"learner": 6, "teacher": 1}, "10.0.0.2": {"sampler": 2}}


def test_ranks_make_room_where_side_by_side_they_would_shut_a_sampler_out():
    # 4 ranks on one machine leave 4 + 8, in which 3 samplers of 3 find room, and 4 do not. Two on each leave 6 + 6.
    placed = place_actors([*ranks(4), *needs("sampler", 4, num_gpus=3)], nodes(8, 8))
    assert shape(placed) == {"10.0.0.1": {"sampler": 2, "learner": 2}, "10.0.0.2": {"sampler": 2, "learner": 2}}


def test_a_plan_larger_than_the_cluster_is_refused_with_the_arithmetic_of_every_machine():
    with pytest.raises(ConfigError) as refusal:
        place_actors([*ranks(8), *needs("sampler", 4, num_gpus=2), *needs("teacher", 1)], nodes(8, 4))
    assert "needs 17 GPUs (8 learner x 1 + 4 sampler x 2 + 1 teacher x 1) and the cluster has 12" in str(refusal.value)
    assert "10.0.0.1: 8 - 8 learner = 0 free; 10.0.0.2: 4 - 4 sampler = 0 free" in str(refusal.value)


def test_a_sampler_larger_than_any_machine_is_refused_by_name_although_there_are_gpus_enough():
    with pytest.raises(
        ConfigError, match=r"no machine has the 8 together that sampler 0 takes \(10\.0\.0\.1: 4 - 1 learner"
    ):
        place_actors([*ranks(1), *needs("sampler", 1, num_gpus=8)], nodes(4, 4, 4))


def test_a_head_without_gpus_gets_only_what_belongs_to_the_driver():
    placed = place_actors([*ranks(2), *needs("controller", 1, 0, Place.DRIVER)], nodes(0, 8))
    assert shape(placed) == {"10.0.0.1": {"controller": 1}, "10.0.0.2": {"learner": 2}}


def test_without_gpus_ranks_stay_with_the_driver_and_the_rest_goes_round_the_others():
    plan = [*ranks(2, 0), *needs("teacher", 1, 0), *needs("sampler", 3, 0), *needs("verifier", 1, 0, Place.DRIVER)]
    assert shape(place_actors(plan, nodes(0, 0, 0))) == {
        "10.0.0.1": {"learner": 2, "verifier": 1},
        "10.0.0.2": {"teacher": 1, "sampler": 1},
        "10.0.0.3": {"sampler": 2},
    }


def test_one_machine_holds_everything():
    assert shape(place_actors([*ranks(1, 0), *needs("sampler", 2, 0)], nodes(0))) == {
        "10.0.0.1": {"learner": 1, "sampler": 2}
    }


def test_the_drivers_machine_comes_first_whatever_its_address():
    cluster = [Node(node_id="a", address="10.0.0.1", num_gpus=8, is_driver=False)]
    cluster.append(Node(node_id="b", address="10.0.0.2", num_gpus=8, is_driver=True))
    assert place_actors(ranks(1), cluster)["learner 0"].node_id == "b"


def test_more_processes_than_a_machine_has_memory_for_are_refused_with_the_setting_that_counts_most_of_them():
    # 1 rank of 0.25 GiB with the driver; of 60 samplers of 1.4 GiB the second and the third machine get 30 each: 42 GiB.
    plan = [replace(need, memory_gib=0.25) for need in ranks(1, 0)]
    plan += [replace(need, memory_gib=1.4) for need in needs("sampler", 60, 0)]
    small = [replace(node, memory_gib=41.9) for node in nodes(0, 0, 0)]
    with pytest.raises(ConfigError) as refusal:
        place_actors(plan, small)
    assert str(refusal.value) == (
        "rollout.num_samplers=60: the processes on machine 10.0.0.2 take 42.0 GiB of memory before they load a model "
        "(30 sampler x 1.40), and 41.9 GiB were free when Ray started there; lower rollout.num_samplers or learner.num_ranks, or "
        "give the run more machines"
    )
    assert len(place_actors(plan, [replace(node, memory_gib=42.1) for node in small])) == 61

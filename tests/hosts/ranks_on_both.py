"""Runs on the first of two hosts with one GPU each, on paper: ranks on both meet, and a third finds no room.

Prints what happened as JSON.
"""

import json
import re
import sys
from pathlib import Path

import ray
import torch
import torch.distributed as dist

from effopd.actors.placement import Place
from effopd.actors.session import ActorSpec, RaySession
from effopd.config.schema import ClusterConfig
from effopd.engines.rendezvous import join_process_group, meet_at_port
from effopd.errors import ConfigError

LISTENING = "0A"


@ray.remote
class Rank:
    """What a learner rank does to meet the others."""

    def port_to_meet(self) -> str:
        return meet_at_port(ray.util.get_node_ip_address())

    def add_up(self, place: str, rank: int) -> tuple[str, float, list[str]]:
        """Return this machine's address, the sum of rank + 1 over both, and the addresses that this made the process listen on."""
        before = listeners()
        join_process_group("gloo", place, rank, 2)
        total = torch.tensor([rank + 1.0])
        dist.all_reduce(total)
        return ray.util.get_node_ip_address(), total.item(), sorted({address for _, address in listeners() - before})


def listeners() -> set[tuple[str, str]]:
    """Return socket and address, in hexadecimal, of every TCP port that this process listens on."""
    own = {match[1] for link in Path("/proc/self/fd").iterdir() if (match := _socket(link))}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {(row[9], row[1].rsplit(":", 1)[0]) for row in rows if row[3] == LISTENING and row[9] in own}


def _socket(link: Path) -> re.Match[str] | None:
    try:
        return re.match(r"socket:\[(\d+)\]", str(link.readlink()))
    except FileNotFoundError:  # the folder's own
        return None


def main() -> None:
    session = RaySession(ClusterConfig(address=sys.argv[1]))
    session.start()
    specs = [ActorSpec(name=f"learner {rank}", actor_class=Rank, num_gpus=1, place=Place.TOGETHER) for rank in range(3)]
    try:
        session.have(specs)
    except ConfigError as error:
        refusal = str(error)
    ranks = list(session.have(specs[:2]).values())
    place = ray.get(ranks[0].port_to_meet.remote())
    met = ray.get([actor.add_up.remote(place, rank) for rank, actor in enumerate(ranks)])
    session.stop()
    sys.stdout.write(json.dumps({"refusal": refusal, "met": met}))


main()

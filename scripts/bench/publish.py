"""Publishing a 0.5B-parameter model: to one sampler against memcpy of the same bytes, and to four against one.

A random model in bfloat16, ZeRO-0, one rank. The transport is what effopd does: the learner's `stage`, which copies into
shared memory and hashes, and the sampler's verification and mapping; the baseline copies as many bytes from one warm
buffer to another with as many threads. What vLLM then does with the tensors, its own copying and packing, is reported
apart, from a real VLLMSampler in a process of its own. Goal: at least 0.30 of memcpy in the steady state; the first
publish, which also makes the pages, is printed too.

Four samplers are four processes that verify and map the segment at the same time, on the cores that this machine has. Goal: at
most 1.5 times the time of one, from the beginning of `stage` until the last has everything.

    python scripts/bench/publish.py
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from candidate import make_learner
from measure import Comparison, alternate, argument_parser, parse, report
from random_models import write_half_billion

from effopd.config.schema import Device, Dtype, RolloutConfig
from effopd.engines.vllm_sampler import VLLMSampler
from effopd.types import PolicyVersion, Publication
from effopd.weights import SegmentReader, SegmentReaders, shared_memory_folder

GOAL = 0.30
FAN_OUT, FAN_OUT_GOAL = 4, 1.5
MAX_MODEL_LEN = 128


def receive(reader: SegmentReader, publication: Publication) -> None:
    reader.verify(publication)
    for bucket in publication.buckets:
        reader.tensors(bucket)


def serve_sampler(connection: Connection, model_path: str, num_threads: int) -> None:
    """Load every publication that comes; answer with the seconds of the whole and of the transport's part of it."""
    config = RolloutConfig(dtype=Dtype.bfloat16, num_threads=num_threads, max_num_seqs=4, kv_cache_gib=0.25)
    sampler = VLLMSampler(config, model_path, max_model_len=MAX_MODEL_LEN, device=Device.cpu, seed=0)
    connection.send("ready")
    while (publication := connection.recv()) is not None:
        reader = SegmentReader(Path(publication.segment))
        receive(reader, publication)  # faults the pages in
        part = seconds(lambda reader=reader, publication=publication: receive(reader, publication))
        connection.send((seconds(lambda publication=publication: sampler.load(publication)), part))


def serve_reader(connection: Connection) -> None:
    """Receive every publication that comes as a sampler does, and answer when all is there."""
    readers = SegmentReaders()
    connection.send("ready")
    while (publication := connection.recv()) is not None:
        receive(readers.of(publication.segment), publication)
        connection.send("received")


@contextmanager
def reader_processes(number: int) -> Iterator[list[Connection]]:
    """Give the connections of `number` processes that run `serve_reader`."""
    context = multiprocessing.get_context("spawn")
    connections = []
    for _ in range(number):
        here, there = multiprocessing.Pipe()
        context.Process(target=serve_reader, args=(there,), daemon=True).start()
        here.recv()
        connections.append(here)
    yield connections
    for connection in connections:
        connection.send(None)


def compare_fan_out(stage: Callable[[], Publication], num_rounds: int) -> Comparison:
    def publish(connections: list[Connection]) -> None:
        publication = stage()
        for connection in connections:
            connection.send(publication)
        for connection in connections:
            connection.recv()

    with reader_processes(FAN_OUT) as connections:
        publish(connections)  # faults the pages in
        candidate, baseline = alternate(
            num_rounds, lambda: seconds(lambda: publish(connections)), lambda: seconds(lambda: publish(connections[:1]))
        )
    return Comparison(
        what=f"transport of one publish to {FAN_OUT} samplers",
        baseline_name="to one",
        unit="s",
        candidate=candidate,
        baseline=baseline,
        is_speed=False,
        goal=FAN_OUT_GOAL,
        is_goal_a_minimum=False,
    )


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--no-vllm", action="store_true", help="leave out vLLM's own part, which needs 4 GiB more")
    arguments = parse(parser)
    with TemporaryDirectory() as name:
        folder = Path(name)
        model_path = str(write_half_billion(folder / "model", arguments.seed))
        learner = make_learner(model_path, arguments.threads, folder, shared_memory_folder(), is_moved=False)
        version = PolicyVersion(step=0)
        publications: list[Publication] = []
        readers: list[SegmentReader] = []

        def publish() -> float:
            def transport() -> None:
                publications[:] = [learner.stage(version)]
                if not readers:
                    readers.append(SegmentReader(Path(publications[0].segment)))
                receive(readers[0], publications[0])

            return seconds(transport)

        first = publish()
        num_bytes = sum(slot.num_bytes for bucket in publications[0].buckets for slot in bucket)
        source = torch.ones(num_bytes, dtype=torch.uint8)
        target = torch.zeros_like(source)
        candidate, baseline = alternate(arguments.rounds, publish, lambda: seconds(lambda: target.copy_(source)))
        fan_out = compare_fan_out(lambda: learner.stage(version), arguments.rounds)
        staging = [seconds(lambda: learner.stage(version)) for _ in range(3)]
        notes: dict[str, object] = {
            "bytes (MiB)": num_bytes / 2**20,
            "first publish (s)": first,
            "of which stage, steady (s)": median(staging),
        }
        if not arguments.no_vllm:
            here, there = multiprocessing.Pipe()
            process = multiprocessing.get_context("spawn").Process(
                target=serve_sampler, args=(there, model_path, arguments.threads), daemon=True
            )
            process.start()
            here.recv()
            loads = []
            for _ in range(4):
                here.send(publications[0])
                loads.append(here.recv())
            here.send(None)
            process.join()
            notes["VLLMSampler.load (s)"] = median(whole for whole, _ in loads[1:])
            notes["of which vLLM's own copying and packing (s)"] = median(whole - part for whole, part in loads[1:])
        learner.close()
    report(
        arguments,
        [
            Comparison(
                what="transport of one publish, 0.5B parameters in bfloat16",
                baseline_name=f"memcpy of the same {num_bytes / 2**20:.0f} MiB",
                unit="s",
                candidate=candidate,
                baseline=baseline,
                is_speed=True,
                goal=GOAL,
                notes=notes,
            ),
            fan_out,
        ],
    )


if __name__ == "__main__":
    main()

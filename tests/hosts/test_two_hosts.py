"""A run on two machines, which namespaces make of this one: learner on the first, sampler and teacher on the second."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from two_hosts import ADDRESSES, PORT, Host, two_hosts, why_not

from effopd.checkpoints.reading import latest_checkpoint, weights_hash

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

CUT_SECONDS = 20
NUM_STEPS = 12
RUN = [
    "experiment=toy_effopd",
    "cluster.device=cpu",
    "rollout=hf",
    f"num_steps={NUM_STEPS}",
    "rollout.prompts_per_step=16",
    "data.num_rows=200",
    "eval=none",
    "accelerate.num_prompts=8",
    "learner.lr=1e-3",
    "learner.lr_schedule=constant",
    "checkpoint.every=2",
    "learner.num_threads=1",
    "rollout.num_threads=1",
    "teacher.num_threads=1",
]
RANKS_ON_BOTH = Path(__file__).with_name("ranks_on_both.py")
EFFOPD = [sys.executable, "-m", "effopd", "train", *RUN]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    folder = tmp_path_factory.mktemp("hosts")
    token = folder / "token"
    token.write_text("0123456789abcdef" * 4)
    ray = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        # A dead machine refuses five of these in a row. While the cable is out none is answered, which takes 10 s each.
        "RAY_health_check_period_ms": "1000",
    }
    with two_hosts(folder, os.environ | ray) as both:
        yield both


def num_steps_done(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.is_file() else 0


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    while num_steps_done(run) < step:
        assert process.poll() is None, "the run ended too soon"
        time.sleep(0.1)


def final_hash(run: Path) -> str:
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None and checkpoint.state.step == NUM_STEPS
    return weights_hash(checkpoint.directory)


def actors_on(host: Host) -> set[str]:
    """Return the classes of actors that live on a host."""
    titles = host.output("ps", "-eo", "args").splitlines()
    return {found[1] for title in titles if (found := re.match(r"ray::(\w+Actor)", title))}


def test_ranks_on_both_hosts_meet_at_an_address_that_is_nobody_elses_and_too_many_are_refused(
    hosts: tuple[Host, Host],
) -> None:
    told = json.loads(hosts[0].output(sys.executable, str(RANKS_ON_BOTH), f"{ADDRESSES[0]}:{PORT}"))
    assert told["refusal"].startswith(
        "the plan needs 3 GPUs (3 learner x 1) and the cluster has 2 "
        "(198.18.0.1: 1 - 1 learner = 0 free; 198.18.0.2: 1 - 1 learner = 0 free)"
    )
    # 3 is 1 of the first rank and 2 of the second. Addresses are as the kernel has them: bytes from right to left.
    assert told["met"] == [["198.18.0.1", 3.0, ["010012C6"]], ["198.18.0.2", 3.0, ["020012C6"]]]


def test_a_run_survives_a_cut_cable_and_then_the_death_of_a_machine_and_ends_with_the_weights_of_a_run_in_one_process(
    hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    first, second = hosts
    address = f"cluster.address={ADDRESSES[0]}:{PORT}"
    with ExitStack() as stack:
        output = stack.enter_context((tmp_path / "output").open("w"))
        process = first.start(*EFFOPD, address, f"output_dir={together}", stdout=output, stderr=output)
        stack.callback(process.kill)
        wait_for_step(together, 2, process)
        assert actors_on(first) >= {"LearnerActor", "ControllerActor", "NodeActor"}
        assert actors_on(second) == {"SamplerActor", "TeacherActor", "NodeActor"}

        first.pull_cable()
        before = num_steps_done(together)
        undisturbed = subprocess.Popen([*EFFOPD, "cluster=local", f"output_dir={alone}"], stdout=output, stderr=output)
        stack.callback(undisturbed.kill)
        time.sleep(CUT_SECONDS)
        # The step that was under way may have been past its last exchange; the next one cannot have been.
        assert num_steps_done(together) <= before + 1 < NUM_STEPS
        first.plug_cable()

        wait_for_step(together, before + 2, process)
        second.kill()
        assert num_steps_done(together) < NUM_STEPS - 1, "the run is over too soon to lose a machine"
        wait_for_step(together, before + 5, process)
        assert actors_on(first) >= {"LearnerActor", "ControllerActor", "SamplerActor", "TeacherActor"}
        assert process.wait(timeout=300) == 0, (tmp_path / "output").read_text()
        assert undisturbed.wait(timeout=300) == 0
    assert re.search(r"the run goes on from step \d+ \(restart 1 of", (tmp_path / "output").read_text())
    assert final_hash(together) == final_hash(alone)
    assert [json.loads(line)["step"] for line in (together / "metrics.jsonl").read_text().splitlines()] == [
        *range(1, NUM_STEPS + 1)
    ]

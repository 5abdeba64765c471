"""What a plan makes of extrapolation: the teacher's head, triggers, candidates and copies. Settings are built, not composed."""

import subprocess
import sys
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest

from effopd.config.check import needs_teacher_head
from effopd.config.jobs import training_jobs
from effopd.config.register import configs_folder, open_configs
from effopd.config.schema import (
    AccelerateConfig,
    AlgoConfig,
    AlgorithmName,
    AnchorRule,
    DirectionKind,
    GateKind,
    LearnerConfig,
    MovedParameters,
    RunConfig,
)
from effopd.config.search_schema import ScheduleKind, SearchKind
from effopd.doctor.sizes import checkpoint_bytes
from effopd.extrapolation.copies import TriggerCopies, num_trigger_copies
from effopd.plan.hardware import GPUS, Cluster
from effopd.plan.layout import layout_of
from effopd.plan.learner_memory import trigger_bytes
from effopd.plan.report import Models, make_plan, timing_of
from effopd.plan.seconds import Timing
from effopd.plan.shapes import KNOWN
from effopd.production import algorithm_needs
from effopd.types import TeacherPayload

PRESETS = sorted(path.stem for path in (configs_folder() / "accelerate").glob("*.yaml"))


@cache
def preset(name: str) -> RunConfig:
    with open_configs(None) as configs:
        arguments = ["experiment=toy_opd", f"accelerate={name}"]
        if name == "paired":
            arguments.append("accelerate.audit_prompts=8")  # the gate asks the verifier, and the audit the teacher
        (job,) = training_jobs(configs, arguments, is_multirun=False)
    return job.config


def test_a_plan_has_the_teachers_head_wherever_a_run_has_it():
    has_head = {name: layout_of(preset(name)).has_teacher_head for name in PRESETS}
    assert has_head == {name: needs_teacher_head(preset(name)) for name in PRESETS}
    # The KL gates, and the one with an audit.
    kl_gates = {"effopd", "fast_forward", "kl_gated", "kl_then_accuracy", "parabola_kl", "reuse_kl"}
    assert {name for name, has in has_head.items() if has} == kl_gates | {"paired"}


@pytest.mark.parametrize("name", AlgorithmName)
def test_without_a_gate_the_head_is_for_algorithms_that_ask_for_hidden_states(name):
    config = RunConfig(algo=AlgoConfig(name=name))
    assert needs_teacher_head(config) == (algorithm_needs(config).teacher == TeacherPayload.HIDDEN_STATES)


STUDENT = KNOWN["Qwen/Qwen3-4B"]
CLUSTER = Cluster(gpu=GPUS["h100"], gpus_per_node=8, num_nodes=1)


def timed(num_steps: int = 12, **settings: Any) -> Timing:
    config = RunConfig(num_steps=num_steps, accelerate=AccelerateConfig(**settings))
    return timing_of(config, make_plan(config, CLUSTER, Models(student=STUDENT, teacher=STUDENT)), None)


@pytest.mark.parametrize(
    ("settings", "num_triggers"),
    [
        ({}, 4),  # 1, 2, 4, 8
        ({"max_triggers": 3}, 3),
        ({"schedule": ScheduleKind.every, "every": 5}, 2),  # 5, 10
        ({"schedule": ScheduleKind.every, "every": 5, "max_triggers": 1}, 1),
        ({"schedule": ScheduleKind.last}, 1),
    ],
)
def test_triggers_are_counted_by_the_schedule(settings, num_triggers):
    assert timed(gate=GateKind.accuracy, **settings).num_triggers == num_triggers


def trigger_seconds(**settings: Any) -> float:
    trigger = timed(**settings).trigger
    assert trigger is not None
    return trigger.seconds


@pytest.mark.parametrize(
    ("settings", "num_sampled"),
    # The current weights and every candidate; a publish goes with each, the last one for what is settled on.
    [
        ({"gate": GateKind.accuracy}, 1 + 5),
        ({"gate": GateKind.accuracy, "search": SearchKind.parabola, "step_sizes": [2.0, 6.0]}, 1 + 2 + 1),
        ({"gate": GateKind.reverse_kl, "search": SearchKind.repeat, "step_sizes": [1.0], "max_candidates": 50}, 1 + 50),
        ({"gate": GateKind.reverse_kl, "search": SearchKind.backtracking, "step_sizes": [8.0]}, 1 + 5),
        # The search samples nothing; current weights and winner do, for the confirmation.
        ({"gate": GateKind.reuse_kl, "search": SearchKind.parabola, "step_sizes": [2.0, 6.0]}, 2),
    ],
)
def test_a_trigger_takes_what_its_search_tries_at_most(settings, num_sampled):
    pair = trigger_seconds(gate=GateKind.accuracy, search=SearchKind.fixed, step_sizes=[2.0])
    assert trigger_seconds(**settings) == pytest.approx(pair / 2 * num_sampled)


def test_a_jump_that_nothing_judges_is_published_and_nothing_is_sampled():
    plan = timed(gate=GateKind.ungated, search=SearchKind.fixed, step_sizes=[1.0])
    assert plan.trigger is not None
    assert plan.trigger.seconds == next(phase.seconds for phase in plan.phases if phase.name == "publish")


def test_planning_imports_no_torch():
    code = "import sys, effopd.plan.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


COPIES = [
    ({"gate": GateKind.none}, TriggerCopies()),
    ({}, TriggerCopies(anchor=1, previous=1)),
    ({"direction": DirectionKind.nesterov}, TriggerCopies(anchor=1, previous=1, history=1)),
    ({"direction": DirectionKind.gram_pca, "history_size": 6}, TriggerCopies(anchor=1, previous=1, history=6)),
    # An average needs the previous direction and the current weights, an initial anchor stays beside the displacement.
    ({"direction": DirectionKind.ema}, TriggerCopies(anchor=1, previous=1, passing=1)),
    ({"direction": DirectionKind.ema, "anchor": AnchorRule.initial}, TriggerCopies(anchor=1, previous=1, passing=2)),
    ({"max_kl_increase": 0.5}, TriggerCopies(anchor=1, previous=1, pre_jump_anchor=1, pre_jump_masters=1)),
]


@pytest.mark.parametrize(("settings", "copies"), COPIES)
def test_copies_are_counted_as_the_learner_keeps_them(settings, copies):
    assert num_trigger_copies(AccelerateConfig(**{"gate": GateKind.accuracy} | settings)) == copies


@pytest.mark.parametrize(
    ("settings", "num_saved"),
    # 3 of the optimizer, and what is kept between triggers.
    [
        ({"gate": GateKind.none}, 3),
        ({"direction": DirectionKind.ema}, 3 + 2),
        ({"direction": DirectionKind.gram_pca, "history_size": 6}, 3 + 2 + 6),
        ({"max_kl_increase": 0.5, "direction": DirectionKind.nesterov}, 3 + 2 + 1 + 2),
    ],
)
def test_a_checkpoint_has_room_for_all_that_is_kept_between_triggers(settings, num_saved):
    files: Any = SimpleNamespace(num_parameters=1000)
    config = RunConfig(accelerate=AccelerateConfig(**{"gate": GateKind.accuracy} | settings))
    assert checkpoint_bytes(files, config) == 4 * 1000 * num_saved


def test_main_memory_holds_a_history_of_what_moves_and_a_way_back_for_everything():
    accelerate = AccelerateConfig(
        gate=GateKind.accuracy,
        moved=MovedParameters.matrices,
        direction=DirectionKind.gram_pca,
        history_size=3,
        max_kl_increase=0.5,
    )
    config = RunConfig(accelerate=accelerate, learner=LearnerConfig(zero_stage=2, num_ranks=4))
    kept = {item.name: item.num_bytes for item in trigger_bytes(config, STUDENT)}
    # A quarter on each of 4 ranks. Not moved are the embedding, which is the head, too, and the norms: 36 layers with two of
    # 2560 and two of 128, and the last one.
    moved = (STUDENT.num_parameters - 151_936 * 2560 - 36 * (2 * 2560 + 2 * 128) - 2560) // 4
    assert kept["history of directions"] == 4 * 3 * moved == 3 * kept["anchor"]
    assert kept["weights before a jump"] == 4 * (moved + STUDENT.num_parameters // 4)

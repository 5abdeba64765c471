"""What a plan makes of extrapolation: the teacher's head, triggers, candidates and copies. Settings are built, not composed."""

from functools import cache

import pytest

from effopd.config.check import needs_teacher_head
from effopd.config.jobs import training_jobs
from effopd.config.register import configs_folder, open_configs
from effopd.config.schema import AlgoConfig, AlgorithmName, RunConfig
from effopd.plan.layout import layout_of
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
    kl_gates = {"fast_forward", "kl_gated", "kl_then_accuracy", "parabola_kl", "reuse_kl"}
    assert {name for name, has in has_head.items() if has} == kl_gates | {"paired"}


@pytest.mark.parametrize("name", AlgorithmName)
def test_without_a_gate_the_head_is_for_algorithms_that_ask_for_hidden_states(name):
    config = RunConfig(algo=AlgoConfig(name=name))
    assert needs_teacher_head(config) == (algorithm_needs(config).teacher == TeacherPayload.HIDDEN_STATES)

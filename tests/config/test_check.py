"""Rules across groups: each violation names its keys, and all of them are reported at once."""

from operator import attrgetter

import pytest

import effopd.config.check as check
from effopd.config.schema import (
    AcceptRule,
    AlgorithmName,
    AnchorRule,
    DebugMode,
    DirectionKind,
    GateKind,
    KLPlacement,
    RolloutEngine,
    RunConfig,
    Runtime,
    WandbMode,
)
from effopd.config.search_schema import ScheduleKind, SearchKind
from effopd.errors import ConfigError


def valid_config() -> RunConfig:
    config = RunConfig()
    config.model.path = "some/student"
    config.teacher.path = "some/teacher"
    config.data.path = "some/prompts"
    config.data.verifier = "package.module:function"
    return config


def changed(changes: dict[str, object]) -> RunConfig:
    config = valid_config()
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        setattr(attrgetter(section)(config) if section else config, name, value)
    return config


ACCURACY = {"accelerate.gate": GateKind.accuracy}
UNGATED = {
    "accelerate.gate": GateKind.ungated,
    "accelerate.search": SearchKind.fixed,
    "accelerate.step_sizes": [-0.5],
}
EVERY = {"accelerate.schedule": ScheduleKind.every}
TRAIN_ONLY = {"debug.mode": DebugMode.train_only}
LOCAL = {"cluster.runtime": Runtime.local}
GRPO = {"algo.name": AlgorithmName.grpo, "rollout.samples_per_prompt": 8}
DAPO = {"algo.name": AlgorithmName.dapo, "rollout.samples_per_prompt": 8}
PPO = {"algo.name": AlgorithmName.ppo}

# changes to a valid configuration, words that the one violation must contain
VIOLATIONS = [
    ({"resume": "a", "output_dir": "b"}, ["resume=a", "output_dir=b"]),
    ({"eval.responses": "a.jsonl"}, ["eval.responses=a.jsonl", "no effect", "effopd eval"]),
    (
        {"accelerate.gate": GateKind.reverse_kl, "algo.teacher_scale": 1.25},
        ["accelerate.gate=reverse_kl", "algo.teacher_scale=1.25", "another objective"],
    ),
    (
        {"accelerate.gate": GateKind.reverse_kl, "algo.reward_coef": 0.5, "rollout.samples_per_prompt": 2},
        ["accelerate.gate=reverse_kl", "algo.reward_coef=0.5", "another objective"],
    ),
    ({"model.path": "toy:sum_base"}, ["model.path=toy:sum_base", "did you mean toy:sums_base?"]),
    ({"model.path": "./nowhere"}, ["model.path=./nowhere", "is no folder"]),
    ({"model.path": "a/b/c"}, ["model.path=a/b/c", "is no folder"]),
    ({"teacher.path": "/"}, ["teacher.path=/", "has no config.json"]),
    ({"data.path": "toy:sum"}, ["data.path=toy:sum", "did you mean toy:sums?"]),
    ({"data.path": "../x.parquet"}, ["data.path=../x.parquet", "no such file"]),
    ({"data.path": "toy:sums", "data.split": "test"}, ["data.split=test", "no effect", "toy:sums"]),
    ({"data.verifier": "verify"}, ["data.verifier=verify", "package.module:function"]),
    ({"data.verifier": None, **ACCURACY}, ["accelerate.gate=accuracy", "data.verifier=null"]),
    ({"data.verifier": None, "eval.path": "some/prompts"}, ["eval.path=some/prompts", "data.verifier=null"]),
    ({"data.verifier": None, "data.verifier_workers": 3}, ["data.verifier_workers=3", "data.verifier=null"]),
    (
        {"data.verifier": "effopd.rewards.code:verify", "data.verifier_seconds": 60.0},
        ["data.verifier_seconds=60.0", "effopd.rewards.code:verify", "95 s"],
    ),
    ({"data.enable_thinking": True}, ["data.enable_thinking=true", "data.apply_chat_template=true"]),
    ({"model.chat_template": "x.jinja", "data.apply_chat_template": True}, ["x.jinja", "no such file"]),
    ({"data.answer_pattern": "("}, ["data.answer_pattern=(", "not a regular expression"]),
    ({"data.answer_pattern": "#+"}, ["data.answer_pattern=#+", "group"]),
    ({"data.answer_pattern": "(x)", "data.answer_column": None}, ["data.answer_pattern", "data.answer_column"]),
    # 512 prompt tokens and 1024 response tokens need 1536.
    ({"rollout.max_model_len": 1535}, ["rollout.max_model_len=1535", "rollout.max_model_len=1536"]),
    (
        {"eval.path": "some/prompts", "eval.max_response_len": 1025, "rollout.max_model_len": 1536},
        ["eval.max_response_len=1025", "1537 tokens"],
    ),
    ({"learner.warmup_steps": 100}, ["learner.warmup_steps=100", "num_steps=100"]),
    ({"rollout.prompts_per_step": 1, "learner.num_ranks": 2}, ["rollout.prompts_per_step=1", "learner.num_ranks=2"]),
    ({"algo.name": AlgorithmName.opd_full, "algo.clip_low": 0.1}, ["algo.clip_low=0.1", "opd_full"]),
    ({"algo.name": AlgorithmName.opd_full, "algo.importance_cap": 2.0}, ["algo.importance_cap=2.0", "opd_full"]),
    ({"teacher.path": "???"}, ["teacher.path is required with algo.name=opd", "give a model folder"]),
    ({"teacher.path": "???", "algo.name": AlgorithmName.opd_full}, ["teacher.path is required", "algo.name=opd_full"]),
    ({"algo.kl_coef": 0.1}, ["algo.kl_coef=0.1", "no effect with algo.name=opd"]),
    ({"algo.dynamic_sampling": True}, ["algo.dynamic_sampling=true", "algo.name=opd"]),
    ({"algo.critic_lr": 1e-4, **GRPO}, ["algo.critic_lr=0.0001", "algo.name=grpo"]),
    ({"algo.kl_in": KLPlacement.reward, **GRPO}, ["algo.kl_in=reward", "algo.name=grpo"]),
    ({"algo.overlong_buffer": 8, **GRPO}, ["algo.overlong_buffer=8", "algo.name=grpo"]),
    ({"algo.reward_coef": 0.5, **GRPO}, ["algo.reward_coef=0.5", "algo.name=grpo"]),
    ({"algo.kl_coef": 0.1, **DAPO}, ["algo.kl_coef=0.1", "algo.name=dapo"]),
    ({"algo.discount": 0.9, **DAPO}, ["algo.discount=0.9", "algo.name=dapo"]),
    ({"algo.dynamic_sampling": True, **PPO}, ["algo.dynamic_sampling=true", "algo.name=ppo"]),
    ({"algo.max_sampling_rounds": 3, **PPO}, ["algo.max_sampling_rounds=3", "algo.name=ppo"]),
    ({"algo.max_sampling_rounds": 3, **DAPO}, ["algo.max_sampling_rounds=3", "algo.dynamic_sampling=true"]),
    ({"data.verifier": None, **PPO}, ["algo.name=ppo", "data.verifier=null", "effopd.rewards.math:verify"]),
    ({"data.verifier": None, **GRPO}, ["algo.name=grpo", "data.verifier=null"]),
    ({**GRPO, "rollout.samples_per_prompt": 1}, ["algo.name=grpo", "rollout.samples_per_prompt=1", "=8"]),
    ({**DAPO, "rollout.samples_per_prompt": 1}, ["algo.name=dapo", "rollout.samples_per_prompt=1", "=8"]),
    ({"algo.reward_coef": 0.5}, ["algo.name=opd", "rollout.samples_per_prompt=1", "compared with each other"]),
    ({"algo.num_minibatches": 257}, ["algo.num_minibatches=257", "rollout.prompts_per_step=256"]),
    ({"algo.overlong_buffer": 1024, **DAPO}, ["algo.overlong_buffer=1024", "rollout.max_response_len=1024"]),
    (
        {"accelerate.gate": GateKind.reverse_kl, **GRPO},
        ["accelerate.gate=reverse_kl and algo.name=grpo", "another objective", "accelerate=none or released"],
    ),
    ({"accelerate.max_response_len": 2048, **ACCURACY}, ["accelerate.max_response_len=2048", "max_response_len=1024"]),
    ({"accelerate.max_response_len": 64}, ["accelerate.max_response_len=64", "accelerate.gate=none"]),
    ({"accelerate.accept": AcceptRule.non_worse}, ["accelerate.accept=non_worse", "accelerate.gate=none"]),
    ({"accelerate.num_prompts": 20}, ["accelerate.num_prompts=20", "accelerate.gate=none"]),
    ({"accelerate.max_length_change": 0.1, **ACCURACY}, ["accelerate.max_length_change=0.1", "gate=accuracy"]),
    ({"accelerate.anchor": AnchorRule.initial}, ["accelerate.anchor=initial", "accelerate.gate=none"]),
    ({"accelerate.history_size": 8}, ["accelerate.history_size=8", "accelerate.gate=none"]),
    (
        {"accelerate.direction_ema": 0.9, **ACCURACY},
        ["accelerate.direction_ema=0.9", "accelerate.direction=difference", "add accelerate.direction=ema"],
    ),
    (
        {"accelerate.direction": DirectionKind.nesterov, "accelerate.anchor": AnchorRule.pre_jump, **ACCURACY},
        ["accelerate.direction=nesterov and accelerate.anchor=pre_jump", "use accelerate.anchor=post_jump"],
    ),
    ({"accelerate.lr_max": 1e-7, **ACCURACY}, ["accelerate.lr_max=1e-07 and learner.lr=1e-06", "raise"]),
    ({"accelerate.search": SearchKind.fixed}, ["accelerate.search=fixed", "accelerate.gate=none"]),
    ({"accelerate.every": 8, **ACCURACY}, ["accelerate.every=8", "schedule=powers_of_two", "schedule=every"]),
    ({"accelerate.resume_factor": 2.0, **ACCURACY, **EVERY}, ["accelerate.resume_factor=2.0", "schedule=adaptive"]),
    ({"accelerate.max_candidates": 8, **ACCURACY}, ["accelerate.max_candidates=8", "accelerate.search=ladder"]),
    ({"accelerate.max_step_size": 8.0, **ACCURACY}, ["accelerate.max_step_size=8.0", "accelerate.search=parabola"]),
    ({"accelerate.min_posterior": 0.9, **ACCURACY}, ["accelerate.min_posterior=0.9", "accelerate.accept=paired"]),
    ({"accelerate.win_rate": 0.6, **ACCURACY}, ["accelerate.win_rate=0.6", "accelerate.accept=sequential"]),
    ({"accelerate.audit_grid": [1.0], **ACCURACY}, ["accelerate.audit_grid", "accelerate.audit_prompts=0"]),
    ({"accelerate.num_prompts": 9, **UNGATED}, ["accelerate.num_prompts=9", "accelerate.gate=ungated"]),
    ({"accelerate.path": "gate.jsonl", **UNGATED}, ["accelerate.path=gate.jsonl", "accelerate.gate=ungated"]),
    ({"accelerate.path": "nowhere.jsonl", **ACCURACY}, ["accelerate.path=nowhere.jsonl", "no such file"]),
    ({"accelerate.lr_on_reject": 0.7, **UNGATED}, ["accelerate.lr_on_reject=0.7", "accelerate.gate=ungated"]),
    ({"accelerate.step_sizes": [-1.0, 2.0], **ACCURACY}, ["accelerate.step_sizes=[-1.0,2.0]", "gate=ungated"]),
    ({"accelerate.search": SearchKind.repeat, **ACCURACY}, ["accelerate.search=repeat", "step_sizes=[1]"]),
    ({"accelerate.search": SearchKind.parabola, **ACCURACY}, ["accelerate.search=parabola", "step_sizes=[2,6]"]),
    (
        {"accelerate.search": SearchKind.parabola, "accelerate.step_sizes": [2.0, 12.0], **ACCURACY},
        ["accelerate.step_sizes=[2.0,12.0]", "accelerate.max_step_size=10.0"],
    ),
    ({**UNGATED, "accelerate.search": SearchKind.ladder}, ["accelerate.gate=ungated", "accelerate.search=ladder"]),
    (
        {**UNGATED, "accelerate.schedule": ScheduleKind.adaptive},
        ["accelerate.gate=ungated", "accelerate.schedule=adaptive"],
    ),
    (
        {"accelerate.gate": GateKind.reuse_kl, "accelerate.accept": AcceptRule.sequential},
        ["accelerate.accept=sequential", "accelerate.gate=reuse_kl"],
    ),
    (
        {
            "accelerate.accept": AcceptRule.sequential,
            "accelerate.search": SearchKind.parabola,
            "accelerate.step_sizes": [2.0, 6.0],
            **ACCURACY,
        },
        ["accelerate.accept=sequential", "accelerate.search=parabola"],
    ),
    ({"accelerate.search": SearchKind.parallel, **ACCURACY}, ["accelerate.search=parallel", "rollout.num_samplers=1"]),
    (
        {"accelerate.gate": GateKind.reverse_kl, "algo.teacher_scale": 1.25},
        ["accelerate.gate=reverse_kl", "algo.teacher_scale=1.25", "another objective"],
    ),
    ({"accelerate.max_kl_increase": 0.2, **ACCURACY, **GRPO}, ["accelerate.max_kl_increase=0.2", "algo.name=grpo"]),
    (
        {"teacher.path": "???", "accelerate.audit_prompts": 64, **ACCURACY, **GRPO},
        ["teacher.path is required", "accelerate.audit_prompts=64"],
    ),
    (
        {"data.verifier": None, "accelerate.gate": GateKind.kl_then_accuracy},
        ["accelerate.gate=kl_then_accuracy", "data.verifier=null"],
    ),
    (
        {"data.num_rows": 60, "accelerate.audit_prompts": 10, **ACCURACY},
        ["data.num_rows=60", "accelerate.num_prompts=50", "accelerate.audit_prompts=10"],
    ),
    ({"data.num_rows": 50, **ACCURACY}, ["data.num_rows=50", "accelerate.num_prompts=50"]),
    ({"debug.mode": DebugMode.rollout_only, **ACCURACY}, ["debug.mode=rollout_only", "accelerate.gate=accuracy"]),
    ({"rollout.engine": RolloutEngine.hf, "rollout.tensor_parallel_size": 2}, ["rollout.tensor_parallel_size=2"]),
    ({"rollout.engine": RolloutEngine.hf, "rollout.kv_cache_gib": 4.0}, ["rollout.kv_cache_gib=4.0"]),
    ({"eval.temperature": 0.0, "eval.samples_per_prompt": 4}, ["eval.temperature=0.0", "greedy"]),
    ({"learner.num_ranks": 2, **LOCAL}, ["learner.num_ranks=2", "cluster.runtime=local"]),
    ({"rollout.num_samplers": 2, **LOCAL}, ["rollout.num_samplers=2", "cluster.runtime=local"]),
    ({"cluster.address": "auto", **LOCAL}, ["cluster.address=auto", "cluster.runtime=local"]),
    ({"cluster.max_restarts": 1, **LOCAL}, ["cluster.max_restarts=1", "in one process"]),
    ({"cluster.hang_seconds": 60.0, **LOCAL}, ["cluster.hang_seconds=60", "in one process"]),
    ({"cluster.machine_wait_seconds": 60}, ["cluster.machine_wait_seconds=60", "on one machine", "cluster.address"]),
    ({"pipeline.max_staleness": 1, **LOCAL}, ["pipeline.max_staleness=1", "no effect in one process"]),
    (
        {"pipeline.max_staleness": 1, "debug.mode": DebugMode.rollout_only},
        ["pipeline.max_staleness=1", "debug.mode=rollout_only"],
    ),
    (
        {"pipeline.max_staleness": 2, "accelerate.every": 1, **EVERY, **ACCURACY},
        ["pipeline.max_staleness=2", "accelerate.every=1", "across a trigger"],
    ),
    (
        {"learner.packing": True, "model.attn_implementation": "eager"},
        ["learner.packing=true", "model.attn_implementation=eager", "sdpa"],
    ),
    ({"pipeline.num_pieces": 2, **LOCAL}, ["pipeline.num_pieces=2", "no effect in one process"]),
    (
        {"pipeline.num_pieces": 2, "debug.recorded": "/", **TRAIN_ONLY},
        ["pipeline.num_pieces=2", "where nothing is sampled"],
    ),
    (
        {"pipeline.num_pieces": 5, "rollout.num_samplers": 2, "rollout.prompts_per_step": 8},
        ["rollout.num_samplers=2", "pipeline.num_pieces=5", "rollout.prompts_per_step=8", "10 pieces", "lower"],
    ),
    ({"logger.wandb_project": "mine"}, ["logger.wandb_project=mine", "logger.wandb=disabled"]),
    ({"logger.rollouts_every": 0, "logger.rollouts_per_sample": 8}, ["logger.rollouts_per_sample=8"]),
    ({"debug.recorded": "x"}, ["debug.recorded=x", "debug.mode=none"]),
    (TRAIN_ONLY, ["debug.mode=train_only", "debug.recorded"]),
    ({"debug.recorded": "nowhere", **TRAIN_ONLY}, ["debug.recorded=nowhere", "no such folder"]),
    ({"debug.recorded": "/", "eval.path": "some/prompts", **TRAIN_ONLY}, ["eval.path=some/prompts", "eval=none"]),
]


@pytest.mark.parametrize(("changes", "words"), VIOLATIONS, ids=[" ".join(words[:2]) for _, words in VIOLATIONS])
def test_a_violated_rule_names_its_keys(changes, words):
    (violation,) = check.training_violations(changed(changes))
    assert not [word for word in words if word not in violation], violation


PERMITTED = [
    {},
    {"rollout.max_model_len": 1536},
    {"eval.path": "some/prompts", "eval.max_response_len": 1025},
    {"resume": "a", "output_dir": "a"},
    {"data.verifier": None, "accelerate.gate": GateKind.reverse_kl},
    {"accelerate.gate": GateKind.reverse_kl, "accelerate.max_length_change": 0.1},
    {"data.num_rows": 51, **ACCURACY},
    {"accelerate.direction": DirectionKind.gram_pca, "accelerate.history_size": 8, **ACCURACY},
    UNGATED,
    {"data.num_rows": 50, **UNGATED},
    {"accelerate.every": 8, **EVERY, **UNGATED},
    {"accelerate.max_kl_increase": 0.2, **ACCURACY},
    {"accelerate.search": SearchKind.parallel, "rollout.num_samplers": 2, **ACCURACY},
    {"accelerate.accept": AcceptRule.sequential, "accelerate.win_rate": 0.6, **ACCURACY},
    {"logger.wandb": WandbMode.offline, "logger.wandb_project": "mine"},
    {"data.path": "toy:sums"},
    {"teacher.path": "???", **GRPO},
    {"teacher.path": "???", **PPO},
    {"teacher.path": "???", **ACCURACY, **GRPO},
    {"algo.reward_coef": 0.5, "rollout.samples_per_prompt": 2},
    {"algo.kl_coef": 0.1, "algo.kl_in": KLPlacement.reward, "algo.value_clip": 0.5, **PPO},
    {"algo.dynamic_sampling": True, "algo.max_sampling_rounds": 3, "algo.overlong_buffer": 1023, **DAPO},
    {"algo.num_minibatches": 256, "algo.num_epochs": 4, **GRPO},
]


@pytest.mark.parametrize("changes", PERMITTED, ids=str)
def test_what_no_rule_forbids_is_permitted(changes):
    assert check.training_violations(changed(changes)) == []


def test_the_kl_gate_needs_an_algorithm_that_minimises_the_reverse_kl():
    ppo = {"accelerate.gate": GateKind.reverse_kl, "algo.name": AlgorithmName.ppo}
    (violation,) = check.training_violations(changed(ppo))
    assert "accelerate.gate=reverse_kl and algo.name=ppo" in violation


def test_all_violations_are_reported_at_once_one_a_line():
    config = changed({"learner.warmup_steps": 100, "debug.recorded": "x", "logger.wandb_project": "mine"})
    with pytest.raises(ConfigError) as raised:
        check.check_training(config)
    assert len(str(raised.value).splitlines()) == 3


def test_an_evaluation_needs_neither_teacher_nor_training_prompts():
    config = RunConfig()
    config.model.path = "some/student"
    config.eval.path = "some/prompts"
    config.data.verifier = "package.module:function"
    check.check_evaluation(config)

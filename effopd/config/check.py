"""Rules that span groups of settings, all of them checked before any actor starts.

Single values are checked by the dataclasses of `schema.py`. What cannot be known without a GPU, a tokenizer or the data
itself is not checked here. Standard library only.
"""

from collections.abc import Iterable, Iterator
from dataclasses import fields
from operator import attrgetter
from pathlib import Path

from effopd.config.check_accelerate import acceleration_violations
from effopd.config.check_data import TOY_TASKS, data_violations, is_local, toy_hint
from effopd.config.evaluation import evaluation_sets, longest_sequence
from effopd.config.keys import MISSING, written
from effopd.config.schema import (
    KL_GATES,
    REVERSE_KL_ALGORITHMS,
    AlgorithmName,
    AnchorRule,
    DebugMode,
    DirectionKind,
    GateKind,
    RolloutEngine,
    RunConfig,
    Runtime,
    WandbMode,
)
from effopd.config.search_schema import ScheduleKind
from effopd.errors import ConfigError

TOY_MODELS = tuple(f"{task}_{stage}" for task in TOY_TASKS for stage in ("base", "teacher"))

_CLIPPING = ("clip_low", "clip_high", "dual_clip", "importance_cap", "num_minibatches", "num_epochs")
_READ_BY = {
    AlgorithmName.opd: {*_CLIPPING, "reward_coef", "teacher_scale"},
    AlgorithmName.opd_full: {"num_minibatches", "num_epochs"},
    AlgorithmName.grpo: {*_CLIPPING, "kl_coef", "dynamic_sampling", "max_sampling_rounds"},
    AlgorithmName.dapo: {*_CLIPPING, "overlong_buffer", "dynamic_sampling", "max_sampling_rounds"},
    AlgorithmName.ppo: {*_CLIPPING, "kl_coef", "kl_in", "discount", "gae_lambda", "value_clip", "critic_lr"},
}
"""The settings of `algo` that each algorithm looks at, beside its name."""

_READ_BY_DIRECTION = {
    "direction_ema": DirectionKind.ema,
    "history_size": DirectionKind.gram_pca,
    "outer_momentum": DirectionKind.nesterov,
    "outer_lr": DirectionKind.nesterov,
}
"""The settings of `accelerate` that one direction alone looks at."""

_DEFAULTS = RunConfig()


def check_training(config: RunConfig) -> None:
    """Raise ConfigError with one line per rule that a training run violates."""
    _raise(training_violations(config))


def check_evaluation(config: RunConfig) -> None:
    """Raise ConfigError with one line per rule that `effopd eval` violates."""
    _raise(evaluation_violations(config))


def _raise(violations: list[str]) -> None:
    if violations:
        raise ConfigError("\n".join(violations))


def training_violations(config: RunConfig) -> list[str]:
    """One line per violated rule: keys and values, the rule, the remedy."""
    return [
        *_run(config),
        *_teacher(config),
        *_models(config, ("model.path", "teacher.path") if config.teacher.path != MISSING else ("model.path",)),
        *data_violations(config, is_training=True),
        *_lengths(config),
        *_learner(config),
        *_algorithm(config),
        *acceleration_violations(config),
        *_jump(config),
        *_rollout(config),
        *_cluster(config),
        *_pipeline(config),
        *_logger(config),
        *_debug(config),
    ]


def evaluation_violations(config: RunConfig) -> list[str]:
    """Likewise, for what `effopd eval` reads; its teacher is optional."""
    has_teacher = config.teacher.path != MISSING
    return [
        *_models(config, ("model.path", "teacher.path") if has_teacher else ("model.path",)),
        *(_eval_teacher(config) if has_teacher else ()),
        *data_violations(config, is_training=False),
        *_lengths(config),
        *_rollout(config),
        *_cluster(config),
        *_given_responses(config),
    ]


def _shown(config: RunConfig, *keys: str) -> str:
    """`a.b=1 and c=2`."""
    return " and ".join(f"{key}={written(attrgetter(key)(config))}" for key in keys)


def _without_effect(config: RunConfig, keys: Iterable[str], reason: str, remedy: str) -> Iterator[str]:
    """A violation for every key that differs from its default although nothing reads it."""
    for key in keys:
        if attrgetter(key)(config) != attrgetter(key)(_DEFAULTS):
            yield f"{_shown(config, key)}: has no effect {reason}; {remedy}"


def _run(config: RunConfig) -> Iterator[str]:
    yield from _without_effect(config, ["eval.responses"], "in training", "use it with effopd eval")
    if config.resume is not None and config.output_dir not in (None, config.resume):
        yield f"{_shown(config, 'resume', 'output_dir')}: a resumed run writes into its own folder; leave output_dir out"


def _models(config: RunConfig, keys: Iterable[str]) -> Iterator[str]:
    for key in keys:
        path = attrgetter(key)(config)
        if path.startswith("toy:"):
            name = path.removeprefix("toy:")
            if name not in TOY_MODELS:
                names = ", ".join(f"toy:{choice}" for choice in TOY_MODELS)
                yield f"{_shown(config, key)}: no such toy model{toy_hint(name, TOY_MODELS)}; choose from {names}"
        elif is_local(path) and not (Path(path) / "config.json").is_file():
            what = "has no config.json" if Path(path).is_dir() else "is no folder"
            yield f"{_shown(config, key)}: {what}; give a Hugging Face model folder"
    template = config.model.chat_template
    if template is not None and not Path(template).is_file():
        yield f"{_shown(config, 'model.chat_template')}: no such file; give a Jinja file"


def _given_responses(config: RunConfig) -> Iterator[str]:
    path = config.eval.responses
    if path is None:
        return
    if not is_local(path) or not Path(path).expanduser().exists():
        yield f"{_shown(config, 'eval.responses')}: no such file; give the responses.parquet of an evaluation, or a JSONL"
    if config.teacher.path != MISSING:
        keys = _shown(config, "eval.responses", "teacher.path")
        yield f"{keys}: the reverse KL needs the sampler's log-probabilities, which a file lacks; leave one of them out"


def _eval_teacher(config: RunConfig) -> Iterator[str]:
    for one in evaluation_sets(config).values():
        if one.temperature != 1 or one.top_p != 1:
            yield (
                f"{_shown(config, 'teacher.path')} and {one.section}.temperature={one.temperature} and "
                f"{one.section}.top_p={one.top_p}: the reverse KL is estimated on the student's own samples, drawn at "
                "temperature 1 and top-p 1; set both to 1, or leave out the teacher"
            )


def _lengths(config: RunConfig) -> Iterator[str]:
    held, longest = config.rollout.max_model_len, longest_sequence(config)
    if held is not None and held < longest.num_tokens:
        parts = f"{_value(config, longest.prompt_len_key)} and {_value(config, longest.response_len_key)}"
        yield (
            f"{_shown(config, 'rollout.max_model_len')} and {parts}: an engine must hold prompt and response, "
            f"{longest.num_tokens} tokens; set rollout.max_model_len={longest.num_tokens}"
        )


def _value(config: RunConfig, key: str) -> str:
    """`key=value`, also for a setting of a named evaluation set."""
    section, _, name = key.rpartition(".")
    if not section.startswith("eval.sets."):
        return _shown(config, key)
    return f"{key}={written(getattr(config.eval.sets[section.split('.')[2]], name))}"


def _learner(config: RunConfig) -> Iterator[str]:
    if config.learner.warmup_steps >= config.num_steps:
        keys = _shown(config, "learner.warmup_steps", "num_steps")
        yield f"{keys}: the warm-up must end before the run; lower learner.warmup_steps"
    if config.learner.packing and config.model.attn_implementation == "eager":
        keys = _shown(config, "learner.packing", "model.attn_implementation")
        yield f"{keys}: eager attention would score all tokens of a packed row by all; use sdpa or flash_attention_2"
    if config.rollout.prompts_per_step < config.learner.num_ranks:
        keys = _shown(config, "rollout.prompts_per_step", "learner.num_ranks")
        yield f"{keys}: every rank needs a prompt; raise rollout.prompts_per_step"


def needs_teacher(config: RunConfig) -> bool:
    """Return whether the objective, the gate or an audit asks a teacher."""
    accelerate = config.accelerate
    return config.algo.name in REVERSE_KL_ALGORITHMS or accelerate.gate in KL_GATES or accelerate.audit_prompts > 0


def needs_teacher_head(config: RunConfig) -> bool:
    """Return whether the learner forms the teacher's full distribution: in the loss, for the gate or for an audit."""
    accelerate = config.accelerate
    is_full = config.algo.name is AlgorithmName.opd_full
    return is_full or accelerate.gate in KL_GATES or accelerate.audit_prompts > 0


def needs_rewards(config: RunConfig) -> bool:
    """Return whether the objective asks a verifier."""
    return config.algo.name not in REVERSE_KL_ALGORITHMS or config.algo.reward_coef > 0


def _teacher(config: RunConfig) -> Iterator[str]:
    if needs_teacher(config) and config.teacher.path == MISSING:
        reason = f"with {_shown(config, 'algo.name')}"
        if config.algo.name not in REVERSE_KL_ALGORITHMS:
            key = "accelerate.gate" if config.accelerate.gate in KL_GATES else "accelerate.audit_prompts"
            reason = f"with {_shown(config, key)}"
        yield f"teacher.path is required {reason}; give a model folder, hub name or toy:sums_teacher"


def _algorithm(config: RunConfig) -> Iterator[str]:
    algo, rollout = config.algo, config.rollout
    unread = [entry.name for entry in fields(algo) if entry.name not in _READ_BY[algo.name] | {"name"}]
    remedy = "leave it out, or choose an algorithm that reads it"
    yield from _without_effect(config, [f"algo.{name}" for name in unread], f"with algo.name={algo.name}", remedy)
    if not algo.dynamic_sampling and "max_sampling_rounds" not in unread:
        remedy = "add algo.dynamic_sampling=true"
        yield from _without_effect(config, ["algo.max_sampling_rounds"], "with algo.dynamic_sampling=false", remedy)
    if algo.name is AlgorithmName.ppo and algo.kl_coef == 0:
        yield from _without_effect(config, ["algo.kl_in"], "with algo.kl_coef=0", "set algo.kl_coef")
    if needs_rewards(config):
        if config.data.verifier is None:
            keys = _shown(config, "algo.name", "data.verifier")
            yield f"{keys}: the objective is made of rewards; give one such as effopd.rewards.math:verify"
        if algo.name is not AlgorithmName.ppo and rollout.samples_per_prompt < 2:
            keys = _shown(config, "algo.name", "rollout.samples_per_prompt")
            yield f"{keys}: responses to one prompt are compared with each other; set rollout.samples_per_prompt=8"
    if algo.num_minibatches > rollout.prompts_per_step:
        keys = _shown(config, "algo.num_minibatches", "rollout.prompts_per_step")
        yield f"{keys}: every mini-batch needs a prompt; lower algo.num_minibatches"
    if algo.overlong_buffer >= rollout.max_response_len:
        keys = _shown(config, "algo.overlong_buffer", "rollout.max_response_len")
        yield f"{keys}: the buffer lies before the limit; lower algo.overlong_buffer"


def _jump(config: RunConfig) -> Iterator[str]:
    direction, anchor = config.accelerate.direction, config.accelerate.anchor
    if config.accelerate.gate is GateKind.none:
        return
    for name, reader in _READ_BY_DIRECTION.items():
        if direction is not reader:
            reason, remedy = f"with accelerate.direction={direction}", f"add accelerate.direction={reader}"
            yield from _without_effect(config, [f"accelerate.{name}"], reason, remedy)
    if direction is DirectionKind.nesterov and anchor is not AnchorRule.post_jump:
        keys = _shown(config, "accelerate.direction", "accelerate.anchor")
        yield f"{keys}: outer steps follow upon each other; use accelerate.anchor=post_jump"
    lr_max = config.accelerate.lr_max
    if lr_max is not None and lr_max < config.learner.lr:
        keys = _shown(config, "accelerate.lr_max", "learner.lr")
        yield f"{keys}: the bound must not lie below the rate that it bounds; raise accelerate.lr_max"


def _rollout(config: RunConfig) -> Iterator[str]:
    if config.rollout.engine is RolloutEngine.hf:
        names = ("tensor_parallel_size", "kv_cache_gib", "gpu_memory_utilization", "enforce_eager")
        keys = [f"rollout.{name}" for name in names]
        yield from _without_effect(config, keys, "with rollout.engine=hf", "use rollout=vllm or leave it out")


def _cluster(config: RunConfig) -> Iterator[str]:
    if config.cluster.address is None:
        remedy = "set cluster.address, or leave it out"
        yield from _without_effect(config, ["cluster.machine_wait_seconds"], "on one machine", remedy)
    if config.cluster.runtime is Runtime.ray:
        return
    for key in ("learner.num_ranks", "rollout.num_samplers"):
        if attrgetter(key)(config) > 1:
            yield f"{_shown(config, key, 'cluster.runtime')}: one process holds one of each role; add cluster=laptop"
    if config.cluster.address is not None:
        yield f"{_shown(config, 'cluster.address', 'cluster.runtime')}: only Ray has an address; add cluster=laptop"
    keys = ["cluster.max_restarts", "cluster.hang_seconds", "pipeline.max_staleness", "pipeline.num_pieces"]
    yield from _without_effect(config, keys, "in one process", "add cluster=laptop")


def _pipeline(config: RunConfig) -> Iterator[str]:
    accelerate, mode = config.accelerate, config.debug.mode
    if mode is not DebugMode.none:
        remedy = "leave it out"
        yield from _without_effect(config, ["pipeline.max_staleness"], f"with debug.mode={mode}", remedy)
    if mode is DebugMode.train_only:
        yield from _without_effect(config, ["pipeline.num_pieces"], "where nothing is sampled", "leave it out")
    num_pieces = config.rollout.num_samplers * config.pipeline.num_pieces
    if config.pipeline.num_pieces > 1 and num_pieces > config.rollout.prompts_per_step:
        keys = ("rollout.num_samplers", "pipeline.num_pieces", "rollout.prompts_per_step")
        yield f"{_shown(config, *keys)}: {num_pieces} pieces, each of at least one prompt; lower pipeline.num_pieces"
    is_rhythmic = accelerate.schedule in (ScheduleKind.every, ScheduleKind.adaptive)
    if accelerate.gate is not GateKind.none and is_rhythmic and accelerate.every == 1:
        reason = "with accelerate.every=1, for nothing is sampled ahead across a trigger"
        yield from _without_effect(config, ["pipeline.max_staleness"], reason, "raise accelerate.every")


def _logger(config: RunConfig) -> Iterator[str]:
    if config.logger.wandb is WandbMode.disabled:
        remedy = "choose logger=wandb or wandb_offline"
        yield from _without_effect(config, ["logger.wandb_project"], "with logger.wandb=disabled", remedy)
    if config.logger.rollouts_every == 0:
        remedy = "set logger.rollouts_every"
        yield from _without_effect(config, ["logger.rollouts_per_sample"], "with logger.rollouts_every=0", remedy)


def _debug(config: RunConfig) -> Iterator[str]:
    recorded = config.debug.recorded
    if config.debug.mode is not DebugMode.train_only:
        yield from _without_effect(
            config, ["debug.recorded"], f"with debug.mode={config.debug.mode}", "add debug=train_only"
        )
        return
    if recorded is None:
        yield "debug.mode=train_only: has nothing to replay; give debug.recorded=<output_dir>/recorded of another run"
    elif not Path(recorded).is_dir():
        yield f"{_shown(config, 'debug.recorded')}: no such folder; give <output_dir>/recorded of a debug=rollout_only run"
    if sets := list(evaluation_sets(config).values()):
        keys = f"{_shown(config, 'debug.mode')} and {sets[0].section}.path={sets[0].source.path}"
        yield f"{keys}: no sampler starts, so nothing can be evaluated; add eval=none"

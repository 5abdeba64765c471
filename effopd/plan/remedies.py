"""The smallest change of settings with which a plan fits: fewest settings first, and among those the cheapest in speed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice, product

from effopd.config.schema import RolloutEngine, RunConfig
from effopd.plan.hardware import Cluster
from effopd.plan.layout import layout_of
from effopd.plan.report import Models, make_plan

_MAX_CHANGES = 3
_MAX_PLANS = 400
"""Looked at on one number of machines before giving up; each takes a hundredth of a second."""
_FEW_GPUS = 8
"""Up to here every count is tried."""
_NODES = (1, 2, 4, 8, 16)
_ROLES = {"learner": {"learner rank"}, "rollout": {"sampler"}, "teacher": {"teacher", "reference"}}
"""By section of the settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One setting and the value that it would get."""

    key: str
    value: object

    def __str__(self) -> str:
        return f"{self.key}={str(self.value).lower()}"


def smallest_change(config: RunConfig, cluster: Cluster, models: Models) -> str | None:
    """Return overrides, in words that the command line takes, with which the plan fits; None when none was found.

    Settings alone come first, on the machines there are; then more machines of the same kind.
    """
    for num_nodes in [cluster.num_nodes, *(nodes for nodes in _NODES if nodes > cluster.num_nodes)]:
        larger = replace(cluster, num_nodes=num_nodes)
        nodes = [] if larger == cluster else [f"--nodes {num_nodes}"]
        candidates = _candidates(_knobs(config, larger, models), fewest=0 if nodes else 1)
        for changes in islice(candidates, _MAX_PLANS):
            if make_plan(_changed(config, changes), larger, models).fits:
                return " ".join([*(str(change) for change in changes), *nodes])
    return None


def _candidates(knobs: Sequence[Sequence[Change]], fewest: int) -> Iterator[tuple[Change, ...]]:
    for num_changes in range(fewest, _MAX_CHANGES + 1):
        for chosen in combinations(knobs, num_changes):
            yield from product(*chosen)


def _knobs(config: RunConfig, cluster: Cluster, models: Models) -> list[list[Change]]:
    """Return for every setting that can help the values it could get, the least drastic first.

    Settings of a role that fits are left alone, but for how many GPUs it has.
    """
    refused = {role.role for role in make_plan(config, cluster, models).roles if not role.fits}
    learner, rollout, teacher = config.learner, config.rollout, config.teacher
    longest = config.data.max_prompt_len + config.rollout.max_response_len  # of training: no budget holds it to less
    others = layout_of(config).num_gpus - learner.num_ranks - rollout.num_samplers * rollout.tensor_parallel_size
    free = max(cluster.num_gpus - others, 1)
    knobs = {
        "learner.packing": [True] if not learner.packing and config.model.attn_implementation == "sdpa" else [],
        "learner.activation_checkpointing": [True] if not learner.activation_checkpointing else [],
        "rollout.gpu_memory_utilization": [
            value
            for value in (0.7, 0.8, 0.9)
            if value > rollout.gpu_memory_utilization and rollout.engine is RolloutEngine.vllm
        ],
        "learner.logit_chunk_tokens": [value for value in (512, 256) if value < learner.logit_chunk_tokens],
        "learner.max_tokens_per_microbatch": [longest] if longest < learner.max_tokens_per_microbatch else [],
        "teacher.max_tokens_per_batch": [longest] if longest < teacher.max_tokens_per_batch else [],
        "learner.zero_stage": list(range(learner.zero_stage + 1, 4)),
        "rollout.tensor_parallel_size": [
            value
            for value in (2, 4, 8)
            if value > rollout.tensor_parallel_size and rollout.engine is RolloutEngine.vllm
        ],
        "rollout.num_samplers": _near(rollout.num_samplers, free - 1),
        "learner.num_ranks": _near(learner.num_ranks, free - 1),
    }
    counts = ("learner.num_ranks", "rollout.num_samplers")
    return [
        [Change(key=key, value=value) for value in values]
        for key, values in knobs.items()
        if values and (key in counts or refused & _ROLES[key.partition(".")[0]])
    ]


def _near(current: int, most: int) -> list[int]:
    """Return numbers from 1 to `most` but `current`, the nearest first: all of a few, else those that a person would try."""
    tried = range(1, most + 1) if most <= _FEW_GPUS else (current - 1, current + 1, current // 2, current * 2, most)
    return sorted(
        {number for number in tried if 1 <= number <= most} - {current}, key=lambda number: abs(number - current)
    )


def _changed(config: RunConfig, changes: tuple[Change, ...]) -> RunConfig:
    for change in changes:
        section, _, name = change.key.partition(".")
        match section:
            case "learner":
                config = replace(config, learner=replace(config.learner, **{name: change.value}))
            case "rollout":
                config = replace(config, rollout=replace(config.rollout, **{name: change.value}))
            case _:
                config = replace(config, teacher=replace(config.teacher, **{name: change.value}))
    return config

"""Scored rollouts on disk, so that either half of a step can run without the other.

`debug=rollout_only` writes `recorded/step_NNNNNN.{safetensors,json}`; `debug=train_only` replays them through the
learner, on any number of ranks.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import cast

from safetensors.torch import load_file, save_file
from torch import Tensor

from effopd.errors import DataError
from effopd.handles import split_by_prompt, summarise
from effopd.types import (
    AlgorithmNeeds,
    FinishReason,
    GenerateRequest,
    PolicyVersion,
    Publication,
    Rollout,
    RolloutHandle,
    ScoredHandle,
    ScoredRollout,
    TeacherPayload,
    TeacherScores,
)


def save_recorded(folder: Path, step: int, rollouts: Sequence[ScoredRollout]) -> None:
    """Write the rollouts that the update after `step` would train on."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    rows = []
    for index, scored in enumerate(rollouts):
        rollout = scored.rollout
        tensors[f"{index}.response_token_ids"] = rollout.response_token_ids
        tensors[f"{index}.rollout_logprobs"] = rollout.rollout_logprobs
        if scored.teacher is not None and scored.teacher.sampled is not None:
            tensors[f"{index}.sampled"] = scored.teacher.sampled
        if scored.teacher is not None and scored.teacher.hidden_states is not None:
            tensors[f"{index}.hidden_states"] = scored.teacher.hidden_states
        if scored.reference_logprobs is not None:
            tensors[f"{index}.reference_logprobs"] = scored.reference_logprobs
        rows.append(
            {
                "prompt_id": rollout.prompt_id,
                "sample_index": rollout.sample_index,
                "prompt_token_ids": list(rollout.prompt_token_ids),
                "text": rollout.text,
                "finish_reason": rollout.finish_reason.value,
                "seed": rollout.seed,
                "policy_version": [rollout.policy_version.step, rollout.policy_version.candidate],
                "reward": scored.reward,
            }
        )
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, _path(folder, step, "safetensors"))
    _path(folder, step, "json").write_text(json.dumps(rows) + "\n")


def load_recorded(folder: Path, step: int) -> list[ScoredRollout]:
    """Read what `save_recorded` wrote. Raises DataError when that step was not recorded."""
    path = _path(folder, step, "json")
    if not path.is_file():
        raise DataError(
            f"debug.recorded={folder}: no rollouts of step {step} ({path.name}); record more or lower num_steps"
        )
    tensors = load_file(_path(folder, step, "safetensors"))
    rollouts = []
    for index, row in enumerate(json.loads(path.read_text())):
        sampled, hidden_states = tensors.get(f"{index}.sampled"), tensors.get(f"{index}.hidden_states")
        rollout = Rollout(
            prompt_id=row["prompt_id"],
            sample_index=row["sample_index"],
            prompt_token_ids=tuple(row["prompt_token_ids"]),
            response_token_ids=tensors[f"{index}.response_token_ids"],
            rollout_logprobs=tensors[f"{index}.rollout_logprobs"],
            text=row["text"],
            finish_reason=FinishReason(row["finish_reason"]),
            seed=row["seed"],
            policy_version=PolicyVersion(step=row["policy_version"][0], candidate=row["policy_version"][1]),
        )
        rollouts.append(
            ScoredRollout(
                rollout=rollout,
                teacher=TeacherScores(sampled=sampled, hidden_states=hidden_states),
                reward=row["reward"],
                reference_logprobs=tensors.get(f"{index}.reference_logprobs"),
            )
        )
    return rollouts


class ReplayedRollouts:
    """A sampler and a teacher that read a recording. They load no weights and sample nothing."""

    def __init__(self, folder: Path, num_ranks: int, needs: AlgorithmNeeds) -> None:
        self._folder = folder
        self._num_ranks = num_ranks
        self._needs = needs

    def load(self, publication: Publication) -> None:
        """Ignore new weights: what was sampled is on disk."""

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        scored = load_recorded(self._folder, version.step)
        for item in scored:
            self._check(item)
        by_rollout = {id(item.rollout): item for item in scored}
        parts = split_by_prompt([item.rollout for item in scored], self._num_ranks)
        return RolloutHandle(
            parts=tuple(([by_rollout[id(rollout)] for rollout in part],) for part in parts),
            summaries=tuple(summary for part in parts for summary in summarise(part)),
            policy_version=version,
        )

    def stream(self, request: GenerateRequest, version: PolicyVersion) -> Iterator[tuple[int, RolloutHandle]]:
        yield 0, self.generate(request, version)

    def _check(self, item: ScoredRollout) -> None:
        teacher = item.teacher or TeacherScores()
        lacks = {
            "the teacher's log-probabilities": self._needs.teacher is TeacherPayload.SAMPLED
            and teacher.sampled is None,
            "the teacher's hidden states": self._needs.teacher is TeacherPayload.HIDDEN_STATES
            and teacher.hidden_states is None,
            "rewards": self._needs.rewards and item.reward is None,
            "the reference's log-probabilities": self._needs.reference and item.reference_logprobs is None,
        }
        missing = " and ".join(what for what, is_missing in lacks.items() if is_missing)
        if missing:
            raise DataError(
                f"debug.recorded={self._folder}: the recording lacks {missing}, which this algorithm trains on; "
                "record it with the same algo"
            )

    def preview(self, rollouts: RolloutHandle, num_rollouts: int) -> list[Rollout]:
        return [item.rollout for (part,) in rollouts.parts for item in cast(list[ScoredRollout], part)][:num_rollouts]

    def groups(self, most: int) -> Sequence["ReplayedRollouts"]:
        return (self,)

    def score(self, rollouts: RolloutHandle, payload: TeacherPayload) -> ScoredHandle:
        return ScoredHandle(parts=rollouts.parts, summaries=rollouts.summaries, policy_version=rollouts.policy_version)

    def begin_score(self, rollouts: RolloutHandle, payload: TeacherPayload) -> Callable[[], ScoredHandle]:
        return partial(self.score, rollouts, payload)

    def fetch(self, batch: ScoredHandle) -> list[ScoredRollout]:
        return [item for (part,) in batch.parts for item in cast(list[ScoredRollout], part)]


class NothingToPublish:
    """A publisher for runs whose samplers are a recording."""

    def publish(self, version: PolicyVersion) -> None:
        """Do nothing."""


def _path(folder: Path, step: int, suffix: str) -> Path:
    return folder / f"step_{step:06d}.{suffix}"

"""What the ranks of `test_learner.py` do. Every case runs on all ranks and returns plain numbers and arrays."""

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import torch
from transformers import AutoModelForCausalLM

from effopd.algorithms.build import build_algorithm
from effopd.checkpoints.learner_state import CRITIC_KINDS, OPTIMIZER_KINDS, POLICY_KINDS
from effopd.config.schema import (
    AccelerateConfig,
    AlgoConfig,
    AlgorithmName,
    Device,
    Dtype,
    KLPlacement,
    LearnerConfig,
    NonfiniteRule,
)
from effopd.engines import deepspeed_setup
from effopd.engines.deepspeed_learner import DeepSpeedLearner
from effopd.errors import EffOPDError
from effopd.types import (
    FinishReason,
    PolicyVersion,
    Rollout,
    ScoredRollout,
    Settlement,
    ShardKind,
    TeacherScores,
)
from effopd.weights import SegmentReader

VOCABULARY = 53
TEACHER_WIDTH = 11
LR = 1e-3
CRITIC_LR = 3e-3

_PPO = AlgoConfig(name=AlgorithmName.ppo, kl_coef=0.1, kl_in=KLPlacement.reward, gae_lambda=0.9, critic_lr=CRITIC_LR)
_GRPO = AlgoConfig(name=AlgorithmName.grpo, kl_coef=0.1)
ALGOS = {
    "opd": AlgoConfig(),
    "opd_full": AlgoConfig(name=AlgorithmName.opd_full),
    "opd_and_outcome": AlgoConfig(reward_coef=0.5, num_minibatches=2, num_epochs=2),
    "dapo_in_four_steps": AlgoConfig(name=AlgorithmName.dapo, overlong_buffer=4, num_minibatches=2, num_epochs=2),
    "grpo": _GRPO,
    "grpo_in_two_steps": replace(_GRPO, num_minibatches=2),
    "grpo_in_four_steps": replace(_GRPO, num_minibatches=2, num_epochs=2),
    "ppo": _PPO,
    "ppo_in_two_steps": replace(_PPO, num_minibatches=2),
    "ppo_in_four_steps": replace(_PPO, num_minibatches=2, num_epochs=2),
}
"""By name, so that settings can be cached and sent."""
MAX_RESPONSE_LEN = 8

# So that some parameters of a tiny model are persistent under ZeRO-3 and some are not.
deepspeed_setup._PERSISTENT_ELEMENTS = 500


def make_rollouts(num_rollouts: int, seed: int = 0) -> list[ScoredRollout]:
    """Ragged rollouts, two samples per prompt, with whatever any algorithm needs but hidden states."""
    rollouts = []
    for index in range(num_rollouts):
        generator = torch.Generator().manual_seed(1000 * seed + index)
        prompt_len, response_len = 2 + index % 4, 1 + (3 * index) % 8
        rollout = Rollout(
            prompt_id=f"prompt-{index // 2}",
            sample_index=index % 2,
            prompt_token_ids=tuple(torch.randint(VOCABULARY, (prompt_len,), generator=generator).tolist()),
            response_token_ids=torch.randint(VOCABULARY, (response_len,), generator=generator),
            rollout_logprobs=-math.log(VOCABULARY) + 0.1 * torch.randn(response_len, generator=generator),
            text="",
            finish_reason=FinishReason.LENGTH,
            seed=0,
            policy_version=PolicyVersion(step=0),
        )
        teacher = TeacherScores(sampled=-math.log(VOCABULARY) + torch.randn(response_len, generator=generator))
        reference = rollout.rollout_logprobs + 0.3 * torch.randn(response_len, generator=generator)
        reward = (7 * index % 5) / 4
        rollouts.append(ScoredRollout(rollout=rollout, teacher=teacher, reward=reward, reference_logprobs=reference))
    return rollouts


def with_hidden_states(rollouts: list[ScoredRollout]) -> list[ScoredRollout]:
    return [
        replace(
            scored,
            teacher=TeacherScores(
                hidden_states=torch.randn(
                    scored.rollout.response_len, TEACHER_WIDTH, generator=torch.Generator().manual_seed(index)
                )
            ),
        )
        for index, scored in enumerate(rollouts)
    ]


def teacher_head() -> torch.Tensor:
    return torch.randn(VOCABULARY, TEACHER_WIDTH, generator=torch.Generator().manual_seed(99))


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and "layers" in name


def make_learner(
    rank: int,
    world_size: int,
    *,
    model: str,
    stage: int = 0,
    dtype: str = "float32",
    num_steps: int = 100,
    segment: str | None = None,
    algo: str = "opd",
    moved: Any = is_matrix,
    accelerate: AccelerateConfig | None = None,
    **settings: Any,
) -> DeepSpeedLearner:
    config = LearnerConfig(zero_stage=stage, dtype=Dtype(dtype), lr=LR, num_threads=1, bucket_mib=1)
    for name, value in settings.items():
        setattr(config, name, value)
    return DeepSpeedLearner(
        config,
        model_path=model,
        attn_implementation="sdpa",
        algorithm=build_algorithm(ALGOS[algo], MAX_RESPONSE_LEN),
        algo=ALGOS[algo],
        teacher_head=teacher_head() if algo == "opd_full" else None,
        accelerate=accelerate or AccelerateConfig(),
        moved=moved,
        num_steps=num_steps,
        rank=rank,
        world_size=world_size,
        init_method="env://",  # not used: the pool has joined the group
        device=Device.cpu,
        segment_folder=None if segment is None else Path(segment),
    )


def state_of(learner: DeepSpeedLearner, *kinds: ShardKind) -> dict[str, dict[str, numpy.ndarray]]:
    """This rank's fragments by kind and name."""
    names = [fragment.name for fragment in learner.fragments()]
    return {kind.value: {name: tensor.numpy() for name, tensor in learner.read(kind, names).items()} for kind in kinds}


def critic_of(learner: DeepSpeedLearner) -> dict[str, dict[str, numpy.ndarray]]:
    """Likewise of the critic; nothing of any kind without one, or where another rank answers for all of it."""
    names = [fragment.name for fragment in learner.critic_fragments()]
    return {
        kind.value: {name: tensor.numpy() for name, tensor in learner.read(kind, names).items()} if names else {}
        for kind in CRITIC_KINDS
    }


def weights_of(learner: DeepSpeedLearner, rank: int) -> dict[str, torch.Tensor]:
    """Copies of the published tensors; on rank 0 only, for the others hold nothing that can be read."""
    publication = learner.stage(PolicyVersion(step=0))
    if publication is None:
        return {}
    reader = SegmentReader(Path(publication.segment))
    return {name: tensor.clone() for bucket in publication.buckets for name, tensor in reader.tensors(bucket)}


def fingerprint(*groups: dict[str, Any]) -> str:
    """Hash of names and bits."""
    digest = hashlib.sha256()
    for group in groups:
        for name, value in sorted(group.items()):
            digest.update(name.encode())
            digest.update(torch.as_tensor(value).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def reference_logprobs(
    model: str, dtype: str, weights: dict[str, torch.Tensor], rollouts: list[Rollout]
) -> list[list[float]]:
    """Log-probabilities by plain transformers with these weights, one response at a time and without padding."""
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
    plain.load_state_dict(weights, strict=False)
    results = []
    for rollout in rollouts:
        token_ids = torch.tensor([*rollout.prompt_token_ids, *rollout.response_token_ids.tolist()])
        with torch.no_grad():
            logprobs = plain(input_ids=token_ids[None]).logits[0].float().log_softmax(-1)
        start = len(rollout.prompt_token_ids)
        results.append([logprobs[t - 1, token_ids[t]].item() for t in range(start, len(token_ids))])
    return results


def share(rollouts: list[ScoredRollout], rank: int, world_size: int) -> list[ScoredRollout]:
    """Uneven parts; the samples of a prompt stay together."""
    return [scored for index, scored in enumerate(rollouts) if (index // 2) % world_size == rank]


def _means(rows: list[list[float]]) -> list[float]:
    return [sum(row) / len(row) for row in rows]


def _largest_difference(left: list[list[float]], right: list[list[float]]) -> float:
    return max(
        (abs(a - b) for row, other in zip(left, right, strict=True) for a, b in zip(row, other, strict=True)),
        default=0.0,
    )


def life(rank: int, world_size: int, *, model: str, stage: int, dtype: str, segment: str) -> dict[str, Any]:
    """Train, refuse a jump, train, accept a jump, train: everything the tests look at, from one learner."""
    learner = make_learner(rank, world_size, model=model, stage=stage, dtype=dtype, segment=segment)
    mine = share(make_rollouts(13), rank, world_size)
    rollouts = [scored.rollout for scored in mine]
    seen: dict[str, Any] = {"fragments": learner.fragments(), "initial": state_of(learner, *POLICY_KINDS)}

    for _ in range(4):
        report = learner.update(mine)
    seen["metrics"], seen["num_response_tokens"] = dict(report.metrics), report.num_response_tokens

    def bits() -> str:
        return fingerprint(state_of(learner, *OPTIMIZER_KINDS)["master"], weights_of(learner, rank))

    # A search that ends in a refusal, with an evaluation after every write: it leaves gathered copies behind.
    seen["current"] = state_of(learner, *POLICY_KINDS)
    before, logprobs_before = bits(), learner.response_logprobs(rollouts)
    names = [f"{rollout.prompt_id}, {rollout.sample_index}" for rollout in rollouts]
    means = {0.0: _means(logprobs_before)}
    seen["displacement"] = learner.open_trigger()
    for step_size in (2.0, 4.0):
        learner.write_candidate(step_size)
        seen["candidate"] = state_of(learner, ShardKind.MASTER)["master"]
        seen["candidate_weights"] = {name: w.float().numpy() for name, w in weights_of(learner, rank).items()}
        candidate_logprobs = learner.response_logprobs(rollouts)
        means[step_size] = _means(candidate_logprobs)
    seen["mean_logprobs"] = {size: dict(zip(names, own, strict=True)) for size, own in means.items()}
    learner.write_candidate(0.0)
    seen["is_restored"] = bits() == before and learner.response_logprobs(rollouts) == logprobs_before
    learner.write_candidate(6.0)
    learner.response_logprobs(rollouts)
    learner.close_trigger(Settlement(step_size=0.0))
    seen["is_rolled_back"] = bits() == before and learner.response_logprobs(rollouts) == logprobs_before
    seen["after_refusal"] = state_of(learner, *POLICY_KINDS)

    # The forward really used the candidate's weights: plain transformers with the published weights agrees.
    seen["largest_jump_in_logprobs"] = _largest_difference(candidate_logprobs, logprobs_before)
    if rank == 0:
        weights = {name: torch.from_numpy(array) for name, array in seen["candidate_weights"].items()}
        expected = reference_logprobs(model, dtype, weights, rollouts)
        seen["error_of_candidate"] = _largest_difference(candidate_logprobs, expected)

    learner.update(mine)
    seen["before_jump"] = state_of(learner, *POLICY_KINDS)
    seen["second_displacement"] = learner.open_trigger()
    learner.write_candidate(2.0)
    learner.response_logprobs(rollouts)
    learner.close_trigger(Settlement(step_size=2.0))
    seen["jumped"] = state_of(learner, *POLICY_KINDS)
    learner.update(mine)
    seen["after_step"] = state_of(learner, *POLICY_KINDS)
    seen["after_step_weights"] = {name: w.float().numpy() for name, w in weights_of(learner, rank).items()}
    seen["optimizer_step"] = learner.progress().optimizer_step
    publication = learner.stage(PolicyVersion(step=9))
    learner.close()
    seen["segment_outlives_the_learner"] = publication is not None and Path(publication.segment).exists()
    return seen


def zeroed_moments(rank: int, world_size: int, *, model: str, stage: int, dtype: str) -> Any:
    learner = make_learner(rank, world_size, model=model, stage=stage, dtype=dtype)
    mine = share(make_rollouts(8), rank, world_size)
    learner.update(mine)
    before = state_of(learner, *OPTIMIZER_KINDS)
    learner.open_trigger()
    learner.close_trigger(Settlement(step_size=2.0, exp_avg_scale=0.0))
    after = state_of(learner, *OPTIMIZER_KINDS)
    fragments = learner.fragments()
    learner.close()
    return {"before": before, "after": after, "fragments": fragments}


def train(
    rank: int, world_size: int, *, model: str, num_updates: int = 1, seed: int = 0, parts: Any = None, **settings: Any
) -> Any:
    """Updates on `parts[rank]` (indices into the recorded rollouts); state and the last report."""
    learner = make_learner(rank, world_size, model=model, **settings)
    rollouts = make_rollouts(13, seed)
    if settings.get("algo") == "opd_full":
        rollouts = with_hidden_states(rollouts)
    mine = share(rollouts, rank, world_size) if parts is None else [rollouts[index] for index in parts[rank]]
    for _ in range(num_updates):
        report = learner.update(mine)
    result = {
        "fragments": learner.fragments(),
        "critic_fragments": learner.critic_fragments(),
        "state": state_of(learner, *OPTIMIZER_KINDS) | critic_of(learner),
        "metrics": dict(report.metrics),
        "num_response_tokens": report.num_response_tokens,
        "logprobs": learner.response_logprobs([scored.rollout for scored in mine]),
    }
    learner.close()
    return result


def untrained_logprobs(rank: int, world_size: int, *, model: str, **settings: Any) -> list[list[float]]:
    """Of all responses that are this rank's, before any step."""
    learner = make_learner(rank, world_size, model=model, **settings)
    logprobs = learner.response_logprobs([scored.rollout for scored in share(make_rollouts(13), rank, world_size)])
    learner.close()
    return logprobs


def initial_state(rank: int, world_size: int, *, model: str, **settings: Any) -> Any:
    """State before any step."""
    learner = make_learner(rank, world_size, model=model, **settings)
    result = {
        "fragments": learner.fragments(),
        "state": state_of(learner, *POLICY_KINDS),
        "optimizer_step": learner.progress().optimizer_step,
    }
    learner.close()
    return result


def poisoned(rollouts: list[ScoredRollout], prompt_ids: set[str]) -> list[ScoredRollout]:
    """Rollouts whose advantage is infinite where they answer one of `prompt_ids`."""
    return [
        replace(scored, teacher=TeacherScores(sampled=torch.full_like(scored.rollout.rollout_logprobs, math.inf)))
        if scored.rollout.prompt_id in prompt_ids
        else scored
        for scored in rollouts
    ]


def not_finite(rank: int, world_size: int, *, model: str, **settings: Any) -> Any:
    """An update in which the advantages of one prompt are infinite, then a good one."""
    learner = make_learner(rank, world_size, model=model, **settings)
    everything = make_rollouts(8)
    mine = share(everything, rank, world_size)
    learner.update(mine)
    before = fingerprint(*state_of(learner, *OPTIMIZER_KINDS).values())
    culprit = everything[0].rollout.prompt_id
    message = ""
    try:
        learner.update(poisoned(mine, {culprit}))
    except EffOPDError as error:
        message = f"{type(error).__name__}: {error}"
    is_unchanged = fingerprint(*state_of(learner, *OPTIMIZER_KINDS).values()) == before
    good = learner.update(mine).metrics["grad_norm"]
    step = learner.progress().optimizer_step
    learner.close()
    return {
        "message": message,
        "culprits": [
            f"{scored.rollout.prompt_id}/{scored.rollout.sample_index}"
            for scored in everything
            if scored.rollout.prompt_id == culprit
        ],
        "is_unchanged": is_unchanged,
        "next_grad_norm": good,
        "optimizer_step": step,
    }


def skipped(rank: int, world_size: int, *, model: str, stage: int, algo: str) -> Any:
    """A good update, one whose advantages are all infinite, a good one, and then bad ones until the learner has enough."""
    learner = make_learner(rank, world_size, model=model, stage=stage, algo=algo, on_nonfinite=NonfiniteRule.skip)
    everything = make_rollouts(8)
    mine = share(everything, rank, world_size)
    bad = poisoned(mine, {scored.rollout.prompt_id for scored in everything})
    learner.update(mine)
    before = fingerprint(*state_of(learner, *OPTIMIZER_KINDS).values())
    report = learner.update(bad)
    result = {
        "metrics": dict(report.metrics),
        "skipped": report.skipped,
        "is_unchanged": fingerprint(*state_of(learner, *OPTIMIZER_KINDS).values()) == before,
        "next": learner.update(mine),
        "num_skips": 0,
    }
    try:
        while True:
            learner.update(bad)
            result["num_skips"] += 1
    except EffOPDError as error:
        result["message"] = f"{type(error).__name__}: {error}"
    learner.close()
    return result


def resume(rank: int, world_size: int, *, model: str, directory: str, **settings: Any) -> Any:
    """Load a state and take one more step."""
    learner = make_learner(rank, world_size, model=model, **settings)
    error = ""
    try:
        learner.load_state(Path(directory))
    except EffOPDError as raised:
        error = f"{type(raised).__name__}: {raised}"
    if error:
        learner.close()
        return {"error": error}
    result = {
        "error": error,
        "fragments": learner.fragments(),
        "loaded": state_of(learner, *POLICY_KINDS),
        "optimizer_step": learner.progress().optimizer_step,
        "kinds": learner.progress().kinds,
    }
    learner.update(share(make_rollouts(13), rank, world_size))
    result["after_step"] = state_of(learner, *OPTIMIZER_KINDS)
    learner.close()
    return result


def divergence(rank: int, world_size: int, *, model: str, **settings: Any) -> Any:
    """Exact reverse KL per response by the learner, and by plain transformers."""
    learner = make_learner(rank, world_size, model=model, algo="opd_full", **settings)
    mine = share(with_hidden_states(make_rollouts(13)), rank, world_size)
    measured = learner.reverse_kl(mine)
    learner.close()
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    expected = []
    for scored in mine:
        rollout = scored.rollout
        token_ids = torch.tensor([*rollout.prompt_token_ids, *rollout.response_token_ids.tolist()])
        with torch.no_grad():
            student = plain(input_ids=token_ids[None]).logits[0, len(rollout.prompt_token_ids) - 1 : -1].log_softmax(-1)
        teacher = (scored.teacher.hidden_states @ teacher_head().T).log_softmax(-1)
        expected.append((student.exp() * (student - teacher)).sum().item())
    return {"measured": measured, "expected": expected}


def published(rank: int, world_size: int, *, model: str, segment: str, **settings: Any) -> Any:
    learner = make_learner(rank, world_size, model=model, segment=segment, **settings)
    weights = weights_of(learner, rank)
    publication = learner.stage(PolicyVersion(step=3))
    result = {
        "names": sorted(weights),
        "dtypes": sorted({str(weight.dtype) for weight in weights.values()}),
        "version": None if publication is None else str(publication.version),
        "checksum": None if publication is None else publication.checksum,
    }
    learner.close()
    return result

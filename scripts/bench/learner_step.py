"""One optimizer step: DeepSpeedLearner.update at ZeRO-0 on one rank, against a bare PyTorch loop.

The bare loop has the same model, the same micro-batches, ready as tensors, the same loss on response tokens only, fused
AdamW and gradient clipping; what it lacks is DeepSpeed, collation and metrics. Two cases: the toy (256 responses of 1 to
20 tokens) and a random 5M-parameter Qwen3 (16 responses of 16 to 512 tokens). Goal: at least 0.80 of its speed.

Then the same steps with packed samples against padded ones, which has no goal but to be no slower.

    python scripts/bench/learner_step.py
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from measure import Comparison, alternate, argument_parser, parse, report
from random_models import write_small

from effopd.algorithms.opd import OPD
from effopd.algorithms.surrogate import Clipping
from effopd.config.schema import AccelerateConfig, AlgoConfig, Device, LearnerConfig
from effopd.data.collate import collate
from effopd.engines.deepspeed_learner import DeepSpeedLearner
from effopd.engines.microbatches import plan_micro_batches
from effopd.engines.policy_module import load_causal_lm
from effopd.model_folders import resolve_model_path
from effopd.types import FinishReason, PolicyVersion, Rollout, ScoredRollout, TeacherScores, TrainBatch

GOAL = 0.80
CLIPPING = Clipping(low=0.2, high=0.2, dual=3.0)
ALGORITHM = OPD(CLIPPING, importance_cap=5.0)


def random_rollouts(
    num_rollouts: int, prompt_len: int, response_lens: tuple[int, int], vocabulary_size: int, seed: int
) -> list[ScoredRollout]:
    """Return responses of uniform random tokens, with lengths evenly spread over `response_lens`."""
    generator = torch.Generator().manual_seed(seed)
    shortest, longest = response_lens
    rollouts = []
    for index in range(num_rollouts):
        response_len = shortest + (longest - shortest) * index // max(num_rollouts - 1, 1)
        level = -math.log(vocabulary_size)
        rollout = Rollout(
            prompt_id=f"prompt-{index}",
            sample_index=0,
            prompt_token_ids=tuple(torch.randint(vocabulary_size, (prompt_len,), generator=generator).tolist()),
            response_token_ids=torch.randint(vocabulary_size, (response_len,), generator=generator),
            rollout_logprobs=level + 0.1 * torch.randn(response_len, generator=generator),
            text="",
            finish_reason=FinishReason.LENGTH,
            seed=0,
            policy_version=PolicyVersion(step=0),
        )
        teacher = TeacherScores(sampled=level + 0.1 * torch.randn(response_len, generator=generator))
        rollouts.append(ScoredRollout(rollout=rollout, teacher=teacher))
    return rollouts


def bare_step(model_path: str, config: LearnerConfig, rollouts: list[ScoredRollout]) -> Callable[[], float]:
    """Return a function that takes one step of the bare loop and returns the norm of the gradient."""
    model = load_causal_lm(model_path, torch.float32, "sdpa")
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
    batch = ALGORITHM.prepare(collate(rollouts, 0))
    lengths = [scored.rollout.num_tokens for scored in rollouts]
    micro_batches = [
        micro_batch.take(batch, torch.device("cpu"))
        for micro_batch in plan_micro_batches(lengths, config.max_tokens_per_microbatch)
    ]
    num_tokens = sum(scored.rollout.response_len for scored in rollouts)

    def loss_of(batch: TrainBatch) -> torch.Tensor:
        hidden = model.get_decoder()(
            input_ids=batch.token_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state
        rows, columns = batch.response_mask.nonzero(as_tuple=True)
        logits = model.get_output_embeddings()(hidden[rows, columns - 1])
        logprobs = logits.log_softmax(-1).gather(-1, batch.token_ids[rows, columns][:, None])[:, 0]
        old = logprobs.detach()
        advantages = batch.teacher_logprobs[rows, columns] - old
        ratio = (logprobs - old).exp()
        loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - CLIPPING.low, 1 + CLIPPING.high))
        loss = torch.where(advantages < 0, torch.minimum(loss, -advantages * CLIPPING.dual), loss)
        weights = (old - batch.rollout_logprobs[rows, columns]).exp().clamp(max=ALGORITHM.importance_cap)
        return (weights * loss).sum() / num_tokens

    def step() -> float:
        for micro_batch in micro_batches:
            loss_of(micro_batch).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        return float(norm)

    return step


def start(model_path: str, config: LearnerConfig) -> DeepSpeedLearner:
    with TemporaryDirectory() as folder:
        return DeepSpeedLearner(
            config,
            model_path=model_path,
            attn_implementation="sdpa",
            algorithm=ALGORITHM,
            algo=AlgoConfig(),
            teacher_head=None,
            accelerate=AccelerateConfig(),
            moved=lambda name, shape: False,
            num_steps=1000,
            rank=0,
            world_size=1,
            init_method=f"file://{folder}/rendezvous",
            device=Device.cpu,
            segment_folder=None,
        )


def seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def compare(name: str, model_path: str, rollouts: list[ScoredRollout], arguments) -> Comparison:
    config = LearnerConfig(num_threads=arguments.threads)
    learner = start(model_path, config)
    bare = bare_step(model_path, config, rollouts)
    ours, theirs = learner.update(rollouts).metrics["grad_norm"], bare()
    assert math.isclose(ours, theirs, rel_tol=1e-3), f"the two sides differ: gradient norms {ours} and {theirs}"
    candidate, baseline = alternate(
        arguments.rounds, lambda: seconds(lambda: learner.update(rollouts)), lambda: seconds(bare)
    )
    learner.close()
    return Comparison(
        what=f"DeepSpeedLearner.update, {name}",
        baseline_name="a bare PyTorch loop",
        unit="s",
        candidate=candidate,
        baseline=baseline,
        is_speed=True,
        goal=GOAL,
        notes={"response tokens": sum(scored.rollout.response_len for scored in rollouts)},
    )


def compare_packing(name: str, model_path: str, rollouts: list[ScoredRollout], arguments) -> Comparison:
    padded, packed = (
        start(model_path, LearnerConfig(num_threads=arguments.threads, packing=packing)) for packing in (False, True)
    )
    share = padded.update(rollouts).metrics["padding_fraction"]
    packed.update(rollouts)
    candidate, baseline = alternate(
        arguments.rounds,
        lambda: seconds(lambda: packed.update(rollouts)),
        lambda: seconds(lambda: padded.update(rollouts)),
    )
    packed.close()
    padded.close()
    num_tokens = sum(scored.rollout.num_tokens for scored in rollouts)
    return Comparison(
        what=f"packed samples, {name}",
        baseline_name="padded ones",
        unit="s",
        candidate=candidate,
        baseline=baseline,
        is_speed=True,
        goal=1.0,
        notes={
            "tokens": num_tokens,
            "share of padding without packing": share,
            "tokens a second, packed": num_tokens / median(candidate),
            "tokens a second, padded": num_tokens / median(baseline),
        },
    )


def main() -> None:
    arguments = parse(argument_parser(__doc__))
    with TemporaryDirectory() as folder:
        small = write_small(Path(folder), arguments.seed)
        cases = [
            (
                "toy",
                resolve_model_path("model.path", "toy:sums_base"),
                random_rollouts(256, 7, (1, 20), 61, arguments.seed),
            ),
            ("5M ragged", small, random_rollouts(16, 16, (16, 512), 512, arguments.seed)),
        ]
        report(
            arguments,
            [
                measure(name, str(path), rollouts, arguments)
                for measure in (compare, compare_packing)
                for name, path, rollouts in cases
            ],
        )


if __name__ == "__main__":
    main()

"""What only the roles of a run themselves can show: that published weights are sampled from, by every sampler alike."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from effopd.config.schema import DebugMode, RunConfig
from effopd.doctor.finding import Finding, failed, guarded, passed, skipped
from effopd.inputs import RunInputs, read_inputs
from effopd.production import Phase, Production, uncharged
from effopd.publishing import CANARY_TOKENS, canary_tolerance
from effopd.roles import Sampler
from effopd.types import GenerateRequest, PolicyVersion, Prompt

StartRoles = Callable[[RunConfig, RunInputs, Phase], Production]

CANARY, REPLICAS = "publish canary", "replica agreement"
PROMPTS_PER_SAMPLER = 2
FIRST = PolicyVersion(step=0)


def unasked_findings() -> Iterator[Finding]:
    """For a call that leaves engines alone."""
    for name in (CANARY, REPLICAS):
        yield skipped(name, "starts engines; add --engines")


def engine_findings(config: RunConfig, start: StartRoles) -> Iterator[Finding]:
    """Start the roles that the settings describe, publish the student's weights once, and stop them."""
    if config.debug.mode is DebugMode.train_only:
        for name in (CANARY, REPLICAS):
            yield skipped(name, "debug.mode=train_only has no sampler")
        return
    started: list[tuple[RunInputs, Production]] = []

    def publish() -> Finding:
        inputs = read_inputs(config)
        production = start(config, inputs, uncharged)
        started.append((inputs, production))
        production.publisher.publish(FIRST)
        tolerance = canary_tolerance(config.learner.dtype, config.rollout.dtype)
        return passed(CANARY, f"sampled and trained log-probabilities agree within {tolerance} nats")

    canary = guarded(CANARY, publish)
    yield canary
    if not started:
        yield skipped(REPLICAS, "the roles did not start")
        return
    inputs, production = started[0]
    try:
        yield guarded(REPLICAS, lambda: check_replicas(production.sampler, inputs.canary_prompts[0], config))
    finally:
        production.close()


def check_replicas(sampler: Sampler, prompt: Prompt, config: RunConfig) -> Finding:
    """One prompt as often as every sampler gets it, greedily: the answers must be one answer."""
    num_samplers = config.rollout.num_samplers
    if num_samplers == 1:
        return skipped(REPLICAS, "rollout.num_samplers=1")
    copies = tuple(replace(prompt, prompt_id=str(number)) for number in range(PROMPTS_PER_SAMPLER * num_samplers))
    request = GenerateRequest(
        prompts=copies, num_samples=1, max_response_len=CANARY_TOKENS, temperature=0.0, top_p=1.0, seed=0
    )
    rollouts = sampler.preview(sampler.generate(request, FIRST), len(copies))
    # The first token alone: rounding may turn a tie between two tokens, and what follows is another text then.
    logprobs = torch.stack([rollout.rollout_logprobs[0] for rollout in rollouts])
    gap = (logprobs.max() - logprobs.min()).item()  # NaN if any of them is
    tolerance = canary_tolerance(config.rollout.dtype, config.rollout.dtype)
    if not gap <= tolerance:
        return failed(
            REPLICAS,
            f"{num_samplers} samplers give the same first token log-probabilities that differ by {gap:.2g} nats",
            "start them again; on different GPUs, type rollout.dtype=float32",
        )
    return passed(REPLICAS, f"{num_samplers} samplers agree within {gap:.1e} nats")

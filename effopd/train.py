"""The training loop, on one screen. It knows roles, never Ray, vLLM or DeepSpeed.

What is true at the top of every iteration: the samplers hold the learner's weights, stamped (state.step, 0), and
everything up to `state.step` is written down. Each role charges its own time to the ledger.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from effopd.config.schema import RunConfig
from effopd.roles import Roles
from effopd.seeds import derive_seed
from effopd.types import GenerateRequest, PolicyVersion, Prompt, RunState, TeacherPayload, TriggerRecord, UpdateReport


class Saver(Protocol):
    """Writes a checkpoint; `score` is the evaluation score at this very step, if there was an evaluation."""

    def save(self, state: RunState, score: float | None) -> None: ...


def train(config: RunConfig, roles: Roles, saver: Saver, state: RunState, payload: TeacherPayload) -> RunState:
    """Continue from `state` until `config.num_steps` optimizer steps are done; return the final state."""
    if state.step == 0:
        evaluate(roles, state)
    while state.step < config.num_steps:
        prompts = roles.prompts.take(state.data_position, config.rollout.prompts_per_step)
        rollouts = roles.sampler.generate(training_request(config, prompts, state.step), PolicyVersion(step=state.step))
        report = roles.learner.update(roles.teacher.score(rollouts, payload))
        state = after_update(state, report)
        roles.publisher.publish(PolicyVersion(step=state.step))
        if roles.accelerator.is_due(state.step):
            record = roles.accelerator.try_jump(state)
            state = after_trigger(state, record)
            roles.tracker.log_trigger(record)

        state = replace(state, seconds=roles.tracker.training_seconds())
        roles.tracker.log_step(state, report.metrics)
        is_last = state.step == config.num_steps
        if is_due(state.step, config.logger.rollouts_every, is_last=False):
            roles.tracker.log_rollouts(state.step, roles.sampler.preview(rollouts, config.logger.rollouts_per_sample))
        score = evaluate(roles, state) if is_due(state.step, config.eval.every, is_last) else None
        if is_due(state.step, config.checkpoint.every, is_last):
            saver.save(state, score)
    return state


def is_due(step: int, every: int, is_last: bool) -> bool:
    """Return whether something that happens every `every` steps (0: only at the last) happens at `step`."""
    return is_last or (every > 0 and step % every == 0)


def training_request(config: RunConfig, prompts: Sequence[Prompt], step: int) -> GenerateRequest:
    """Return the request for the rollouts of the update that follows `step`."""
    return GenerateRequest(
        prompts=tuple(prompts),
        num_samples=config.rollout.samples_per_prompt,
        max_response_len=config.rollout.max_response_len,
        temperature=1.0,
        top_p=1.0,
        seed=derive_seed(config.seed, "rollout", step),
    )


def after_update(state: RunState, report: UpdateReport) -> RunState:
    return replace(
        state,
        step=state.step + 1,
        data_position=state.data_position + 1,
        num_generated_tokens=state.num_generated_tokens + report.num_response_tokens,
    )


def after_trigger(state: RunState, record: TriggerRecord) -> RunState:
    return replace(
        state,
        num_generated_tokens=state.num_generated_tokens + record.num_generated_tokens,
        num_gate_tokens=state.num_gate_tokens + record.num_generated_tokens,
    )


def evaluate(roles: Roles, state: RunState) -> float | None:
    """Score the policy, log it, and return the score; None where nothing is evaluated."""
    if roles.evaluator is None:
        return None
    with roles.tracker.phase("eval"):
        report = roles.evaluator.evaluate(state.step, PolicyVersion(step=state.step))
    roles.tracker.log_eval(state, report)
    return report.score

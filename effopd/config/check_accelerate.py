"""Rules about extrapolation: what has an effect beside what, and what cannot be combined. Standard library only."""

from collections.abc import Iterator
from dataclasses import fields
from operator import attrgetter

from effopd.config.check_data import no_such_file, shown
from effopd.config.schema import (
    KL_GATES,
    REVERSE_KL_ALGORITHMS,
    AccelerateConfig,
    AcceptRule,
    DebugMode,
    GateKind,
    RunConfig,
)
from effopd.config.search_schema import ScheduleKind, SearchKind

_DEFAULTS = RunConfig()

_ONE_STEP_SIZE = (SearchKind.fixed, SearchKind.backtracking, SearchKind.repeat)


def acceleration_violations(config: RunConfig) -> Iterator[str]:
    """One line per violated rule: keys and values, rule, remedy."""
    accelerate = config.accelerate
    if accelerate.gate is GateKind.none:
        names = [entry.name for entry in fields(accelerate) if entry.name != "gate"]
        remedy = "choose accelerate=effopd, paper or released"
        yield from _without_effect(config, names, "with accelerate.gate=none", remedy)
        return
    yield from _unread(config)
    yield from _step_sizes(config)
    yield from _combinations(config)
    yield from _surroundings(config)


def _shown(config: RunConfig, *keys: str) -> str:
    return " and ".join(shown(key, attrgetter(key)(config)) for key in keys)


def _without_effect(config: RunConfig, names: list[str], reason: str, remedy: str) -> Iterator[str]:
    for name in names:
        key = f"accelerate.{name}"
        if attrgetter(key)(config) != attrgetter(key)(_DEFAULTS):
            yield f"{_shown(config, key)}: has no effect {reason}; {remedy}"


def _unread(config: RunConfig) -> Iterator[str]:
    """Settings that the chosen schedule, search, rule or gate does not look at."""
    accelerate = config.accelerate
    if accelerate.gate is GateKind.ungated:
        names = [
            "accept",
            "seeds",
            "path",
            "num_prompts",
            "samples_per_prompt",
            "max_response_len",
            "max_length_change",
        ]
        names += ["max_entropy_change", "lr_on_reject"]
        remedy = "leave it out, or choose a gate"
        yield from _without_effect(config, names, "with accelerate.gate=ungated", remedy)
    if accelerate.gate is GateKind.accuracy:
        remedy = "only the KL gates look at lengths"
        yield from _without_effect(config, ["max_length_change"], "with accelerate.gate=accuracy", remedy)
    if accelerate.schedule not in (ScheduleKind.every, ScheduleKind.adaptive):
        reason, remedy = f"with {_shown(config, 'accelerate.schedule')}", "add accelerate.schedule=every"
        yield from _without_effect(config, ["every"], reason, remedy)
    if accelerate.schedule is not ScheduleKind.adaptive:
        reason, remedy = f"with {_shown(config, 'accelerate.schedule')}", "add accelerate.schedule=adaptive"
        yield from _without_effect(config, ["max_rejects", "resume_factor"], reason, remedy)
    if accelerate.search not in (SearchKind.backtracking, SearchKind.repeat):
        reason, remedy = f"with {_shown(config, 'accelerate.search')}", "add accelerate.search=backtracking or repeat"
        yield from _without_effect(config, ["max_candidates"], reason, remedy)
    if accelerate.search is not SearchKind.parabola:
        reason, remedy = f"with {_shown(config, 'accelerate.search')}", "add accelerate.search=parabola"
        yield from _without_effect(config, ["max_step_size"], reason, remedy)
    reason = f"with {_shown(config, 'accelerate.accept')}"
    if accelerate.accept is not AcceptRule.paired:
        yield from _without_effect(config, ["min_posterior"], reason, "add accelerate.accept=paired")
    if accelerate.accept is not AcceptRule.sequential:
        names = ["chunk_prompts", "win_rate", "max_false_accepts", "max_misses"]
        yield from _without_effect(config, names, reason, "add accelerate.accept=sequential")
    if accelerate.audit_prompts == 0:
        reason = "with accelerate.audit_prompts=0"
        yield from _without_effect(config, ["audit_grid"], reason, "set accelerate.audit_prompts=1024")


def _step_sizes(config: RunConfig) -> Iterator[str]:
    accelerate, sizes = config.accelerate, config.accelerate.step_sizes
    if accelerate.gate is not GateKind.ungated and min(sizes) < 0:
        keys = _shown(config, "accelerate.step_sizes", "accelerate.gate")
        yield f"{keys}: a jump back is for baselines that nothing judges; give positive ones, or add accelerate.gate=ungated"
    if accelerate.search in _ONE_STEP_SIZE and len(sizes) != 1:
        keys = _shown(config, "accelerate.search", "accelerate.step_sizes")
        yield f"{keys}: this search starts from one step size; set accelerate.step_sizes=[1]"
    if accelerate.search is SearchKind.parabola and not (len(sizes) == 2 and sizes[0] < sizes[1]):
        keys = _shown(config, "accelerate.search", "accelerate.step_sizes")
        yield f"{keys}: a parabola takes two probes, the smaller first; set accelerate.step_sizes=[2,6]"
    elif accelerate.search is SearchKind.parabola and sizes[1] > accelerate.max_step_size:
        keys = _shown(config, "accelerate.step_sizes", "accelerate.max_step_size")
        yield f"{keys}: a probe lies outside the trust region; raise accelerate.max_step_size"


def _combinations(config: RunConfig) -> Iterator[str]:
    accelerate: AccelerateConfig = config.accelerate
    if accelerate.gate is GateKind.ungated and accelerate.search is not SearchKind.fixed:
        keys = _shown(config, "accelerate.gate", "accelerate.search")
        yield f"{keys}: a search needs scores to go by; set accelerate.search=fixed and one step size"
    if accelerate.gate is GateKind.ungated and accelerate.schedule is ScheduleKind.adaptive:
        keys = _shown(config, "accelerate.gate", "accelerate.schedule")
        yield f"{keys}: without a gate nothing is refused that the schedule could adapt to; use accelerate.schedule=every"
    if accelerate.accept is AcceptRule.sequential:
        if accelerate.gate in (GateKind.reuse_kl, GateKind.kl_then_accuracy):
            keys = _shown(config, "accelerate.accept", "accelerate.gate")
            yield f"{keys}: stopping early is for gates that sample and decide in one; use accelerate.accept=paired"
        if accelerate.search in (SearchKind.parabola, SearchKind.parallel):
            keys = _shown(config, "accelerate.accept", "accelerate.search")
            yield f"{keys}: this search compares scores on all prompts; use accelerate.search=ladder"
    if accelerate.search is SearchKind.parallel:
        if accelerate.gate is GateKind.reuse_kl:
            keys = _shown(config, "accelerate.search", "accelerate.gate")
            yield f"{keys}: this gate asks the learner alone, of which there is one; use accelerate.search=ladder"
        if config.rollout.num_samplers < 2:
            keys = _shown(config, "accelerate.search", "rollout.num_samplers")
            yield f"{keys}: candidates go to a sampler each; raise rollout.num_samplers or use accelerate.search=ladder"


def _surroundings(config: RunConfig) -> Iterator[str]:
    """What gates ask of the rest of the run."""
    accelerate, algo = config.accelerate, config.algo
    if accelerate.gate in KL_GATES:
        keys = _shown(config, "accelerate.gate", "algo.name")
        if algo.name not in REVERSE_KL_ALGORITHMS:
            yield f"{keys}: the KL gate measures another objective than the algorithm's; use accelerate=none or released"
        for key in ("algo.teacher_scale", "algo.reward_coef"):
            if attrgetter(key)(config) != attrgetter(key)(_DEFAULTS) and algo.name in REVERSE_KL_ALGORITHMS:
                keys = _shown(config, "accelerate.gate", key)
                yield f"{keys}: the KL gate measures another objective than the algorithm's; use accelerate=none or released"
    cap = accelerate.max_response_len
    if cap is not None and cap > config.rollout.max_response_len:
        keys = _shown(config, "accelerate.max_response_len", "rollout.max_response_len")
        yield f"{keys}: gate responses may be shorter than those of training, not longer; use null for the same"
    if accelerate.max_kl_increase is not None and algo.name not in REVERSE_KL_ALGORITHMS:
        keys = _shown(config, "accelerate.max_kl_increase", "algo.name")
        yield f"{keys}: this objective measures no reverse KL to the teacher; leave out accelerate.max_kl_increase"
    if accelerate.gate is not GateKind.ungated:
        yield from no_such_file("accelerate.path", accelerate.path)
    num_held_out = accelerate.audit_prompts
    held_out_keys = ["accelerate.audit_prompts"] if accelerate.audit_prompts else []
    if accelerate.gate is not GateKind.ungated and accelerate.path is None:
        num_held_out += accelerate.num_prompts
        held_out_keys.insert(0, "accelerate.num_prompts")
    if config.data.num_rows is not None and held_out_keys and config.data.num_rows <= num_held_out:
        keys = _shown(config, "data.num_rows", *held_out_keys)
        yield f"{keys}: these prompts are held out and none would be left to train on; raise data.num_rows"
    if config.debug.mode is not DebugMode.none:
        keys = _shown(config, "debug.mode", "accelerate.gate")
        yield f"{keys}: extrapolation needs samples and training both; add accelerate=none"

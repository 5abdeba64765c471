"""`effopd eval`: from settings to the scores of a model, with every response that they are made of.

Samplers and verifiers start first, the teacher after they have stopped, so that one GPU is enough.
"""

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from effopd.config.evaluation import evaluation_sets
from effopd.config.keys import MISSING
from effopd.config.schema import RunConfig, Runtime
from effopd.data.given_responses import GivenResponses, read_responses
from effopd.inputs import EvalSetPrompts, read_eval_sets, read_eval_teacher, read_student
from effopd.preflight import ModelFiles
from effopd.production import evaluation_request
from effopd.provenance import git_source, installed_versions
from effopd.responses import SetInput, answer_extractor, sample_set, with_reverse_kl
from effopd.result_files import RESPONSES_NAME, RESULT_NAME, results_table, write_results
from effopd.results import evaluate_sets
from effopd.roles import Sampler, Teacher, Verifier
from effopd.start_checks import run_folder
from effopd.types import PolicyVersion, RolloutHandle

logger = logging.getLogger(__name__)


def evaluate(config: RunConfig) -> None:
    """Run `effopd eval`: score the model in `model.path` and write what `result_files` says into the run folder."""
    run_dir = run_folder(config)
    # Engines are sized for what is asked of them, which here is the evaluation alone.
    engine_config = sized_for_evaluation(config)
    student = read_student(engine_config)
    teacher = read_eval_teacher(engine_config, student)
    prompts = read_eval_sets(config, student)
    run_dir.mkdir(parents=True, exist_ok=True)
    sets = judge_sets(engine_config, student, teacher, prompts)
    results = evaluate_sets(sets)
    write_results(run_dir, evaluation_manifest(config), sets, results)
    # Soft-wrapped: a narrow terminal, or a log file, gets whole rows.
    console = Console()
    for line in (config.model.path, results_table(results), f"{run_dir / RESULT_NAME}, {RESPONSES_NAME}"):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def judge_sets(
    config: RunConfig, student: ModelFiles, teacher: ModelFiles | None, sets: Mapping[str, EvalSetPrompts]
) -> dict[str, SetInput]:
    """Sample and judge every set, the samplers first and the teacher after they have stopped, so that one GPU is enough."""
    if config.eval.responses is not None:
        return judge_given_responses(config, config.eval.responses, student, sets)
    sampler, verifiers, close = start_sampler(config, student)
    try:
        judged = {}
        for name, one in sets.items():
            judged[name] = judge_set(sampler, verifiers, one, config.seed)
    finally:
        close()
    if teacher is None:
        return {name: answers for name, (answers, _) in judged.items()}
    scorer = start_teacher(config, teacher)
    return {name: with_reverse_kl(answers, handle, scorer) for name, (answers, handle) in judged.items()}


def judge_given_responses(
    config: RunConfig, path: str, student: ModelFiles, sets: Mapping[str, EvalSetPrompts]
) -> dict[str, SetInput]:
    """Judge the responses of a file; no engine starts."""
    from effopd.local import start_verifiers  # noqa: PLC0415

    responses = read_responses(path, list(sets))
    verifiers = start_verifiers(config)
    try:
        judged = {}
        for name, one in sets.items():
            given = GivenResponses(path, name, student.tokenizer, responses[name])
            judged[name], handle = judge_set(given, verifiers, one, config.seed)
            num_unused = sum(map(len, responses[name].values())) - len(handle.summaries)
            if num_unused:
                logger.warning(
                    "%s: %d responses to the set %s were not asked for and are left out", path, num_unused, name
                )
        return judged
    finally:
        for verifier in verifiers.values():
            verifier.close()


def judge_set(
    sampler: Sampler, verifiers: Mapping[str, Verifier], one: EvalSetPrompts, seed: int
) -> tuple[SetInput, RolloutHandle]:
    """Sample and judge one set with the weights of version 0.0."""
    verifier = one.settings.verifier
    assert verifier is not None, "config.check sees to a verifier"
    request = evaluation_request(one, seed)
    return sample_set(sampler, verifiers[verifier], request, PolicyVersion(step=0), answer_extractor(verifier))


def evaluation_manifest(config: RunConfig) -> dict[str, object]:
    """Return what an evaluation ran with: models, settings, versions."""
    return {
        "model": config.model.path,
        "teacher": None if config.teacher.path == MISSING else config.teacher.path,
        "settings": {"model": config.model, "data": config.data, "eval": config.eval, "rollout": config.rollout},
        "versions": installed_versions(),
        "git": git_source(Path(__file__).parent),
        "command": sys.argv,
    }


def sized_for_evaluation(config: RunConfig) -> RunConfig:
    """Return `config` with the longest prompt and response of its evaluation sets in the place of those of training."""
    sets = evaluation_sets(config).values()
    return replace(
        config,
        data=replace(config.data, max_prompt_len=max(one.source.max_prompt_len for one in sets)),
        rollout=replace(config.rollout, max_response_len=max(one.max_response_len for one in sets)),
    )


def start_sampler(config: RunConfig, student: ModelFiles) -> tuple[Sampler, Mapping[str, Verifier], Callable[[], None]]:
    """Start samplers and verifiers alone, holding the student's own weights as version 0.0; also return how to stop."""
    match config.cluster.runtime:
        case Runtime.local:
            from effopd.local import build_local_sampler  # noqa: PLC0415

            return build_local_sampler(config, student)
        case Runtime.ray:
            from effopd.actors.build import build_ray_sampler  # noqa: PLC0415
            from effopd.actors.session import session_for  # noqa: PLC0415

            return build_ray_sampler(config, student, session_for(config.cluster))


def start_teacher(config: RunConfig, teacher: ModelFiles) -> Teacher:
    """Start the teacher alone."""
    match config.cluster.runtime:
        case Runtime.local:
            from effopd.local import build_local_teacher  # noqa: PLC0415

            return build_local_teacher(config, teacher)
        case Runtime.ray:
            from effopd.actors.build import build_ray_teacher  # noqa: PLC0415
            from effopd.actors.session import session_for  # noqa: PLC0415

            return build_ray_teacher(config, teacher, session_for(config.cluster))

"""Which sets a run evaluates on and how, with every null filled in. Standard library only."""

from dataclasses import dataclass, replace

from effopd.config.schema import RunConfig
from effopd.config.source_schema import SourceConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSet:
    """One evaluation set as it will be run."""

    name: str
    section: str
    """The dotted key that its own settings stand under, for messages: `eval` or `eval.sets.<name>`."""
    source: SourceConfig
    apply_chat_template: bool
    verifier: str | None
    """None only until `check.py` has refused it."""
    samples_per_prompt: int
    temperature: float
    top_p: float
    max_response_len: int
    """Tokens, end-of-sequence included."""
    prompt_len_key: str
    """The setting that bounds its prompts, for messages."""
    response_len_key: str
    """The setting that bounds its responses, for messages."""


def evaluation_sets(config: RunConfig) -> dict[str, EvalSet]:
    """Return the sets to evaluate on by name, in the order of the configuration; empty when there are none.

    `eval.path` gives a single set, whose name is that path.
    """
    sets = {} if config.eval.path is None else {config.eval.path: _single_set(config, config.eval.path)}
    for name in config.eval.sets:
        if config.eval.only is None or name in config.eval.only:
            sets[name] = _named_set(config, name)
    return sets


def verifier_names(config: RunConfig) -> list[str]:
    """Return every verifier that a run needs, each once; that of `data` is the first if there is one."""
    names = [config.data.verifier, *(one.verifier for one in evaluation_sets(config).values())]
    return list(dict.fromkeys(name for name in names if name is not None))


@dataclass(frozen=True, slots=True, kw_only=True)
class LongestSequence:
    """The longest prompt and response that an engine must hold, and the settings that say so."""

    num_tokens: int
    prompt_len_key: str
    response_len_key: str


def longest_sequence(config: RunConfig) -> LongestSequence:
    """Return what training and evaluation need at most."""
    training = LongestSequence(
        num_tokens=config.data.max_prompt_len + config.rollout.max_response_len,
        prompt_len_key="data.max_prompt_len",
        response_len_key="rollout.max_response_len",
    )
    evaluation = [
        LongestSequence(
            num_tokens=one.source.max_prompt_len + one.max_response_len,
            prompt_len_key=one.prompt_len_key,
            response_len_key=one.response_len_key,
        )
        for one in evaluation_sets(config).values()
    ]
    return max([training, *evaluation], key=lambda sequence: sequence.num_tokens)


def _single_set(config: RunConfig, path: str) -> EvalSet:
    source = replace(
        config.data,
        path=path,
        split=config.eval.split,
        hub_files=None,
        num_rows=config.eval.num_rows,
        drop_duplicates=False,
    )
    return EvalSet(
        name=path,
        section="eval",
        source=source,
        apply_chat_template=_applies_chat_template(config),
        verifier=config.data.verifier,
        samples_per_prompt=config.eval.samples_per_prompt,
        temperature=config.eval.temperature,
        top_p=config.eval.top_p,
        max_response_len=config.eval.max_response_len or config.rollout.max_response_len,
        prompt_len_key="data.max_prompt_len",
        response_len_key="rollout.max_response_len"
        if config.eval.max_response_len is None
        else "eval.max_response_len",
    )


def _named_set(config: RunConfig, name: str) -> EvalSet:
    own, shared, section = config.eval.sets[name], config.eval, f"eval.sets.{name}"
    if own.max_response_len is not None:
        response_len, response_len_key = own.max_response_len, f"{section}.max_response_len"
    elif shared.max_response_len is not None:
        response_len, response_len_key = shared.max_response_len, "eval.max_response_len"
    else:
        response_len, response_len_key = config.rollout.max_response_len, "rollout.max_response_len"
    has_own_rows = own.num_rows is not None or shared.num_rows is None
    return EvalSet(
        name=name,
        section=section,
        source=own if has_own_rows else replace(own, num_rows=shared.num_rows),
        apply_chat_template=_applies_chat_template(config),
        verifier=config.data.verifier if own.verifier is None else own.verifier,
        samples_per_prompt=shared.samples_per_prompt if own.samples_per_prompt is None else own.samples_per_prompt,
        temperature=shared.temperature if own.temperature is None else own.temperature,
        top_p=shared.top_p if own.top_p is None else own.top_p,
        max_response_len=response_len,
        prompt_len_key=f"{section}.max_prompt_len",
        response_len_key=response_len_key,
    )


def _applies_chat_template(config: RunConfig) -> bool:
    own = config.eval.apply_chat_template
    return config.data.apply_chat_template if own is None else own

"""From questions to tokenized prompts, the gate's share of them, and the order in which the rest are trained on."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from effopd.config.source_schema import BadRowPolicy, ContaminationPolicy, LongPromptPolicy, SourceConfig
from effopd.data.contamination import EvaluationIndex, Match
from effopd.data.prompt_store import choose, store_prompts
from effopd.data.questions import read_questions
from effopd.data.report import ReadReport
from effopd.data.schemas import Question
from effopd.errors import DataError
from effopd.seeds import derive_seed
from effopd.types import Prompt

QUESTIONS_PER_BATCH = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRendering:
    """How a question becomes tokens."""

    tokenizer: PreTrainedTokenizerBase
    apply_chat_template: bool
    enable_thinking: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decontamination:
    """The evaluation questions to keep training questions from, and what to do about those that overlap."""

    index: EvaluationIndex
    policy: ContaminationPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPrompts:
    """The prompts of one data set, and what became of its rows."""

    prompts: Sequence[Prompt]
    questions: tuple[str, ...]
    """What is asked, one text per prompt, without suffix and template; only where `keep_questions` asked for it."""
    report: ReadReport


def load_prompts(
    source: SourceConfig,
    rendering: PromptRendering,
    *,
    section: str,
    stream_above: int,
    decontamination: Decontamination | None = None,
    keep_questions: bool = False,
) -> LoadedPrompts:
    """Read, rewrite, filter and tokenize a data set; `section` is the dotted key that it stands under.

    More than `stream_above` prompts are kept in a temporary file. Rows that are not used are counted, and logged as a
    warning. Raises DataError naming file, line, field and reason for a bad row, for a prompt that is too long where these
    are errors, for overlap with evaluation sets where that is one, and when nothing is left.
    """
    report = ReadReport(section=section, path=source.path)
    matches: list[tuple[int, Match]] = []
    questions: list[str] = []

    def kept() -> Iterator[Prompt]:
        for position, (question, prompt) in enumerate(_rendered(source, rendering, report)):
            match = decontamination and decontamination.index.match(prompt.prompt_id, question.text)
            if match is not None:
                matches.append((position, match))
            if keep_questions:
                questions.append(question.text)
            yield prompt

    prompts = store_prompts(kept(), stream_above)
    report.num_prompts = len(prompts)
    is_contamination_kept = decontamination is not None and decontamination.policy is ContaminationPolicy.ignore
    if decontamination is not None:
        report.overlaps = decontamination.index.overlaps(match for _, match in matches)
        overlapping = {prompt_id for found in report.overlaps.values() for prompt_id in found.prompt_ids}
        report.num_contaminated = len(overlapping)
        if overlapping and decontamination.policy is ContaminationPolicy.error:
            raise DataError(
                f"{source.path}: {len(overlapping)} prompts overlap with evaluation sets ({report.shown_overlaps()}), the "
                f"first is {min(overlapping)}; remove them or set data.contamination=drop"
            )
        if overlapping and not is_contamination_kept:
            dropped = {position for position, match in matches if match.prompt_id in overlapping}
            prompts = choose(prompts, (position for position in range(len(prompts)) if position not in dropped))
            report.num_prompts = len(prompts)
    report.log(source.max_prompt_len, is_contamination_kept=is_contamination_kept)
    if not prompts:
        raise DataError(
            f"{source.path}: no prompts left of {report.num_rows} rows; {report.num_too_long} were longer than "
            f"{section}.max_prompt_len={source.max_prompt_len}, {report.num_contaminated} overlapped with evaluation sets, "
            f"{report.num_bad_rows} were bad, {report.num_left_out} left out by {section}.where"
        )
    return LoadedPrompts(prompts=prompts, questions=tuple(questions), report=report)


def hold_out(
    prompts: Sequence[Prompt], num_prompts: int, seed: int, asked_by: str = "accelerate.num_prompts"
) -> tuple[tuple[Prompt, ...], Sequence[Prompt]]:
    """Return (held out, rest). Which prompts are held out depends on the seed and their ids, not on their order.

    Raises DataError, naming the settings `asked_by`, when that would leave nothing to train on.
    """
    if num_prompts >= len(prompts):
        raise DataError(
            f"{asked_by}: holding out {num_prompts} prompts would leave none of the {len(prompts)} training prompts; "
            "give more data, hold out fewer, or train without extrapolation: accelerate=none"
        )
    ranks = (
        (derive_seed(seed, "gate prompts", prompt.prompt_id), prompt.prompt_id, i) for i, prompt in enumerate(prompts)
    )
    # By their tokens, so that a duplicate of a held-out prompt is neither held out again nor trained on.
    held_out: dict[tuple[int, ...], Prompt] = {}
    for _, _, position in sorted(ranks):
        prompt = prompts[position]
        held_out.setdefault(prompt.token_ids, prompt)
        if len(held_out) == num_prompts:
            break
    rest = (position for position, prompt in enumerate(prompts) if prompt.token_ids not in held_out)
    return tuple(held_out.values()), choose(prompts, rest)


def require_a_batch(prompts: Sequence[Prompt], prompts_per_step: int) -> None:
    """Raise DataError when there are fewer prompts than one batch takes."""
    if len(prompts) < prompts_per_step:
        raise DataError(
            f"rollout.prompts_per_step={prompts_per_step} exceeds the {len(prompts)} training prompts (without those that a gate "
            "holds out); lower it"
        )


@dataclass(slots=True)
class ShuffledPrompts:
    """Training prompts, shuffled anew every epoch. A batch never spans two epochs, so it never holds a prompt twice."""

    prompts: Sequence[Prompt]
    seed: int
    _order_of: tuple[int, list[int]] = field(default=(-1, []), init=False, repr=False)
    """The epoch last asked for and its order, which takes a second to make for a million prompts."""

    def take(self, position: int, num_prompts: int) -> tuple[Prompt, ...]:
        """Return batch number `position`. Raises DataError when the set is smaller than a batch."""
        require_a_batch(self.prompts, num_prompts)
        batches_per_epoch = len(self.prompts) // num_prompts
        epoch, index = divmod(position, batches_per_epoch)
        return tuple(self.prompts[i] for i in self._order(epoch)[index * num_prompts : (index + 1) * num_prompts])

    def _order(self, epoch: int) -> list[int]:
        if self._order_of[0] != epoch:
            order = list(range(len(self.prompts)))
            random.Random(derive_seed(self.seed, "epoch", epoch)).shuffle(order)
            self._order_of = (epoch, order)
        return self._order_of[1]


def _rendered(
    source: SourceConfig, rendering: PromptRendering, report: ReadReport
) -> Iterator[tuple[Question, Prompt]]:
    """Yield questions that are short enough, with their prompts; tokenized in batches, which is several times faster."""
    questions = read_questions(source, report)
    while batch := list(islice(questions, QUESTIONS_PER_BATCH)):
        texts = [_render(source, rendering, question) for _, question in batch]
        # A chat template writes special tokens itself.
        add_special_tokens = not rendering.apply_chat_template
        token_ids = rendering.tokenizer(texts, add_special_tokens=add_special_tokens)["input_ids"]
        assert isinstance(token_ids, list), "a list of texts gives a list of lists"
        for (prompt_id, question), text, ids in zip(batch, texts, token_ids, strict=True):
            if not ids:
                reason = f"{question.location}, field {question.field}: the prompt has no tokens"
                if source.on_bad_row is BadRowPolicy.error:
                    raise DataError(reason)
                report.add_bad_row(reason)
                continue
            if len(ids) > source.max_prompt_len:
                if source.on_long_prompt is LongPromptPolicy.error:
                    raise DataError(
                        f"{question.location}, field {question.field}: {len(ids)} tokens, more than {report.section}."
                        f"max_prompt_len={source.max_prompt_len}; raise it or set {report.section}.on_long_prompt=drop"
                    )
                report.num_too_long += 1
                continue
            prompt = Prompt(
                prompt_id=prompt_id,
                token_ids=tuple(ids),
                text=text,
                answer=question.answer,
                source=source.path,
                metadata={**question.metadata, "prompt": text},
            )
            yield question, prompt


def _render(source: SourceConfig, rendering: PromptRendering, question: Question) -> str:
    last = question.messages[-1]
    messages = [*question.messages[:-1], {**last, "content": last["content"] + source.prompt_suffix}]
    if rendering.apply_chat_template:
        try:
            text = rendering.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=rendering.enable_thinking
            )
        except TemplateError as error:
            raise DataError(
                f"{question.location}, field {question.field}: the chat template refuses the messages ({error})"
            ) from error
        assert isinstance(text, str)
        return text
    if len(messages) > 1:
        raise DataError(
            f"{question.location}, field {question.field}: several messages need data.apply_chat_template=true"
        )
    return messages[0]["content"]

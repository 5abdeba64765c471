"""From rows to tokenized prompts, the gate's share of them, and the order in which the rest are trained on."""

import logging
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from effopd.config.schema import DataConfig
from effopd.data.sources import Row, read_rows
from effopd.errors import DataError
from effopd.seeds import derive_seed
from effopd.types import Prompt

logger = logging.getLogger(__name__)


def load_prompts(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    path: str,
    split: str,
    num_rows: int | None,
) -> tuple[Prompt, ...]:
    """Read and tokenize a data set with the columns, suffix and template of `config`.

    Prompts longer than `data.max_prompt_len` tokens are dropped, and their number is logged. Raises DataError naming
    file, line, field and reason for a bad row, and when nothing is left.
    """
    prompts: list[Prompt] = []
    seen: set[str] = set()
    num_too_long = 0
    for number, row in enumerate(read_rows(path, split, num_rows, config.subset)):
        prompt = _to_prompt(config, tokenizer, row, default_id=f"{path}:{split}:{number}")
        if prompt.prompt_id in seen:
            raise DataError(f"{row.location}, field {config.id_column}: {prompt.prompt_id} appears twice")
        seen.add(prompt.prompt_id)
        if len(prompt.token_ids) > config.max_prompt_len:
            num_too_long += 1
        else:
            prompts.append(prompt)
    if num_too_long:
        logger.warning(
            "%s: dropped %d of %d prompts longer than data.max_prompt_len=%d tokens",
            path, num_too_long, num_too_long + len(prompts), config.max_prompt_len,
        )  # fmt: skip
    if not prompts:
        raise DataError(
            f"{path}: no prompts left; {num_too_long} were longer than data.max_prompt_len={config.max_prompt_len}"
        )
    return tuple(prompts)


def hold_out(prompts: Sequence[Prompt], num_prompts: int, seed: int) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """Return (held out, rest). Which prompts are held out depends on the seed and their ids, not on their order.

    Raises DataError when that would leave nothing to train on.
    """
    if num_prompts >= len(prompts):
        raise DataError(
            f"accelerate.num_prompts={num_prompts} gate prompts would leave none of the {len(prompts)} training prompts; "
            "give more data or fewer gate prompts"
        )
    ranked = sorted(prompts, key=lambda prompt: (derive_seed(seed, "gate prompts", prompt.prompt_id), prompt.prompt_id))
    held_out = list({prompt.token_ids: prompt for prompt in ranked}.values())[:num_prompts]
    # By their tokens, so that a duplicate of a held-out prompt is not trained on either.
    held_out_tokens = {prompt.token_ids for prompt in held_out}
    return tuple(held_out), tuple(prompt for prompt in prompts if prompt.token_ids not in held_out_tokens)


@dataclass(frozen=True, slots=True)
class ShuffledPrompts:
    """Training prompts, shuffled anew every epoch. A batch never spans two epochs, so it never holds a prompt twice."""

    prompts: tuple[Prompt, ...]
    seed: int

    def take(self, position: int, num_prompts: int) -> tuple[Prompt, ...]:
        """Return batch number `position`. Raises DataError when the set is smaller than a batch."""
        batches_per_epoch = len(self.prompts) // num_prompts
        if batches_per_epoch == 0:
            raise DataError(
                f"rollout.prompts_per_step={num_prompts} exceeds the {len(self.prompts)} training prompts; lower it"
            )
        epoch, index = divmod(position, batches_per_epoch)
        order = list(range(len(self.prompts)))
        random.Random(derive_seed(self.seed, "epoch", epoch)).shuffle(order)
        return tuple(self.prompts[i] for i in order[index * num_prompts : (index + 1) * num_prompts])


def _to_prompt(config: DataConfig, tokenizer: PreTrainedTokenizerBase, row: Row, default_id: str) -> Prompt:
    question = _field(row, config.prompt_column)
    if isinstance(question, str):
        messages = [{"role": "user", "content": question + config.prompt_suffix}]
    elif (
        isinstance(question, list)
        and question
        and all(isinstance(turn, dict) and "content" in turn for turn in question)
    ):
        messages = [*question[:-1], {**question[-1], "content": question[-1]["content"] + config.prompt_suffix}]
    else:
        raise DataError(
            f"{row.location}, field {config.prompt_column}: a text or a list of chat messages is needed, "
            f"not {type(question).__name__}"
        )
    if config.apply_chat_template:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=config.enable_thinking
        )
        assert isinstance(text, str)
        token_ids = tokenizer(text, add_special_tokens=False)["input_ids"]  # the template wrote them already
    elif len(messages) > 1:
        raise DataError(
            f"{row.location}, field {config.prompt_column}: several messages need data.apply_chat_template=true"
        )
    else:
        text = messages[0]["content"]
        token_ids = tokenizer(text)["input_ids"]
    if not token_ids:
        raise DataError(f"{row.location}, field {config.prompt_column}: the prompt has no tokens")

    metadata = {key: value for key, value in row.values.items() if key != config.prompt_column}
    return Prompt(
        prompt_id=default_id if config.id_column is None else str(_field(row, config.id_column)),
        token_ids=tuple(token_ids),  # pyright: ignore[reportArgumentType]  (a list of int for a single text)
        text=text,
        answer="" if config.answer_column is None else _answer(config, row, config.answer_column),
        source=config.path,
        metadata={**metadata, "prompt": text},
    )


def _answer(config: DataConfig, row: Row, column: str) -> str:
    answer = _field(row, column)
    if not isinstance(answer, str | int | float):
        raise DataError(f"{row.location}, field {column}: a text or number is needed, not {type(answer).__name__}")
    if config.answer_pattern is None:
        return str(answer)
    match = re.search(config.answer_pattern, str(answer))
    if match is None:
        raise DataError(
            f"{row.location}, field {column}: data.answer_pattern={config.answer_pattern!r} does not match {str(answer)[-80:]!r}"
        )
    return match.group(1).strip()


def _field(row: Row, column: str) -> object:
    """Return the value of `column`; dots reach into nested objects, as in `reward_model.ground_truth`."""
    value: object = row.values
    for key in column.split("."):
        if not isinstance(value, dict) or key not in value:
            names = ", ".join(sorted(row.values))
            raise DataError(f"{row.location}: no field {column}; the row has {names}; set data.*_column")
        value = value[key]
    return value

"""Responses that exist already, in a sampler's place: an earlier evaluation judged anew, or somebody else's answers.

A file of rows with `prompt_id` (or the `task_id` of the data set's row) and `response` (or EvalPlus' `solution`, which is
the whole program). Optional: `set`, the evaluation set that a row belongs to; `sample_index`, else rows count in their
order; `finish_reason`, else `stop`. `responses.parquet`, which every evaluation leaves, is such a file.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedTokenizerBase

from effopd.data.files import BadRow, Row, file_rows, find_files
from effopd.errors import DataError
from effopd.handles import summarise
from effopd.types import FinishReason, GenerateRequest, PolicyVersion, Prompt, Publication, Rollout, RolloutHandle

PROMPT_FIELDS = ("prompt_id", "task_id")
RESPONSE_FIELDS = ("response", "solution")


@dataclass(frozen=True, slots=True)
class GivenResponse:
    """What a row says."""

    text: str
    finish_reason: FinishReason


@dataclass(slots=True)
class GivenResponses:
    """The responses of one evaluation set, as a `Sampler` that samples nothing."""

    path: str
    set_name: str
    tokenizer: PreTrainedTokenizerBase
    """Counts their tokens."""
    responses: Mapping[str, Mapping[int, GivenResponse]]
    """prompt_id or task_id, then sample index."""
    _rollouts: list[Rollout] = field(default_factory=list)

    def load(self, publication: Publication) -> None:
        raise AssertionError("given responses have no weights")

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        """Look the responses up. Raises DataError naming a prompt that has too few."""
        self._rollouts = [
            self._rollout(prompt, index, version) for prompt in request.prompts for index in range(request.num_samples)
        ]
        summaries = tuple(summarise(self._rollouts))
        return RolloutHandle(parts=((self._rollouts,),), summaries=summaries, policy_version=version)

    def groups(self, most: int) -> Sequence["GivenResponses"]:
        return (self,)

    def stream(self, request: GenerateRequest, version: PolicyVersion) -> Iterator[tuple[int, RolloutHandle]]:
        yield 0, self.generate(request, version)

    def preview(self, rollouts: RolloutHandle, num_rollouts: int) -> list[Rollout]:
        return self._rollouts[:num_rollouts]

    def _rollout(self, prompt: Prompt, index: int, version: PolicyVersion) -> Rollout:
        names = [prompt.prompt_id, *([str(prompt.metadata["task_id"])] if "task_id" in prompt.metadata else [])]
        found = next((self.responses[name][index] for name in names if index in self.responses.get(name, {})), None)
        if found is None:
            raise DataError(
                f"eval.responses={self.path}: no response {index} to {' or '.join(names)} of the set {self.set_name}; "
                "add it, or lower eval.samples_per_prompt or eval.num_rows"
            )
        # An empty response is one token, the end of sequence.
        token_ids = self.tokenizer(found.text, add_special_tokens=False)["input_ids"] or [
            self.tokenizer.eos_token_id or 0
        ]
        return Rollout(
            prompt_id=prompt.prompt_id,
            sample_index=index,
            prompt_token_ids=prompt.token_ids,
            response_token_ids=torch.tensor(token_ids),
            rollout_logprobs=torch.full((len(token_ids),), torch.nan),  # nobody knows
            text=found.text,
            finish_reason=found.finish_reason,
            seed=0,
            policy_version=version,
        )


def read_responses(path: str, set_names: Sequence[str]) -> dict[str, dict[str, dict[int, GivenResponse]]]:
    """Return the rows of a file by set, prompt and sample index. Raises DataError naming file, row, field and reason."""
    found: dict[str, defaultdict[str, dict[int, GivenResponse]]] = {name: defaultdict(dict) for name in set_names}
    for file in find_files(path):
        for row in file_rows(file):
            if isinstance(row, BadRow):
                raise DataError(f"{row.location}: {row.reason}")
            set_name = row.values.get("set")
            if set_name is None:
                if len(set_names) > 1:
                    raise DataError(f"{row.location}, field set: missing, and there are several sets; name one")
                set_name = set_names[0]
            if set_name not in found:
                continue  # of a set that is not evaluated now
            of_prompt = found[str(set_name)][str(_first(row, PROMPT_FIELDS))]
            index = row.values.get("sample_index")
            index = len(of_prompt) if index is None else index
            if not isinstance(index, int) or index in of_prompt:
                raise DataError(f"{row.location}, field sample_index: {index!r} is no number, or there twice; mend it")
            response = _first(row, RESPONSE_FIELDS)
            if not isinstance(response, str):
                raise DataError(f"{row.location}: the response must be a text, not {type(response).__name__}")
            finish_reason = row.values.get("finish_reason") or FinishReason.STOP
            if finish_reason not in list(FinishReason):
                choices = ", ".join(FinishReason)
                raise DataError(f"{row.location}, field finish_reason: {finish_reason!r} is none of {choices}; mend it")
            of_prompt[index] = GivenResponse(response, FinishReason(str(finish_reason)))
    return {name: dict(prompts) for name, prompts in found.items()}


def _first(row: Row, names: Sequence[str]) -> object:
    for name in names:
        if row.values.get(name) is not None:
            return row.values[name]
    raise DataError(f"{row.location}: no field {' or '.join(names)}; see responses.parquet of an evaluation")

"""Every response of an evaluation, with what the verifier and the teacher say of it, brought to the driver."""

import importlib
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from effopd.roles import Sampler, Teacher, Verifier
from effopd.types import GenerateRequest, PolicyVersion, Rollout, RolloutHandle, TeacherPayload

EXTRACTOR_NAME = "extract_final_answer"
"""The function beside a verifier, `f(response: str) -> str | None`, that says which answer the verifier looks at."""

AnswerExtractor = Callable[[str], str | None]

_NUMBER = re.compile(r"[-+]?(\d{1,3}(,\d{3})+|\d{1,100})(\.\d{1,100})?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetInput:
    """One evaluation set, sampled and judged. The tuples run in parallel, one entry per response."""

    request: GenerateRequest
    """What was sampled: `num_samples` responses to each of its prompts."""
    rollouts: tuple[Rollout, ...]
    rewards: tuple[float, ...]
    """The verifier's, in [0, 1]."""
    answers: tuple[str | None, ...] | None = None
    """Normalised final answers, None where a response has none; None where the verifier does not say how to find them."""
    reverse_kl: tuple[float, ...] | None = None
    """Sum over each response's tokens of student minus teacher log-probability, nats; None without a teacher."""

    def __post_init__(self) -> None:
        num_responses = len(self.request.prompts) * self.request.num_samples
        lengths = [
            len(entries)
            for entries in (self.rollouts, self.rewards, self.answers, self.reverse_kl)
            if entries is not None
        ]
        assert lengths == [num_responses] * len(lengths), (
            f"{num_responses} responses were asked for, there are {lengths}"
        )


def sample_set(
    sampler: Sampler,
    verifier: Verifier,
    request: GenerateRequest,
    version: PolicyVersion,
    extract_answer: AnswerExtractor | None,
) -> tuple[SetInput, RolloutHandle]:
    """Return the judged responses to `request`, and the handle by which a teacher can score them."""
    handle = sampler.generate(request, version)
    rewards = verifier.rewards(handle, request.prompts)
    rollouts = sampler.preview(handle, len(handle.summaries))
    answers = None
    if extract_answer is not None:
        answers = tuple(normalise_answer(extract_answer(rollout.text)) for rollout in rollouts)
    judged = SetInput(request=request, rollouts=tuple(rollouts), rewards=tuple(rewards), answers=answers)
    return judged, handle


def with_reverse_kl(judged: SetInput, handle: RolloutHandle, teacher: Teacher) -> SetInput:
    """Return `judged` with the teacher's opinion of its responses, which are those of `handle`."""
    summaries = teacher.score(handle, TeacherPayload.SAMPLED).summaries
    sums = [summary.sampled_reverse_kl for summary in summaries]
    return replace(judged, reverse_kl=tuple(value for value in sums if value is not None))


def answer_extractor(verifier: str) -> AnswerExtractor | None:
    """Return the `extract_final_answer` of the module that `verifier` = `package.module:function` stands in, if it has one.

    A verifier without it, of code for example, has no answers to vote on.
    """
    module = importlib.import_module(verifier.partition(":")[0])
    return vars(module).get(EXTRACTOR_NAME)


def normalise_answer(answer: str | None) -> str | None:
    """Return a form in which answers that a reader takes for the same are equal strings; None for an empty one.

    White space, enclosing `$` and a final full stop go, full-width characters become ordinary ones, and a decimal number
    becomes a whole one or a fraction in lowest terms. Anything else is compared as it is written: `2/4` is not `1/2`.
    """
    if answer is None:
        return None
    compact = "".join(unicodedata.normalize("NFKC", answer).split()).strip("$").rstrip(".")
    if _NUMBER.fullmatch(compact):
        return str(Fraction(compact.replace(",", "")))
    return compact or None

"""Sampling a toy model and scoring it on held-out problems, with transformers alone."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3ForCausalLM

from effopd.toy import verify
from effopd.toy.tasks import MAX_SOLUTION_CHARS, ToyProblem, problems
from effopd.toy.tokenizer import EOS_TOKEN_ID, PAD_TOKEN_ID

VERIFIERS = {"sums": verify.sums, "programs": verify.programs}

# Fixed, whatever the seed of the training, so that all scores are of the same held-out problems.
_SCORED_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How often a model is right on held-out problems."""

    pass_at_1: float
    """Mean reward of responses sampled at temperature 1."""
    pass_at_1_se: float
    """Standard error of `pass_at_1` over problems; the samples of one problem are averaged first."""
    greedy: float
    """Share of problems whose greedy response is right."""
    num_prompts: int
    samples_per_prompt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """B prompts, padded on the left, each followed by its response, padded on the right."""

    token_ids: Int[Tensor, "B T"]
    """Prompts and responses."""
    attention_mask: Int[Tensor, "B T"]
    """Zero on the padding before the prompt and after the end of the response."""
    response_mask: Int[Tensor, "B T"]
    """One on the tokens of the response, its end-of-sequence token included."""
    texts: list[str]
    """The responses, without special tokens."""


@torch.no_grad()
def sample(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[str], max_tokens: int, temperature: float
) -> Samples:
    """One response to each prompt, of at most `max_tokens`; greedy at temperature 0."""
    encoded = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
    is_greedy = temperature == 0.0
    settings = GenerationConfig(
        do_sample=not is_greedy,
        temperature=None if is_greedy else temperature,
        top_k=None if is_greedy else 0,  # 0 is off: left out, it would be the best 50
        max_new_tokens=max_tokens,
        eos_token_id=EOS_TOKEN_ID,
        pad_token_id=PAD_TOKEN_ID,
    )
    # pyright does not see that a model satisfies the protocol on which transformers declares `generate`.
    token_ids = model.generate(**encoded, generation_config=settings)  # pyright: ignore[reportAttributeAccessIssue]
    responses = token_ids[:, encoded.input_ids.shape[1] :]  # [B, R]
    is_end = (responses == EOS_TOKEN_ID).long()
    is_after_end = is_end.cumsum(dim=1) - is_end
    return Samples(
        token_ids=token_ids,
        attention_mask=torch.cat([encoded.attention_mask, 1 - is_after_end], dim=1),
        response_mask=torch.cat([torch.zeros_like(encoded.attention_mask), 1 - is_after_end], dim=1),
        texts=tokenizer.batch_decode(responses, skip_special_tokens=True),
    )


def max_response_tokens(task: str) -> int:
    """Room for the longest solution and its end-of-sequence token."""
    return MAX_SOLUTION_CHARS[task] + 1


def rewards_of(task: str, batch: list[ToyProblem], samples: Samples) -> Float[Tensor, " B"]:
    """The verdict on each response."""
    verifier = VERIFIERS[task]
    return torch.tensor(
        [
            verifier(text, problem.answer, {"prompt": problem.prompt})
            for problem, text in zip(batch, samples.texts, strict=True)
        ]
    )


def score_model(
    task: str, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, num_prompts: int, samples_per_prompt: int
) -> Score:
    """The score on the first `num_prompts` held-out problems."""
    posed = problems(task, "eval", num_prompts, _SCORED_SEED)
    prompts = [problem.prompt for problem in posed]
    limit = max_response_tokens(task)
    greedy = rewards_of(task, posed, sample(model, tokenizer, prompts, limit, 0.0))
    torch.manual_seed(_SCORED_SEED)
    sampled = torch.stack(
        [rewards_of(task, posed, sample(model, tokenizer, prompts, limit, 1.0)) for _ in range(samples_per_prompt)]
    ).mean(dim=0)  # [P]
    return Score(
        pass_at_1=sampled.mean().item(),
        pass_at_1_se=sampled.std().item() / math.sqrt(num_prompts),
        greedy=greedy.mean().item(),
        num_prompts=num_prompts,
        samples_per_prompt=samples_per_prompt,
    )

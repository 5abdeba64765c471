"""How the toy models are made, from nothing: a base by supervised training on unreliable solutions, a teacher by GRPO.

The base is trained to the end on solutions in which each step slips with some probability. It therefore knows the task,
which its greedy answers show, and is unsure of itself, which its sampled answers show: the state in which RL and
distillation find a language model. The teacher is that base after RL against the verifier, so it never saw a solution
the base did not see. Plain PyTorch and transformers: nothing of the framework is used, so that a fault in it cannot
shape the models it is tested on.
"""

import json
import logging
import math
import platform
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import tokenizers
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from effopd.toy import verify
from effopd.toy.tasks import (
    GENERATORS,
    LETTERS,
    MAX_SOLUTION_CHARS,
    SOLVERS,
    ToyProblem,
    problems,
    split_of,
)
from effopd.toy.tokenizer import CONTEXT_LENGTH, build_tokenizer

logger = logging.getLogger(__name__)

MODELS_DIR = Path(__file__).parent / "models"
STAGES = ("base", "teacher")
VERIFIERS = {"sums": verify.sums, "programs": verify.programs}

_IGNORED_LABEL = -100  # what the cross-entropy of transformers leaves out
_SCORED_PROMPTS = 512
_SAMPLES_PER_SCORED_PROMPT = 8
# Fixed, whatever the seed of the training, so that all scores are of the same held-out problems.
_SCORED_SEED = 0
_LOG_EVERY = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the two models of a task are trained."""

    slip_rate: float
    """Probability that a step of a training solution is wrong."""
    num_sft_steps: int
    sft_batch_size: int = 96
    sft_lr: float = 2e-3
    num_grpo_steps: int
    prompts_per_step: int = 32
    group_size: int = 8
    grpo_lr: float


RECIPES = {
    "sums": Recipe(slip_rate=0.25, num_sft_steps=4500, num_grpo_steps=120, grpo_lr=5e-4),
    "programs": Recipe(slip_rate=0.26, num_sft_steps=2400, num_grpo_steps=120, grpo_lr=5e-4),
}


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


def slip_in_sum(step: str, rng: random.Random) -> str:
    """The number with an error of one in its units or its tens, as in a forgotten carry."""
    return str(int(step) + rng.choice((-10, -1, 1, 10)))


def slip_in_string(step: str, rng: random.Random) -> str:
    """The string with one letter exchanged for another of the same case."""
    place = rng.randrange(len(step))
    letters = LETTERS.upper() if step[place].isupper() else LETTERS
    return step[:place] + rng.choice(letters.replace(step[place], "")) + step[place + 1 :]


SLIPS: dict[str, Callable[[str, random.Random], str]] = {"sums": slip_in_sum, "programs": slip_in_string}


def unreliable_solutions(task: str, slip_rate: float, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Endless pairs of a training prompt and a solution, each step of which slips with probability `slip_rate`."""

    def slip(step: str) -> str:
        return SLIPS[task](step, rng) if rng.random() < slip_rate else step

    while True:
        prompt = GENERATORS[task](rng).prompt
        if split_of(prompt) == "train":
            yield prompt, SOLVERS[task](prompt, slip)


def new_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A small Qwen3 with random weights, in float32."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # the smallest that vLLM's attention on CPU supports
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    # Two fields only: vLLM takes what else stands here for its default sampling parameters.
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model


def save_model(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes the weights, rounded to bfloat16, and the tokenizer. `model` itself is rounded too."""
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load_model(folder: Path) -> Qwen3ForCausalLM:
    """The model of a folder, its bfloat16 weights in float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def linear_decay(optimizer: torch.optim.Optimizer, num_steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """A schedule that brings the learning rate to zero in `num_steps`."""
    return torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=num_steps)


def train_base(task: str, recipe: Recipe, seed: int, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A new model, trained on unreliable solutions with a loss on the response alone."""
    torch.manual_seed(seed)
    rng = random.Random(f"sft/{task}/{seed}")
    pairs = unreliable_solutions(task, recipe.slip_rate, rng)
    model = new_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.sft_lr, betas=(0.9, 0.95))
    schedule = linear_decay(optimizer, recipe.num_sft_steps)
    started = time.monotonic()
    for step in range(1, recipe.num_sft_steps + 1):
        texts = [next(pairs) for _ in range(recipe.sft_batch_size)]
        encoded = tokenizer(
            [prompt + solution + tokenizer.eos_token for prompt, solution in texts],
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
        prompt_lengths = torch.tensor([[len(prompt)] for prompt, _ in texts])
        is_prompt = torch.arange(encoded.input_ids.shape[1]) < prompt_lengths  # [B, T]
        labels = encoded.input_ids.masked_fill(is_prompt | (encoded.attention_mask == 0), _IGNORED_LABEL)
        # Padding is on the right and attention causal, so no token that counts can see it: no attention mask is needed.
        loss = model(input_ids=encoded.input_ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % _LOG_EVERY == 0:
            logger.info("%s base: step %d, loss %.4f, %.0f s", task, step, loss.item(), time.monotonic() - started)
    return model


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Responses to B prompts, padded on the left, and their responses, padded on the right."""

    token_ids: Tensor
    """[B, T]"""
    attention_mask: Tensor
    """[B, T] Zero on the padding before the prompt and after the end of the response."""
    response_mask: Tensor
    """[B, T] One on the tokens of the response, its end-of-sequence token included."""
    texts: list[str]
    """The responses, without special tokens."""


@torch.no_grad()
def sample(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[str], max_tokens: int, is_greedy: bool
) -> Samples:
    """One response to each prompt, at temperature 1 or greedily."""
    encoded = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
    token_ids = model.generate(
        **encoded,
        generation_config=GenerationConfig(
            do_sample=not is_greedy,
            top_k=0,  # off: transformers would keep the best 50 only
            max_new_tokens=max_tokens,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
    )
    responses = token_ids[:, encoded.input_ids.shape[1] :]  # [B, R]
    is_end = (responses == tokenizer.eos_token_id).long()
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


def rewards_of(task: str, batch: list[ToyProblem], samples: Samples) -> Tensor:
    """[B] The verdict on each response."""
    verifier = VERIFIERS[task]
    return torch.tensor(
        [
            verifier(text, problem.answer, {"prompt": problem.prompt})
            for problem, text in zip(batch, samples.texts, strict=True)
        ]
    )


def response_logprobs(model: Qwen3ForCausalLM, samples: Samples) -> Tensor:
    """[B, T] Log-probability of each token given those before it, in nats, with gradient; 0 outside the responses."""
    # Left padding shifts a prompt to the right; its first token is at position 0 all the same.
    position_ids = (samples.attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    logits = model(
        input_ids=samples.token_ids, attention_mask=samples.attention_mask, position_ids=position_ids
    ).logits  # [B, T, V]
    logprobs = logits[:, :-1].log_softmax(dim=-1).gather(2, samples.token_ids[:, 1:, None]).squeeze(2)  # [B, T - 1]
    return torch.nn.functional.pad(logprobs, (1, 0)).masked_fill(samples.response_mask == 0, 0.0)


def group_advantages(rewards: Tensor, group_size: int) -> Tensor:
    """[B] Rewards less the mean of their group, over its standard deviation; 0 in a group of equal rewards."""
    groups = rewards.view(-1, group_size)  # [P, G]
    centered = groups - groups.mean(dim=1, keepdim=True)
    return (centered / (groups.std(dim=1, keepdim=True) + 1e-6)).flatten()


def train_teacher(
    task: str, recipe: Recipe, seed: int, tokenizer: PreTrainedTokenizerFast, model: Qwen3ForCausalLM
) -> Qwen3ForCausalLM:
    """`model` itself, after GRPO against the verifier: one update per batch, no clipping, no KL penalty."""
    torch.manual_seed(seed)
    num_prompts = recipe.num_grpo_steps * recipe.prompts_per_step
    posed = problems(task, "train", num_prompts, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.grpo_lr, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = linear_decay(optimizer, recipe.num_grpo_steps)
    started = time.monotonic()
    for step in range(1, recipe.num_grpo_steps + 1):
        prompts = posed[(step - 1) * recipe.prompts_per_step : step * recipe.prompts_per_step]
        batch = [problem for problem in prompts for _ in range(recipe.group_size)]
        samples = sample(model, tokenizer, [problem.prompt for problem in batch], max_response_tokens(task), False)
        rewards = rewards_of(task, batch, samples)
        advantages = group_advantages(rewards, recipe.group_size)
        logprobs = response_logprobs(model, samples)
        loss = -(advantages[:, None] * logprobs).sum() / samples.response_mask.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 10 == 0:
            logger.info(
                "%s teacher: step %d, mean reward %.3f, %.0f s", task, step, rewards.mean(), time.monotonic() - started
            )
    return model


def score_model(
    task: str, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, num_prompts: int, samples_per_prompt: int
) -> Score:
    """The score on the first `num_prompts` held-out problems."""
    posed = problems(task, "eval", num_prompts, _SCORED_SEED)
    prompts = [problem.prompt for problem in posed]
    limit = max_response_tokens(task)
    greedy = rewards_of(task, posed, sample(model, tokenizer, prompts, limit, True))
    torch.manual_seed(_SCORED_SEED)
    sampled = torch.stack(
        [rewards_of(task, posed, sample(model, tokenizer, prompts, limit, False)) for _ in range(samples_per_prompt)]
    ).mean(dim=0)  # [P]
    return Score(
        pass_at_1=sampled.mean().item(),
        pass_at_1_se=sampled.std().item() / math.sqrt(num_prompts),
        greedy=greedy.mean().item(),
        num_prompts=num_prompts,
        samples_per_prompt=samples_per_prompt,
    )


def make_model(task: str, stage: str, seed: int, out: Path, command: str) -> Score:
    """Makes a model, saves it as `out/<task>_<stage>`, scores what was saved and notes that in `out/scores.json`.

    The teacher starts from the saved base, which must be there. `command` is noted with the score.
    """
    recipe = RECIPES[task]
    tokenizer = build_tokenizer()
    folder = out / f"{task}_{stage}"
    started = time.monotonic()
    if stage == "base":
        model = train_base(task, recipe, seed, tokenizer)
    else:
        model = train_teacher(task, recipe, seed, tokenizer, load_model(out / f"{task}_base"))
    seconds = time.monotonic() - started
    save_model(model, tokenizer, folder)
    saved = load_model(folder)
    score = score_model(task, saved, tokenizer, _SCORED_PROMPTS, _SAMPLES_PER_SCORED_PROMPT)
    scores_path = out / "scores.json"
    scores = json.loads(scores_path.read_text()) if scores_path.exists() else {}
    scores[folder.name] = {
        "seed": seed,
        "train_seconds": round(seconds),
        "num_parameters": saved.num_parameters(),
        "score": asdict(score),
        "recipe": asdict(recipe),
        "command": command,
        "versions": {
            "python": platform.python_version(),
            "tokenizers": tokenizers.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    scores_path.write_text(json.dumps(scores, indent=2, sort_keys=True) + "\n")
    return score

"""How the toy models are made, from nothing: a base by supervised training on unreliable solutions, a teacher by GRPO.

The base is trained to the end on solutions in which each step slips with some probability. It therefore knows the task,
which its greedy answers show, and is unsure of itself, which its sampled answers show: the state in which RL and
distillation find a language model. The teacher is that base after RL, taught by the verdicts on its own samples alone.
Plain PyTorch and transformers: nothing of the training framework is used, so that a fault in it cannot shape the models
it is tested on.
"""

import json
import logging
import platform
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import tokenizers
import torch
import transformers
from jaxtyping import Float
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    get_linear_schedule_with_warmup,
)

from effopd.toy.scoring import Samples, Score, max_response_tokens, rewards_of, sample, score_model
from effopd.toy.slips import unreliable_solutions
from effopd.toy.tasks import problems
from effopd.toy.tokenizer import CONTEXT_LENGTH, EOS_TOKEN, EOS_TOKEN_ID, PAD_TOKEN_ID, build_tokenizer

logger = logging.getLogger(__name__)

MODELS_DIR = Path(__file__).parent / "models"
STAGES = ("base", "teacher")

_IGNORED_LABEL = -100  # what the cross-entropy of transformers leaves out
# Without a warm-up this learning rate leaves `sums` unlearnt for more than three times as long.
_NUM_SFT_WARMUP_STEPS = 100
_NUM_GRPO_WARMUP_STEPS = 20
_SCORED_PROMPTS = 512
_SAMPLES_PER_SCORED_PROMPT = 8
_LOG_EVERY = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the two models of a task are trained."""

    slip_rate: float
    """Probability that a step of a training solution is wrong."""
    num_sft_steps: int
    sft_batch_size: int = 96
    sft_lr: float = 2e-3
    sft_final_lr: float
    """Where the linear decay ends. Decayed to zero, the base of `sums` settles in a ravine so narrow that a first Adam
    step of 3e-4 raises the reverse KL to its teacher; at 1e-3 the same step lowers it by a fifth."""
    num_grpo_steps: int
    prompts_per_step: int = 32
    group_size: int = 8
    grpo_lr: float


RECIPES = {
    "sums": Recipe(slip_rate=0.25, num_sft_steps=3600, sft_final_lr=1e-3, num_grpo_steps=200, grpo_lr=1e-3),
    "programs": Recipe(slip_rate=0.26, num_sft_steps=1600, sft_final_lr=0.0, num_grpo_steps=400, grpo_lr=5e-4),
}


def new_model(vocab_size: int) -> Qwen3ForCausalLM:
    """A small Qwen3 with random weights, in float32."""
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # the smallest that vLLM's attention on CPU supports
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=EOS_TOKEN_ID,
        pad_token_id=PAD_TOKEN_ID,
    )
    model = Qwen3ForCausalLM(config)
    # Two fields only: vLLM takes what else stands here for its default sampling parameters.
    model.generation_config = GenerationConfig(eos_token_id=EOS_TOKEN_ID, pad_token_id=PAD_TOKEN_ID)
    return model


def save_model(model: Qwen3ForCausalLM, folder: Path) -> None:
    """Writes the weights, rounded to bfloat16, and the tokenizer. `model` itself is rounded too."""
    model.bfloat16().save_pretrained(folder)
    # A new one: a tokenizer that has padded a batch would write down how, and pad for whoever loads it.
    build_tokenizer().save_pretrained(folder)


def load_model(folder: Path) -> Qwen3ForCausalLM:
    """The model of a folder, its bfloat16 weights in float32."""
    return Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)


def sft_lr_at(recipe: Recipe, step: int) -> float:
    """The learning rate of step `step` (from 0): a linear warm-up, then a linear decay to `sft_final_lr`."""
    if step < _NUM_SFT_WARMUP_STEPS:
        return recipe.sft_lr * step / _NUM_SFT_WARMUP_STEPS
    progress = (step - _NUM_SFT_WARMUP_STEPS) / (recipe.num_sft_steps - _NUM_SFT_WARMUP_STEPS)
    return recipe.sft_lr + progress * (recipe.sft_final_lr - recipe.sft_lr)


def train_base(task: str, recipe: Recipe, seed: int, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A new model, trained on unreliable solutions with a loss on the response alone."""
    torch.manual_seed(seed)
    pairs = unreliable_solutions(task, recipe.slip_rate, random.Random(f"sft/{task}/{seed}"))
    model = new_model(len(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.sft_lr, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: sft_lr_at(recipe, step) / recipe.sft_lr)
    started = time.monotonic()
    for step in range(1, recipe.num_sft_steps + 1):
        texts = [next(pairs) for _ in range(recipe.sft_batch_size)]
        encoded = tokenizer(
            [prompt + solution + EOS_TOKEN for prompt, solution in texts],
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


def response_logprobs(model: Qwen3ForCausalLM, samples: Samples) -> Float[Tensor, "B T"]:
    """Log-probability of each token given those before it, in nats, with gradient; 0 outside the responses."""
    # Left padding shifts a prompt to the right; its first token is at position 0 all the same.
    position_ids = (samples.attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    logits = model(
        input_ids=samples.token_ids, attention_mask=samples.attention_mask, position_ids=position_ids
    ).logits  # [B, T, V]
    logprobs = logits[:, :-1].log_softmax(dim=-1).gather(2, samples.token_ids[:, 1:, None]).squeeze(2)  # [B, T - 1]
    return torch.nn.functional.pad(logprobs, (1, 0)).masked_fill(samples.response_mask == 0, 0.0)


def group_advantages(rewards: Float[Tensor, " B"], group_size: int) -> Float[Tensor, " B"]:
    """Rewards less the mean of their group, over its standard deviation; 0 in a group of equal rewards."""
    groups = rewards.view(-1, group_size)  # [P, G]
    centered = groups - groups.mean(dim=1, keepdim=True)
    return (centered / (groups.std(dim=1, keepdim=True) + 1e-6)).flatten()


def train_teacher(
    task: str, recipe: Recipe, seed: int, tokenizer: PreTrainedTokenizerFast, model: Qwen3ForCausalLM
) -> Qwen3ForCausalLM:
    """`model` itself, after GRPO against the verifier.

    Shao et al. 2024, arXiv:2402.03300, equation 3, with one update per batch, so that there is no ratio to clip; without
    the KL penalty; and with the mean over all response tokens of the batch, where the paper takes it per response.
    """
    torch.manual_seed(seed)
    posed = problems(task, "train", recipe.num_grpo_steps * recipe.prompts_per_step, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.grpo_lr, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, _NUM_GRPO_WARMUP_STEPS, recipe.num_grpo_steps)
    started = time.monotonic()
    for step in range(1, recipe.num_grpo_steps + 1):
        drawn = posed[(step - 1) * recipe.prompts_per_step : step * recipe.prompts_per_step]
        batch = [problem for problem in drawn for _ in range(recipe.group_size)]
        samples = sample(model, tokenizer, [problem.prompt for problem in batch], max_response_tokens(task), 1.0)
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
    save_model(model, folder)
    saved = load_model(folder)
    score = score_model(task, saved, tokenizer, _SCORED_PROMPTS, _SAMPLES_PER_SCORED_PROMPT)
    scores_path = out / "scores.json"
    scores = json.loads(scores_path.read_text()) if scores_path.exists() else {}
    scores[folder.name] = {
        "seed": seed,
        "train_seconds": round(seconds),
        "num_parameters": saved.num_parameters(),
        "score": asdict(score),
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

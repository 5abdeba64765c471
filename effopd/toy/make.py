"""How the bases of the toy tasks are made, from nothing: by supervised training on unreliable solutions.

A base is trained to the end on solutions in which each step slips with some probability. It therefore knows the task,
which its greedy answers show, and is unsure of itself, which its sampled answers show: the state in which RL and
distillation find a language model. Plain PyTorch and transformers. The teachers are made of these bases by the framework
itself: `experiment=toy_teacher` and `toy_teacher_programs`.
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
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from effopd.toy.scoring import Score, score_model
from effopd.toy.slips import unreliable_solutions
from effopd.toy.tokenizer import CONTEXT_LENGTH, EOS_TOKEN, EOS_TOKEN_ID, PAD_TOKEN_ID, build_tokenizer

logger = logging.getLogger(__name__)

MODELS_DIR = Path(__file__).parent / "models"
STAGES = ("base", "teacher")

_IGNORED_LABEL = -100  # what the cross-entropy of transformers leaves out
# Without a warm-up this learning rate leaves `sums` unlearnt for more than three times as long.
_NUM_WARMUP_STEPS = 100
_SCORED_PROMPTS = 512
_SAMPLES_PER_SCORED_PROMPT = 8
_LOG_EVERY = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the base of a task is trained."""

    slip_rate: float
    """Probability that a step of a training solution is wrong."""
    num_steps: int
    batch_size: int = 96
    lr: float = 2e-3
    final_lr: float
    """Where the linear decay ends. Decayed to zero, the base of `sums` settles in a ravine so narrow that a first Adam
    step of 3e-4 raises the reverse KL to its teacher; at 1e-3 the same step lowers it by a fifth."""


RECIPES = {
    "sums": Recipe(slip_rate=0.25, num_steps=3600, final_lr=1e-3),
    "programs": Recipe(slip_rate=0.25, num_steps=2200, final_lr=6e-4),
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


def lr_at(recipe: Recipe, step: int) -> float:
    """The learning rate of step `step` (from 0): a linear warm-up, then a linear decay to `final_lr`."""
    if step < _NUM_WARMUP_STEPS:
        return recipe.lr * step / _NUM_WARMUP_STEPS
    progress = (step - _NUM_WARMUP_STEPS) / (recipe.num_steps - _NUM_WARMUP_STEPS)
    return recipe.lr + progress * (recipe.final_lr - recipe.lr)


def train_base(task: str, recipe: Recipe, seed: int, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A new model, trained on unreliable solutions with a loss on the response alone."""
    torch.manual_seed(seed)
    pairs = unreliable_solutions(task, recipe.slip_rate, random.Random(f"sft/{task}/{seed}"))
    model = new_model(len(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_at(recipe, step) / recipe.lr)
    started = time.monotonic()
    for step in range(1, recipe.num_steps + 1):
        texts = [next(pairs) for _ in range(recipe.batch_size)]
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


def make_base(task: str, seed: int, out: Path) -> float:
    """Makes the base of a task, saves it as `out/<task>_base`, and returns the seconds that its training took."""
    started = time.monotonic()
    model = train_base(task, RECIPES[task], seed, build_tokenizer())
    seconds = time.monotonic() - started
    save_model(model, out / f"{task}_base")
    return seconds


def note_score(task: str, stage: str, out: Path, *, seed: int, seconds: float, command: str) -> Score:
    """Scores the model saved as `out/<task>_<stage>` and notes that in `out/scores.json`, with how it was made."""
    folder = out / f"{task}_{stage}"
    saved = load_model(folder)
    score = score_model(task, saved, build_tokenizer(), _SCORED_PROMPTS, _SAMPLES_PER_SCORED_PROMPT)
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

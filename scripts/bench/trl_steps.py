"""Runs TRL's DistillationTrainer for some steps and prints tokens and seconds of each, as one line of JSON.

For `against_trl.py`, which calls it with the Python of `.venv-trl`; it imports nothing of effopd. A step ends when its log
is written, so everything between two logs is in it.
"""

import argparse
import json
import time
from tempfile import TemporaryDirectory

import torch
from datasets import load_dataset
from transformers import TrainerCallback
from trl import DistillationConfig, DistillationTrainer


class StepClock(TrainerCallback):
    def __init__(self, num_prompts: int) -> None:
        self.steps: list[dict[str, float]] = []
        self._num_prompts = num_prompts
        self._mark = 0.0

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self._mark = time.perf_counter()

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if "completions/mean_length" not in logs:
            return  # the summary at the end
        now = time.perf_counter()
        tokens = round(logs["completions/mean_length"] * self._num_prompts)
        self.steps.append({"tokens": tokens, "seconds": now - self._mark})
        self._mark = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student")
    parser.add_argument("teacher")
    parser.add_argument("data")
    for name in ("rows", "prompts", "steps", "max-response-len", "threads", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = StepClock(arguments.prompts)
    with TemporaryDirectory() as folder:
        config = DistillationConfig(
            output_dir=folder,
            beta=1.0,
            max_steps=arguments.steps,
            per_device_train_batch_size=arguments.rows,
            gradient_accumulation_steps=arguments.prompts // arguments.rows,
            max_completion_length=arguments.max_response_len,
            learning_rate=1e-6,
            lr_scheduler_type="constant",
            weight_decay=0.01,
            max_grad_norm=1.0,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=arguments.seed,
        )
        trainer = DistillationTrainer(
            model=arguments.student,
            teacher_model=arguments.teacher,
            args=config,
            train_dataset=load_dataset("json", data_files=arguments.data, split="train"),
            callbacks=[clock],
        )
        trainer.train()
    print(json.dumps(clock.steps))


if __name__ == "__main__":
    main()

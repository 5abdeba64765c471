"""Rollout tokens per second: the Ray sampler with one actor, against bare `vllm.LLM.generate`.

Same model, prompts, per-response seeds, length limits and engine settings, so both sides draw the same tokens. The bare
engine lives in a process of its own and only its `generate` is timed: no Ray, no rollout objects, no text. Two cases: the
toy (256 prompts, up to 24 tokens) and a random 5M-parameter Qwen3 whose responses are ragged because 3 of its 512 tokens
end one (128 prompts, up to 512 tokens). Goal: at least 0.90.

    python scripts/bench/rollout.py
"""

import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

from measure import Comparison, alternate, argument_parser, parse, report
from random_models import SMALL_EOS_IDS, random_prompts, write_small
from transformers import AutoTokenizer

from effopd.actors.build import build_ray_sampler
from effopd.actors.session import ENVIRONMENT, session_for
from effopd.config.schema import ClusterConfig, DataConfig, Device, ModelConfig, RolloutConfig, RunConfig
from effopd.inputs import read_student
from effopd.model_folders import resolve_model_path
from effopd.seeds import sample_seed
from effopd.toy.tasks import problems
from effopd.types import GenerateRequest, PolicyVersion, Prompt

GOAL = 0.90
VERSION = PolicyVersion(step=0)
TOY_EOS_IDS = [1]
BARE_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def serve_bare(connection: Connection, config: RunConfig, request: GenerateRequest, stop_token_ids: list[int]) -> None:
    """Answer every message with the tokens and seconds of one `LLM.generate`, until told to stop."""
    from vllm import LLM, SamplingParams  # noqa: PLC0415

    rollout = config.rollout
    llm = LLM(
        config.model.path,
        skip_tokenizer_init=True,
        dtype=rollout.dtype.value,
        max_model_len=config.data.max_prompt_len + rollout.max_response_len,
        max_num_seqs=rollout.max_num_seqs,
        enforce_eager=rollout.enforce_eager,
        kv_cache_memory_bytes=int(rollout.kv_cache_gib * 2**30),
        enable_prefix_caching=False,
        logprobs_mode="raw_logprobs",
        generation_config="vllm",
        seed=0,
    )
    inputs = [{"prompt_token_ids": list(prompt.token_ids)} for prompt in request.prompts]
    parameters = [
        SamplingParams(
            temperature=1.0,
            top_p=1.0,
            max_tokens=request.max_response_len,
            seed=sample_seed(request.seed, prompt.prompt_id, 0),
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            ignore_eos=True,
            stop_token_ids=stop_token_ids,
        )
        for prompt in request.prompts
    ]
    connection.send("ready")
    while connection.recv():
        start = time.perf_counter()
        outputs = llm.generate(inputs, parameters, use_tqdm=False)
        seconds = time.perf_counter() - start
        connection.send((sum(len(output.outputs[0].token_ids) for output in outputs), seconds))


def compare(
    name: str, model_path: str, texts: list[str], stop_token_ids: list[int], max_response_len: int, arguments
) -> Comparison:
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    prompts = tuple(
        Prompt(prompt_id=str(index), token_ids=tuple(tokenizer.encode(text)), text=text, answer="")
        for index, text in enumerate(texts)
    )
    config = RunConfig(
        model=ModelConfig(path=model_path),
        data=DataConfig(path="unused", max_prompt_len=max(len(prompt.token_ids) for prompt in prompts)),
        rollout=RolloutConfig(max_response_len=max_response_len, num_threads=arguments.threads),
        cluster=ClusterConfig(device=Device.cpu),
    )
    request = GenerateRequest(
        prompts=prompts,
        num_samples=1,
        max_response_len=max_response_len,
        temperature=1.0,
        top_p=1.0,
        seed=arguments.seed,
    )
    session = session_for(config.cluster)
    sampler, _, _ = build_ray_sampler(config, read_student(config), session)
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve_bare, args=(there, config, request, stop_token_ids), daemon=True
    )
    process.start()
    here.recv()
    num_tokens: dict[str, int] = {}

    def ours() -> float:
        start = time.perf_counter()
        rollouts = sampler.generate(request, VERSION)
        seconds = time.perf_counter() - start
        num_tokens["ours"] = sum(summary.response_len for summary in rollouts.summaries)
        return num_tokens["ours"] / seconds

    def bare() -> float:
        here.send(True)
        num_tokens["bare"], seconds = here.recv()
        return num_tokens["bare"] / seconds

    candidate, baseline = alternate(arguments.rounds, ours, bare)
    here.send(False)
    process.join()
    return Comparison(
        what=f"rollout tokens per second of RaySampler, {name}",
        baseline_name="bare vllm.LLM.generate",
        unit="tokens/s",
        candidate=candidate,
        baseline=baseline,
        is_speed=True,
        goal=GOAL,
        notes={"responses": len(prompts), "tokens ours": num_tokens["ours"], "tokens bare": num_tokens["bare"]},
    )


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--cases", nargs="+", choices=("toy", "ragged"), default=["toy", "ragged"])
    arguments = parse(parser)
    # The bare process inherits what the actor is given.
    os.environ.update({**ENVIRONMENT, **BARE_ENVIRONMENT, "OMP_NUM_THREADS": str(arguments.threads)})
    comparisons = []
    with TemporaryDirectory() as folder:
        if "toy" in arguments.cases:
            texts = [problem.prompt for problem in problems("sums", "train", 256, arguments.seed)]
            path = str(resolve_model_path("model.path", "toy:sums_base"))
            comparisons.append(compare("toy", path, texts, TOY_EOS_IDS, 24, arguments))
        if "ragged" in arguments.cases:
            texts = random_prompts(128, 16, arguments.seed)
            path = str(write_small(Path(folder), arguments.seed))
            comparisons.append(compare("5M ragged", path, texts, list(SMALL_EOS_IDS), 512, arguments))
    session_for(ClusterConfig(device=Device.cpu)).stop()
    report(arguments, comparisons)


if __name__ == "__main__":
    main()

"""Sampling with vLLM, in this process.

vLLM is imported when a sampler is made, not when this module is: that takes many seconds, and the environment that vLLM
reads must be set before.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain

import torch

from effopd.config.schema import Device, RolloutConfig
from effopd.engines.sample_rows import Drawn, SampleFormat, SampleRow, piece_sizes, require_version
from effopd.errors import ConfigError, RolloutError, WeightSyncError
from effopd.types import GenerateRequest, PolicyVersion, Prompt, Publication, Rollout
from effopd.weights import SegmentReaders


class VLLMSampler:
    """One vLLM engine.

    It starts with the weights in `model_path` but samples only after the first `load`, because those weights have no
    version. The same request on the same weights gives the same tokens; in float32 this also holds across restarts.
    """

    def __init__(
        self, config: RolloutConfig, model_path: str, *, max_model_len: int, device: Device, seed: int
    ) -> None:
        self._format = SampleFormat(model_path, max_model_len)
        self._version: PolicyVersion | None = None
        self._readers = SegmentReaders()
        _set_environment()
        from vllm import LLM  # noqa: PLC0415
        from vllm.platforms import current_platform  # noqa: PLC0415

        from effopd.engines import vllm_shared_memory  # noqa: PLC0415

        is_cpu = current_platform.is_cpu()
        if device is not Device.auto and (device is Device.cpu) != is_cpu:
            raise ConfigError(
                f"cluster.device={device}: the vLLM that is installed runs on {current_platform.device_type}; "
                "set cluster.device=auto, or install effopd[cpu] or effopd[gpu]"
            )
        torch.set_num_threads(config.num_threads)
        with _torch_settings_kept():
            self._llm = LLM(
                model_path,
                skip_tokenizer_init=True,
                dtype=config.dtype.value,
                max_model_len=max_model_len,
                max_num_seqs=config.max_num_seqs,
                tensor_parallel_size=config.tensor_parallel_size,
                # Inside a placement group vLLM would else make Ray actors of its own and find no GPU left for them.
                distributed_executor_backend="mp" if config.tensor_parallel_size > 1 else None,
                enforce_eager=config.enforce_eager,
                gpu_memory_utilization=config.gpu_memory_utilization,
                kv_cache_memory_bytes=int(config.kv_cache_gib * 2**30) if is_cpu else None,
                # Blocks cached under old weights would answer for new ones.
                enable_prefix_caching=False,
                logprobs_mode="raw_logprobs",
                generation_config="vllm",  # sampling parameters come from the request alone
                weight_transfer_config={"backend": vllm_shared_memory.ENGINE_NAME},
                worker_extension_cls=(
                    f"{vllm_shared_memory.__name__}.{vllm_shared_memory.SharedMemoryWorkerExtension.__name__}"
                ),
                use_tqdm_on_load=False,
                seed=seed,
            )
            self._llm.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": {}})
            # The first call compiles kernels for seconds, which would be charged to the first step.
            list(self._draw([SampleRow(prompt=_WARM_UP_PROMPT, sample_index=0, seed=0, max_response_len=2)], 1.0, 1.0))

    @property
    def version(self) -> PolicyVersion | None:
        """The weights in force; None before the first load and after one that failed half-way."""
        return self._version

    def load(self, publication: Publication) -> None:
        """Make `publication` the weights in force.

        Raises:
            WeightSyncError: when the segment does not hold what was published (the old weights stay in force), or when
                its tensors are not those of the model (then none are).

        """
        self._readers.verified(publication)
        self._version = None
        try:
            self._llm.collective_rpc("start_weight_update")
            for bucket in publication.buckets:
                update_info = {"segment": publication.segment, "slots": [asdict(slot) for slot in bucket]}
                self._llm.collective_rpc("update_weights", kwargs={"update_info": update_info})
            self._llm.collective_rpc("finish_weight_update")
        except Exception as error:  # whatever it is, the weights in force are not those of the publication
            raise WeightSyncError(f"vLLM could not load weights {publication.version}: {error}") from error
        missing = sorted(set(chain.from_iterable(self._llm.collective_rpc("layers_without_weights"))))
        if missing:
            raise WeightSyncError(f"weights {publication.version} lack those of {', '.join(missing)}")
        self._version = publication.version

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> list[Rollout]:
        """Return the responses, prompt by prompt, sample by sample.

        `rollout_logprobs` are those of the raw model distribution, at temperature 1, whatever the request's temperature.

        Raises:
            WeightSyncError: when other weights than `version` are loaded.
            RolloutError: when a prompt cannot be answered; it names the prompt.

        """
        return [rollout for _, piece in self.stream(request, version, num_pieces=1) for rollout in piece]

    def stream(
        self, request: GenerateRequest, version: PolicyVersion, num_pieces: int
    ) -> Iterator[tuple[int, list[Rollout]]]:
        """Yield what `generate` returns, cut into pieces of consecutive prompts, each as soon as it is finished: its number and
        its responses. Errors are those of `generate`."""
        require_version(self._version, version)
        rows = self._format.rows(request)
        drawn = self._draw(rows, request.temperature, request.top_p)
        return self._format.pieces(rows, drawn, piece_sizes(request, num_pieces), version)

    def close(self) -> None:
        """Shut the engine down. The default process group survives, whoever made it."""
        with _process_group_kept():
            self._llm.llm_engine.engine_core.shutdown()
        self._readers.close()

    def _draw(self, rows: list[SampleRow], temperature: float, top_p: float) -> Iterator[Drawn]:
        """Yield every row when it is finished. All are in the engine's continuous batch from the beginning."""
        from vllm import SamplingParams  # noqa: PLC0415

        parameters = [
            SamplingParams(
                temperature=temperature,
                top_p=top_p,
                max_tokens=row.max_response_len,
                seed=row.seed,
                logprobs=0,  # of the sampled token, and of no other
                flat_logprobs=True,
                detokenize=False,
                # vLLM would add the tokenizer's own end token to the model's; other samplers do not.
                ignore_eos=True,
                stop_token_ids=list(self._format.stop_token_ids),
            )
            for row in rows
        ]
        engine = self._llm.llm_engine
        first = self._llm.request_counter.counter  # vLLM numbers requests
        request_ids = self._llm.enqueue(
            [{"prompt_token_ids": list(row.prompt.token_ids)} for row in rows], parameters, use_tqdm=False
        )
        try:
            while engine.has_unfinished_requests():
                for output in engine.step():
                    if output.finished:
                        yield _drawn(rows, first, output)
        finally:
            if engine.has_unfinished_requests():  # whoever takes the rows has stopped to
                engine.abort_request(request_ids, internal=True)


def _drawn(rows: list[SampleRow], first: int, output: object) -> Drawn:
    """Return what vLLM drew for one of `rows`; it knows the first of them as request `first`. Raises RolloutError when it gave
    up."""
    from vllm.logprobs import FlatLogprobs  # noqa: PLC0415
    from vllm.outputs import RequestOutput  # noqa: PLC0415

    assert isinstance(output, RequestOutput), "nothing but text was asked for"
    number = int(output.request_id) - first
    row, completion = rows[number], output.outputs[0]
    if completion.finish_reason not in ("stop", "length"):
        raise RolloutError(
            f"vLLM gave up on prompt {row.prompt.prompt_id}, sample {row.sample_index}: {completion.finish_reason}"
        )
    assert isinstance(completion.logprobs, FlatLogprobs), "asked for flat log-probabilities"
    assert completion.logprobs.token_ids == list(completion.token_ids), "one log-probability per sampled token"
    return Drawn(
        number,
        torch.tensor(completion.token_ids, dtype=torch.int64),
        torch.tensor(completion.logprobs.logprobs, dtype=torch.float32),
    )


_WARM_UP_PROMPT = Prompt(prompt_id="warm-up", token_ids=(0,), text="", answer="")


def _set_environment() -> None:
    """Set what vLLM reads from the environment. Settings that a user may want to change keep a value that is there."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ["DO_NOT_TRACK"] = "1"
    # Whole gigabytes only, and it would overrule rollout.kv_cache_gib.
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)
    # By default vLLM binds its threads to cores and leaves one idle.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    # Its warnings at start-up and at every load are about choices made here on purpose.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


@contextmanager
def _torch_settings_kept() -> Iterator[None]:
    """Undo what vLLM's CPU worker does to the process: it replaces `torch.set_num_threads` by a function that only warns."""
    set_num_threads, num_threads = torch.set_num_threads, torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads
        torch.set_num_threads(num_threads)


@contextmanager
def _process_group_kept() -> Iterator[None]:
    """Keep vLLM's shutdown from destroying the default process group of this process.

    A learner may have made it, or may have found vLLM's and be using that. Groups that vLLM alone uses are destroyed.
    """
    destroy = torch.distributed.destroy_process_group

    def destroy_unless_default(group: torch.distributed.ProcessGroup | None = None) -> None:
        if group is not None:
            destroy(group)

    torch.distributed.destroy_process_group = destroy_unless_default
    try:
        yield
    finally:
        torch.distributed.destroy_process_group = destroy

"""Every setting, its type, its one default and its meaning.

Standard library only: `import effopd.config` takes milliseconds and needs no torch. Classes are slotted but not frozen,
because Hydra writes overrides into them; nothing else does. `__post_init__` checks single values; rules that span groups
live in `check.py`. A choice of values is an Enum, for Hydra has no Literal.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from effopd.config.require import require
from effopd.config.search_schema import SearchConfig, check_search
from effopd.config.source_schema import (
    ContaminationPolicy,
    EvalSetConfig,
    SourceConfig,
    check_sampling,
    check_source,
)


class Dtype(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"


class Device(StrEnum):
    auto = "auto"
    """CUDA where there is one, else the CPU."""
    cpu = "cpu"
    cuda = "cuda"


@dataclass(slots=True)
class ModelConfig:
    """The student: any Hugging Face causal language model folder."""

    path: str = "???"
    """A folder, a hub name, or `toy:<task>_<base|teacher>` for a model that effopd ships."""
    chat_template: str | None = None
    """A Jinja file that replaces the tokenizer's own template."""
    attn_implementation: str = "sdpa"


@dataclass(slots=True)
class TeacherConfig:
    """The model whose distribution the student is pulled towards."""

    path: str = "???"
    dtype: Dtype = Dtype.float32
    max_tokens_per_batch: int = 16384
    """Padded tokens in one teacher forward."""
    logit_chunk_tokens: int = 512
    """Tokens whose [tokens, V] logits exist at once."""
    num_threads: int = 2
    """CPU threads of the teacher process."""

    def __post_init__(self) -> None:
        require(
            self.max_tokens_per_batch >= 1,
            "teacher.max_tokens_per_batch",
            self.max_tokens_per_batch,
            "must be at least 1",
            "try 16384",
        )
        require(
            self.logit_chunk_tokens >= 1,
            "teacher.logit_chunk_tokens",
            self.logit_chunk_tokens,
            "must be at least 1",
            "try 512",
        )
        require(self.num_threads >= 1, "teacher.num_threads", self.num_threads, "must be at least 1", "try 2")


class AlgorithmName(StrEnum):
    opd = "opd"
    """Sampled-token reverse KL as a per-token advantage in a clipped surrogate: the paper's."""
    opd_full = "opd_full"
    """Exact full-vocabulary reverse KL at every sampled prefix."""
    ppo = "ppo"
    grpo = "grpo"
    dapo = "dapo"


class KLPlacement(StrEnum):
    """Where PPO charges the KL to the reference."""

    reward = "reward"
    loss = "loss"


@dataclass(slots=True)
class AlgoConfig:
    """The objective. `algo=opd | opd_full | ppo | grpo | dapo` are presets with the published values."""

    name: AlgorithmName = AlgorithmName.opd
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 3.0
    """Bound on the surrogate for negative advantages, in multiples of the advantage; must exceed 1."""
    importance_cap: float = 5.0
    """Upper bound of the truncated importance weight exp(old_logprobs - rollout_logprobs)."""
    num_minibatches: int = 1
    """Optimizer steps that one pass over the rollouts of a step is divided into."""
    num_epochs: int = 1
    """Passes over the rollouts of a step."""
    reward_coef: float = 0.0
    """OPD: weight of the group-normalised outcome beside the log-ratio to the teacher."""
    teacher_scale: float = 1.0
    """OPD: lambda of G-OPD, how many times the step from the untrained student to the teacher is aimed at; 1.25 is ExOPD."""
    kl_coef: float = 0.0
    """PPO, GRPO: weight of the KL to the student as it was before training; 0 needs no such reference."""
    kl_in: KLPlacement = KLPlacement.loss
    overlong_buffer: int = 0
    """DAPO: tokens before rollout.max_response_len in which the reward falls by up to 1; 0 punishes no length."""
    dynamic_sampling: bool = False
    """Replace groups whose responses all have the same reward by further prompts."""
    max_sampling_rounds: int = 10
    """Batches of prompts that dynamic sampling may take for one step."""
    discount: float = 1.0
    gae_lambda: float = 1.0
    value_clip: float = 0.2
    critic_lr: float = 1e-5
    """PPO: peak learning rate of the critic; schedule and everything else are the learner's."""

    def __post_init__(self) -> None:
        require(0 < self.clip_low < 1, "algo.clip_low", self.clip_low, "must lie in (0, 1)", "try 0.2")
        require(self.clip_high > 0, "algo.clip_high", self.clip_high, "must be positive", "try 0.2")
        require(self.dual_clip > 1, "algo.dual_clip", self.dual_clip, "must exceed 1", "try 3.0")
        require(self.importance_cap >= 1, "algo.importance_cap", self.importance_cap, "must be at least 1", "try 5.0")
        for name in ("num_minibatches", "num_epochs", "max_sampling_rounds"):
            value = getattr(self, name)
            require(value >= 1, f"algo.{name}", value, "must be at least 1", "give a positive whole number")
        for name in ("reward_coef", "kl_coef", "overlong_buffer"):
            value = getattr(self, name)
            require(value >= 0, f"algo.{name}", value, "must not be negative", "use 0 to do without")
        for name in ("discount", "gae_lambda"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"algo.{name}", value, "must lie in [0, 1]", "use 1.0")
        require(self.teacher_scale > 0, "algo.teacher_scale", self.teacher_scale, "must be positive", "use 1.0 for OPD")
        require(self.value_clip > 0, "algo.value_clip", self.value_clip, "must be positive", "try 0.2")
        require(self.critic_lr > 0, "algo.critic_lr", self.critic_lr, "must be positive", "try 1e-5")


class RolloutEngine(StrEnum):
    vllm = "vllm"
    hf = "hf"


@dataclass(slots=True)
class RolloutConfig:
    """How the student samples. Training and gate responses are always drawn at temperature 1 and top-p 1: only then are
    they on-policy for the log-probabilities in the loss."""

    engine: RolloutEngine = RolloutEngine.vllm
    num_samplers: int = 1
    tensor_parallel_size: int = 1
    dtype: Dtype = Dtype.float32
    prompts_per_step: int = 256
    samples_per_prompt: int = 1
    max_response_len: int = 1024
    """Tokens, end-of-sequence included."""
    max_model_len: int | None = None
    """Tokens of prompt and response an engine must hold; None means data.max_prompt_len plus the longest response."""
    kv_cache_gib: float = 1.0
    """CPU engines: memory for the KV cache."""
    gpu_memory_utilization: float = 0.6
    max_num_seqs: int = 256
    """Sequences an engine decodes at once."""
    enforce_eager: bool = True
    num_threads: int = 2
    """CPU threads of one sampler."""
    canary_every: int = 10
    """Publishes between two canaries; the first publish always has one. 0 means only the first."""

    def __post_init__(self) -> None:
        for name in (
            "num_samplers",
            "tensor_parallel_size",
            "prompts_per_step",
            "samples_per_prompt",
            "max_response_len",
            "max_num_seqs",
            "num_threads",
        ):
            value = getattr(self, name)
            require(value >= 1, f"rollout.{name}", value, "must be at least 1", "give a positive whole number")
        require(self.kv_cache_gib > 0, "rollout.kv_cache_gib", self.kv_cache_gib, "must be positive", "try 1.0")
        require(
            0 < self.gpu_memory_utilization <= 1,
            "rollout.gpu_memory_utilization",
            self.gpu_memory_utilization,
            "must lie in (0, 1]",
            "try 0.6",
        )
        require(
            self.max_model_len is None or self.max_model_len >= 1,
            "rollout.max_model_len",
            self.max_model_len,
            "must be at least 1",
            "use null for what prompt and response need",
        )
        require(self.canary_every >= 0, "rollout.canary_every", self.canary_every, "must not be negative", "try 10")


class LRSchedule(StrEnum):
    constant = "constant"
    linear = "linear"
    cosine = "cosine"


class NonfiniteRule(StrEnum):
    """What to do when the gradient of an optimizer step is not finite, or the loss that it is of."""

    stop = "stop"
    """End the run with one error that names the responses; the last checkpoint is as it was. The default, unlike verl's and
    DeepSpeed's, who skip: in bfloat16 and float32 no gradient overflows in the ordinary course of things, as those of
    float16 under loss scaling do, so there is something to be looked at."""
    skip = "skip"
    """Leave weights and moments as they are and go on; three steps in a row at most."""
    roll_back = "roll_back"
    """Return to the last checkpoint and go on with the prompts after those that led here, once per checkpoint."""


@dataclass(slots=True)
class LearnerConfig:
    num_ranks: int = 1
    zero_stage: int = 0
    dtype: Dtype = Dtype.float32
    """Of forward and backward. Master weights, moments and anchor are always float32."""
    lr: float = 1e-6
    lr_schedule: LRSchedule = LRSchedule.constant
    warmup_steps: int = 0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    """0 turns clipping off."""
    on_nonfinite: NonfiniteRule = NonfiniteRule.stop
    max_tokens_per_microbatch: int = 16384
    """Tokens in one forward and backward of one rank, padding included. A longer response is computed by itself."""
    packing: bool = False
    """Compute samples one after another in a single row, where none sees another, instead of padding them to one length: no
    token is wasted, and attention needs no mask, but for layers with a sliding window under SDPA. For models that mix tokens
    by attention alone. The teacher pads in any case."""
    logit_chunk_tokens: int = 1024
    """Tokens whose [tokens, V] logits exist at once."""
    activation_checkpointing: bool = False
    bucket_mib: int = 512
    """Size of one publish bucket."""
    num_threads: int = 2
    """CPU threads of one rank."""

    def __post_init__(self) -> None:
        for name in ("num_ranks", "max_tokens_per_microbatch", "logit_chunk_tokens", "bucket_mib", "num_threads"):
            value = getattr(self, name)
            require(value >= 1, f"learner.{name}", value, "must be at least 1", "give a positive whole number")
        require(
            self.zero_stage in (0, 1, 2, 3),
            "learner.zero_stage",
            self.zero_stage,
            "must be 0, 1, 2 or 3",
            "choose one of them",
        )
        require(self.lr > 0, "learner.lr", self.lr, "must be positive", "the paper uses 1e-6")
        require(
            self.warmup_steps >= 0, "learner.warmup_steps", self.warmup_steps, "must not be negative", "use 0 for none"
        )
        require(0 <= self.beta1 < 1, "learner.beta1", self.beta1, "must lie in [0, 1)", "use 0.9")
        require(0 <= self.beta2 < 1, "learner.beta2", self.beta2, "must lie in [0, 1)", "use 0.999")
        require(self.eps > 0, "learner.eps", self.eps, "must be positive", "use 1e-8")
        require(self.weight_decay >= 0, "learner.weight_decay", self.weight_decay, "must not be negative", "use 0.01")
        require(
            self.max_grad_norm >= 0,
            "learner.max_grad_norm",
            self.max_grad_norm,
            "must not be negative",
            "use 1.0, or 0 for no clipping",
        )


class GateKind(StrEnum):
    none = "none"
    """No extrapolation at all: plain OPD."""
    accuracy = "accuracy"
    reverse_kl = "reverse_kl"
    """Exact, on fresh responses to the gate prompts."""
    reuse_kl = "reuse_kl"
    """Exact, on the responses that the step trained on, without sampling; the winner is confirmed as by `reverse_kl`."""
    kl_then_accuracy = "kl_then_accuracy"
    """Search by `reverse_kl`; the winner is confirmed by its accuracy on the same responses."""
    ungated = "ungated"
    """Jump without measuring anything: for baselines."""


REVERSE_KL_ALGORITHMS = frozenset({AlgorithmName.opd, AlgorithmName.opd_full})
"""The algorithms whose objective is the reverse KL to the teacher, which is all that a KL gate measures."""

KL_GATES = frozenset({GateKind.reverse_kl, GateKind.reuse_kl, GateKind.kl_then_accuracy})
"""Gates that search by the divergence from the teacher."""

ACCURACY_GATES = frozenset({GateKind.accuracy, GateKind.kl_then_accuracy})
"""Gates that ask the verifier."""


class AcceptRule(StrEnum):
    """When a candidate replaces the best so far; see `effopd/extrapolation/gate.py`."""

    strict = "strict"
    non_worse = "non_worse"
    paired = "paired"
    """When it is better with probability `min_posterior`, by the differences on each prompt."""
    sequential = "sequential"
    """By a sequential test on the prompts that it changed, which stops sampling when the evidence suffices."""


class MovedParameters(StrEnum):
    all = "all"
    released = "released"
    """Every name that contains an attention or MLP keyword, as the authors' code selects them: also
    `post_attention_layernorm` and q/k norms."""
    matrices = "matrices"
    """Two-dimensional attention and MLP weights."""


class AnchorRule(StrEnum):
    """What a displacement is measured from."""

    post_jump = "post_jump"
    """The weights that the previous trigger settled on, as the authors' code does."""
    pre_jump = "pre_jump"
    """The weights that the previous trigger found, so that the displacement contains its jump."""
    initial = "initial"
    """The weights at the start of training."""
    previous_step = "previous_step"
    """The weights before the last update, as Fast Forward has it (arXiv 2409.04206)."""


class DirectionKind(StrEnum):
    """Which way a jump goes; the formulas are in `effopd/extrapolation/direction.py`."""

    difference = "difference"
    """The displacement, current weights less anchor: the paper's."""
    ema = "ema"
    """The displacement, smoothed over triggers."""
    gram_pca = "gram_pca"
    """The first principal direction of the last updates, a denoised displacement (RELEX, arXiv 2605.21468)."""
    grouped = "grouped"
    """The displacement, rescaled in {attention, MLP} x {bottom, middle, top} by how far downhill each group goes."""
    nesterov = "nesterov"
    """Towards the next point of DiLoCo's outer optimizer (arXiv 2311.08105), where a step size of 1 lands."""


class SeedRule(StrEnum):
    independent = "independent"
    """Every candidate draws its own samples, as the paper and its code do."""
    common = "common"
    """All candidates of one trigger share sampling seeds; the next trigger has fresh ones."""


@dataclass(slots=True)
class AccelerateConfig(SearchConfig):
    """EffOPD. Presets: the files of `configs/accelerate`."""

    gate: GateKind = GateKind.none
    accept: AcceptRule = AcceptRule.strict
    moved: MovedParameters = MovedParameters.matrices
    seeds: SeedRule = SeedRule.common
    path: str | None = None
    """A file of gate prompts, of which the first `num_prompts` are taken: like data.path, with the columns of `data`. Null: they
    are drawn from the training prompts."""
    num_prompts: int = 50
    """Gate prompts, held out of training and fixed for the run."""
    samples_per_prompt: int = 1
    max_response_len: int | None = None
    """Cap on the responses to gate prompts, in tokens: a trigger waits for its longest one. What a cap cuts off counts as
    wrong to an accuracy gate and hides from a KL gate that responses grow. Null: `rollout.max_response_len`."""
    max_length_change: float = 0.2
    """KL gates: refuse a candidate whose mean response length differs from the baseline's by more than this fraction."""
    exp_avg_scale: float = 1.0
    """Factor on Adam's first moment of the moved parameters after an accepted jump: 1 keeps it, 0 zeroes it."""
    anchor: AnchorRule = AnchorRule.post_jump
    direction: DirectionKind = DirectionKind.difference
    direction_ema: float = 0.5
    """`ema`: weight of the previous trigger's direction."""
    history_size: int = 4
    """`gram_pca`: updates whose weights are kept."""
    outer_momentum: float = 0.9
    outer_lr: float = 0.7
    """`nesterov`: as published."""
    lr_max: float | None = None
    """Bound on what triggers may make of `learner.lr`; null: none."""
    max_kl_increase: float | None = None
    """Undo a jump when the training KL rises by more than this fraction in the update after it; null: never. The learner
    then keeps copies of the weights and the anchor before the jump for two updates."""

    def __post_init__(self) -> None:
        check_search(self)
        require(
            self.num_prompts >= 1, "accelerate.num_prompts", self.num_prompts, "must be at least 1", "the paper uses 50"
        )
        require(
            self.samples_per_prompt >= 1,
            "accelerate.samples_per_prompt",
            self.samples_per_prompt,
            "must be at least 1",
            "the paper uses 1",
        )
        require(
            self.max_response_len is None or self.max_response_len >= 1,
            "accelerate.max_response_len",
            self.max_response_len,
            "must be at least 1",
            "use null for rollout.max_response_len",
        )
        require(
            self.max_length_change > 0,
            "accelerate.max_length_change",
            self.max_length_change,
            "must be positive",
            "try 0.2",
        )
        require(
            0 <= self.exp_avg_scale <= 1,
            "accelerate.exp_avg_scale",
            self.exp_avg_scale,
            "must lie in [0, 1]",
            "use 1 to keep Adam's first moment",
        )
        require(
            0 < self.direction_ema < 1,
            "accelerate.direction_ema",
            self.direction_ema,
            "must lie in (0, 1)",
            "try 0.5, or direction=difference for no smoothing",
        )
        require(
            2 <= self.history_size <= 8,
            "accelerate.history_size",
            self.history_size,
            "must be 2 to 8, for each is a float32 copy of the moved parameters",
            "try 4",
        )
        require(
            0 <= self.outer_momentum < 1,
            "accelerate.outer_momentum",
            self.outer_momentum,
            "must lie in [0, 1)",
            "DiLoCo uses 0.9",
        )
        require(self.outer_lr > 0, "accelerate.outer_lr", self.outer_lr, "must be positive", "DiLoCo uses 0.7")
        for name in ("lr_max", "max_kl_increase"):
            value = getattr(self, name)
            require(value is None or value > 0, f"accelerate.{name}", value, "must be positive", "use null for none")


@dataclass(slots=True)
class DataConfig(SourceConfig):
    """Training prompts."""

    apply_chat_template: bool = False
    """Render the question as one user message with the tokenizer's chat template."""
    enable_thinking: bool = False
    """Passed to chat templates that know it (Qwen3), in training and evaluation."""
    contamination: ContaminationPolicy = ContaminationPolicy.drop
    """What becomes of training questions that equal one of an evaluation set or share a run of 13 words with one; see
    `effopd/data/contamination.py`."""
    stream_above_rows: int = 100_000
    """More training prompts than this are kept in a temporary file, not in memory; the same prompts in the same order."""
    verifier_workers: int = 2
    """Processes that call each verifier side by side, in training and evaluation."""
    verifier_seconds: float | None = None
    """Wall-clock time for one answer; one that takes longer scores 0. Null: 10, and for code what its sandbox allows itself,
    10 s a test and 60 s for all of a task's, with what starting and ending take; see `effopd/config/verifier_time.py`."""

    def __post_init__(self) -> None:
        check_source(self, "data")
        require(
            self.verifier_workers >= 1, "data.verifier_workers", self.verifier_workers, "must be at least 1", "try 2"
        )
        require(
            self.verifier_seconds is None or self.verifier_seconds > 0,
            "data.verifier_seconds",
            self.verifier_seconds,
            "must be positive",
            "use null for 10 s, and more for code",
        )
        require(
            self.stream_above_rows >= 1,
            "data.stream_above_rows",
            self.stream_above_rows,
            "must be at least 1",
            "use 100000",
        )


@dataclass(slots=True)
class EvalConfig:
    """What the policy is evaluated on: one set, at `path`, with the columns and the verifier of `data`, or the `sets`.

    The score is the mean over sets.
    """

    path: str | None = None
    """Like data.path, for a single set; null evaluates nothing but `sets`."""
    split: str = "test"
    num_rows: int | None = None
    """The first so many; also of every named set that does not say so itself."""
    sets: dict[str, EvalSetConfig] = field(default_factory=dict)
    """By name; `eval.sets.<name>.<setting>` changes one, `+eval.sets.<name>.path=<file>` adds one."""
    only: list[str] | None = None
    """The names of the sets to evaluate; null: all."""
    apply_chat_template: bool | None = None
    """Null: data.apply_chat_template."""
    every: int = 5
    """Optimizer steps between evaluations; step 0 and the last step always have one. 0 means only those two."""
    samples_per_prompt: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    max_response_len: int | None = None
    """Null: rollout.max_response_len."""
    responses: str | None = None
    """`effopd eval`: judge the responses of this file (see `effopd/data/given_responses.py`) instead of sampling any."""
    ema: int = 3
    """Evaluations in the exponential moving average that is reported as the score (weight 2 / (ema + 1))."""

    def __post_init__(self) -> None:
        require(
            self.every >= 0, "eval.every", self.every, "must not be negative", "use 0 for the first and last step only"
        )
        require(self.ema >= 1, "eval.ema", self.ema, "must be at least 1", "use 3")
        require(
            self.num_rows is None or self.num_rows >= 1,
            "eval.num_rows",
            self.num_rows,
            "must be at least 1",
            "use null for all rows",
        )
        for section, settings in {
            "eval": self,
            **{f"eval.sets.{name}": one for name, one in self.sets.items()},
        }.items():
            check_sampling(
                section,
                samples_per_prompt=settings.samples_per_prompt,
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_response_len=settings.max_response_len,
            )
        for name, one in self.sets.items():
            check_source(one, f"eval.sets.{name}")


class Runtime(StrEnum):
    local = "local"
    """Every role in this process, no Ray."""
    ray = "ray"


@dataclass(slots=True)
class ClusterConfig:
    runtime: Runtime = Runtime.ray
    device: Device = Device.auto
    address: str | None = None
    """Of a running Ray cluster; null starts one on this machine."""
    max_restarts: int = 3
    """Times that each sampler, teacher, reference or verifier may be replaced in a run, and times that a run may begin anew at
    its last checkpoint after the death of a learner rank or the controller. 0: a death ends the run."""
    hang_seconds: float = 1800.0
    """A process that has not answered for so long hangs: what all are doing is written to hangs.txt in the run folder, and it is
    killed and treated as dead. Must be longer than the longest rollout, update, start of an engine or save. 0: wait for ever."""
    machine_wait_seconds: int = 0
    """How long a run that has lost a machine waits for it, or another, to join the cluster. Then, and with 0 at once, it goes on
    with the machines that are left, if the plan fits there."""

    def __post_init__(self) -> None:
        require(
            self.max_restarts >= 0,
            "cluster.max_restarts",
            self.max_restarts,
            "must not be negative",
            "use 0 to end the run at the first death",
        )
        require(
            self.hang_seconds >= 0,
            "cluster.hang_seconds",
            self.hang_seconds,
            "must not be negative",
            "use 0 to wait for ever",
        )
        require(
            self.machine_wait_seconds >= 0,
            "cluster.machine_wait_seconds",
            self.machine_wait_seconds,
            "must not be negative",
            "use 0 to go on at once with the machines that are left",
        )


@dataclass(slots=True)
class PipelineConfig:
    """What runs beside the learner; see `effopd/pipeline.py`."""

    max_staleness: int = 0
    """Updates by which the weights that sample a batch may be older than those that it trains. 0: sampling and training take
    turns. 1: samplers, teacher and verifier are at the next batch while the learner updates, never across a trigger. More
    helps where no single phase takes half of a step."""
    num_pieces: int = 1
    """Pieces that every sampler's share of a batch is cut into, of consecutive prompts. A piece goes to teacher and verifier as
    soon as its last response is finished, while others are still sampled. 1: the whole batch goes on when all samplers are done.
    More helps where responses are long, of different lengths, and the teacher takes a good part of a step: try 16. Samples stay
    the same; what the teacher scores together changes, and with it rounding."""

    def __post_init__(self) -> None:
        require(
            self.max_staleness >= 0,
            "pipeline.max_staleness",
            self.max_staleness,
            "must not be negative",
            "use 0 to sample every batch from the weights that it trains, 1 to overlap",
        )
        require(
            1 <= self.num_pieces <= 64,  # each is a thread of the sampler's process
            "pipeline.num_pieces",
            self.num_pieces,
            "must lie between 1 and 64",
            "use 1 to score a batch when all of it is sampled, 16 to score what is finished",
        )


@dataclass(slots=True)
class CheckpointConfig:
    every: int = 10
    """Optimizer steps between checkpoints; the last step always has one. 0 means only the last."""
    keep_last: int = 2
    keep_best: bool = True
    """Also keep the checkpoint with the best evaluation score."""

    def __post_init__(self) -> None:
        require(self.every >= 0, "checkpoint.every", self.every, "must not be negative", "use 0 for the last step only")
        require(self.keep_last >= 1, "checkpoint.keep_last", self.keep_last, "must be at least 1", "use 2")


class WandbMode(StrEnum):
    disabled = "disabled"
    offline = "offline"
    online = "online"


@dataclass(slots=True)
class LoggerConfig:
    wandb: WandbMode = WandbMode.disabled
    wandb_project: str = "effopd"
    tensorboard: bool = False
    rollouts_every: int = 10
    """Steps between samples of rollouts written as parquet; 0 turns it off."""
    rollouts_per_sample: int = 32
    timeline: bool = False
    """Write `timeline.json`, what every role did when, for Perfetto (ui.perfetto.dev); `--timeline` is short for it."""

    def __post_init__(self) -> None:
        require(
            self.rollouts_every >= 0,
            "logger.rollouts_every",
            self.rollouts_every,
            "must not be negative",
            "use 0 for none",
        )
        require(
            self.rollouts_per_sample >= 1,
            "logger.rollouts_per_sample",
            self.rollouts_per_sample,
            "must be at least 1",
            "try 32",
        )


class DebugMode(StrEnum):
    none = "none"
    rollout_only = "rollout_only"
    """Sample and score, record both under `<output_dir>/recorded`, and train nothing."""
    train_only = "train_only"
    """Replay the rollouts of `debug.recorded` through the learner; no sampler and no teacher start."""


@dataclass(slots=True)
class DebugConfig:
    mode: DebugMode = DebugMode.none
    recorded: str | None = None
    """Folder that a `rollout_only` run wrote."""


@dataclass(slots=True)
class RunConfig:
    """One run, whole."""

    model: ModelConfig = field(default_factory=ModelConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    algo: AlgoConfig = field(default_factory=AlgoConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    accelerate: AccelerateConfig = field(default_factory=AccelerateConfig)
    data: DataConfig = field(default_factory=DataConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    debug: DebugConfig = field(default_factory=DebugConfig)
    num_steps: int = 100
    seed: int = 42
    name: str = "run"
    """Shown in tables and part of the default output folder; an experiment sets it to its own name."""
    output_dir: str | None = None
    """Null: `runs/<name>/<time>` under the current folder."""
    resume: str | None = None
    """Folder of a run to continue; its own config wins."""

    def __post_init__(self) -> None:
        require(self.num_steps >= 1, "num_steps", self.num_steps, "must be at least 1", "give a positive whole number")
        require(0 <= self.seed < 2**31, "seed", self.seed, "must lie in [0, 2^31)", "use 42")

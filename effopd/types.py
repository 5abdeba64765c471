"""Every type that flows between roles.

Axes: **P** prompts, **G** samples per prompt, **B** = P * G sequences, **T** positions (prompt and response,
right-padded), **R** response length (ragged), **V** vocabulary, **D** hidden size.

One alignment rule: every per-token array has the shape of `token_ids`, and entry *t* describes *the token at t* (its
log-probability given tokens < t, its advantage, its mask). Position 0 is never trained. The shift by one happens in
`algorithms/policy_output.py` and nowhere else.

Log-probabilities and KL divergences are in nats. Tensors stay on the CPU until a learner takes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from jaxtyping import Bool, Float, Int
from torch import Tensor

from effopd.pickling import packed_state, unpack_state


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class PolicyVersion:
    """Names one set of policy weights: after optimizer step `step`, candidate number `candidate` of its trigger.

    Candidate 0 is the policy itself; a rejected search publishes `(step, 0)` again.
    """

    step: int
    candidate: int = 0

    def __str__(self) -> str:
        return f"{self.step}.{self.candidate}"


class FinishReason(StrEnum):
    STOP = "stop"
    """The response ended with an end-of-sequence token, which is its last token."""
    LENGTH = "length"
    """The response was cut at the length limit."""


class TeacherPayload(StrEnum):
    """What an algorithm or a gate needs from the teacher, per response token."""

    SAMPLED = "sampled"
    """[R] log-probability of the sampled token."""
    HIDDEN_STATES = "hidden_states"
    """[R, D] the teacher's last hidden state, from which its full distribution follows with the teacher's head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgorithmNeeds:
    """What must be attached to rollouts before an algorithm can train on them."""

    teacher: TeacherPayload | None = None
    rewards: bool = False
    """The verifier's score of every response."""
    reference: bool = False
    """Log-probabilities under the student as it was before training."""
    critic: bool = False
    """A value at every position, and `Algorithm.value_loss` to train the critic with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One question, ready for a sampler.

    Example: `Prompt(prompt_id="toy_sums-17", token_ids=(14, 15, 3), text="12+", answer="46", source="sums")`.
    """

    prompt_id: str
    """Unique within a data set and stable across runs."""
    token_ids: tuple[int, ...]
    """[prompt_len] after the chat template, if any."""
    text: str
    """The prompt as the model sees it, before tokenization."""
    answer: str
    """What the verifier compares a response with; empty where there is none."""
    source: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)
    """Further columns that a verifier or a teacher router may want; `prompt` is always there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """What to sample. The same request on the same weights gives the same tokens."""

    prompts: tuple[Prompt, ...]
    num_samples: int
    max_response_len: int
    """Tokens, end-of-sequence included."""
    temperature: float
    """0 means greedy."""
    top_p: float
    seed: int
    """Every (prompt, sample) derives its own seed from this one; see `effopd.seeds.sample_seed`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One sampled response."""

    prompt_id: str
    sample_index: int
    prompt_token_ids: tuple[int, ...]
    response_token_ids: Int[Tensor, " R"]
    """int64, at least one token."""
    rollout_logprobs: Float[Tensor, " R"]
    """float32; log-probability of each sampled token under the policy itself, as the sampler reports it: temperature 1,
    nothing cut off, whatever it was sampled with."""
    text: str
    """The response, special tokens removed."""
    finish_reason: FinishReason
    seed: int
    policy_version: PolicyVersion

    __getstate__ = packed_state
    __setstate__ = unpack_state

    @property
    def response_len(self) -> int:
        return self.response_token_ids.numel()

    @property
    def num_tokens(self) -> int:
        """Prompt and response."""
        return len(self.prompt_token_ids) + self.response_len


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherScores:
    """Exactly one payload, as `TeacherPayload` names them."""

    sampled: Float[Tensor, " R"] | None = None
    hidden_states: Float[Tensor, "R D"] | None = None

    __getstate__ = packed_state
    __setstate__ = unpack_state


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRollout:
    """A rollout with what its teacher and its verifier say of it."""

    rollout: Rollout
    teacher: TeacherScores | None = None
    reward: float | None = None
    reference_logprobs: Float[Tensor, " R"] | None = None
    """Log-probability of every response token under the reference policy, nats."""

    __getstate__ = packed_state
    __setstate__ = unpack_state


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSummary:
    """The little that the driver learns of one response."""

    prompt_id: str
    sample_index: int
    prompt_len: int
    response_len: int
    is_truncated: bool
    sampled_entropy: float | None = None
    """Sum over response tokens of -rollout_logprobs, nats: an unbiased estimate of the entropy of this response's
    distribution."""
    sampled_reverse_kl: float | None = None
    """Sum over response tokens of rollout_logprobs - teacher_logprobs, nats: an unbiased estimate of the reverse KL of
    this response's distribution. None until a teacher gave the sampled payload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutHandle:
    """Responses that stay where they are: `parts[rank]` are opaque references to what learner rank `rank` will train on.

    A part resolves to a `list[Rollout]`. All samples of a prompt are in one part. In the local runtime there is one rank
    and the references are the lists themselves.
    """

    parts: tuple[tuple[object, ...], ...]
    summaries: tuple[RolloutSummary, ...]
    """[B] one per response, in the order of the parts."""
    policy_version: PolicyVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredHandle:
    """Like `RolloutHandle`; a part resolves to a `list[ScoredRollout]`, or a `list[Rollout]` where nobody has scored it."""

    parts: tuple[tuple[object, ...], ...]
    summaries: tuple[RolloutSummary, ...]
    policy_version: PolicyVersion
    rewards: Mapping[tuple[str, int], float] | None = None
    """(prompt_id, sample_index) to the verifier's score. A response without one is not trained on: so are groups left
    out that have nothing to teach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The batches of one update."""

    rollouts: RolloutHandle
    """Of the first batch, for people to read."""
    batches: tuple[ScoredHandle, ...]
    """One, unless dynamic sampling asked for more."""
    num_prompt_batches: int
    """Taken from the stream."""
    num_generated_tokens: int
    """Those of responses that are not trained on included."""
    num_rewards: int
    """Responses that the verifier was asked about, likewise."""
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredBatch:
    """Rollouts of one rank, padded into rectangles. Made by `data.collate`, read by `algorithm.prepare`."""

    token_ids: Int[Tensor, "B T"]
    attention_mask: Bool[Tensor, "B T"]
    response_mask: Bool[Tensor, "B T"]
    """True on response tokens, which are the ones trained on."""
    rollout_logprobs: Float[Tensor, "B T"]
    """0 outside the response."""
    group_index: Int[Tensor, " B"]
    """Samples of one prompt share a number."""
    teacher_logprobs: Float[Tensor, "B T"] | None = None
    teacher_hidden_states: Float[Tensor, "B T D"] | None = None
    rewards: Float[Tensor, " B"] | None = None
    old_logprobs: Float[Tensor, "B T"] | None = None
    """The policy's before this update; None when one optimizer step is taken per rollout batch, for then
    `logprobs.detach()` is the same numbers without a second forward."""
    reference_logprobs: Float[Tensor, "B T"] | None = None
    values: Float[Tensor, "B T"] | None = None
    """The critic's estimate, before this update, of the return that follows the prefix of each response token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainBatch:
    """What a loss reads. Rows of it are the micro-batches, padded or packed; packed, B is 1 and T the tokens of all samples."""

    token_ids: Int[Tensor, "B T"]
    attention_mask: Bool[Tensor, "B T"]
    response_mask: Bool[Tensor, "B T"]
    rollout_logprobs: Float[Tensor, "B T"]
    teacher_logprobs: Float[Tensor, "B T"] | None = None
    teacher_hidden_states: Float[Tensor, "B T D"] | None = None
    old_logprobs: Float[Tensor, "B T"] | None = None
    reference_logprobs: Float[Tensor, "B T"] | None = None
    advantages: Float[Tensor, "B T"] | None = None
    """0 outside the response."""
    old_values: Float[Tensor, "B T"] | None = None
    returns: Float[Tensor, "B T"] | None = None
    """What the critic should have said."""
    packed_lengths: tuple[int, ...] | None = None
    """Of the samples that lie one after another in the one row; None where every row is a sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTotals:
    """The sizes of one optimizer step over all ranks and micro-batches: denominators of its means."""

    num_tokens: int
    """Response tokens."""
    num_sequences: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LossOutput:
    """A loss for one micro-batch."""

    loss: Float[Tensor, ""]
    """float32; a sum over the micro-batch divided by one of the *given global* totals."""
    metrics: Mapping[str, Tensor]
    """Scalars, each likewise a sum divided by a global total, so that adding over micro-batches and ranks gives means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateReport:
    """What one update did: the metrics are means over its optimizer steps. The same on every rank."""

    num_response_tokens: int
    metrics: Mapping[str, float]
    skipped: tuple[str, ...] = ()
    """Of every optimizer step that was left out because its gradient was not finite, why and for which responses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSlot:
    """Where one tensor lies in a weight segment."""

    name: str
    dtype: str
    """A torch dtype without its prefix, e.g. `bfloat16`."""
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the segment; a multiple of 64."""
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """Weights ready for samplers to load: a shared-memory segment and what lies where in it.

    The segment is overwritten by the next publish, which must not begin before every sampler has loaded this one.
    """

    version: PolicyVersion
    segment: str
    """Path of the memory-mapped file."""
    buckets: tuple[tuple[TensorSlot, ...], ...]
    """Slots in the order they are loaded, one engine call per bucket."""
    checksum: str
    """Hash of the bytes of all slots in order; see `effopd.weights.segment_checksum`."""


class ShardKind(StrEnum):
    """The float32 tensors that a learner keeps per parameter."""

    MASTER = "master"
    EXP_AVG = "exp_avg"
    """Adam's first moment."""
    EXP_AVG_SQ = "exp_avg_sq"
    """Adam's second moment."""
    CRITIC_MASTER = "critic_master"
    """The critic's own, where an algorithm has one; likewise the next two."""
    CRITIC_EXP_AVG = "critic_exp_avg"
    CRITIC_EXP_AVG_SQ = "critic_exp_avg_sq"
    ANCHOR = "anchor"
    """Moved parameters only: the weights that the next displacement is measured from."""
    PREVIOUS_DISPLACEMENT = "previous_displacement"
    """Moved parameters only, and only after the first trigger: its direction, which by default is its displacement."""
    PRE_JUMP_MASTER = "pre_jump_master"
    """All parameters: the weights that a roll-back returns to, while there may be one."""
    PRE_JUMP_ANCHOR = "pre_jump_anchor"
    """Moved parameters only: the anchor that it returns to."""
    OUTER_VELOCITY = "outer_velocity"
    """Moved parameters only: of Nesterov's momentum over triggers."""
    PATH_1 = "path_1"
    """Moved parameters only: the weights before the first of the last updates that are kept; likewise the others."""
    PATH_2 = "path_2"
    PATH_3 = "path_3"
    PATH_4 = "path_4"
    PATH_5 = "path_5"
    PATH_6 = "path_6"
    PATH_7 = "path_7"
    PATH_8 = "path_8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """The part of one parameter that one rank owns: `start : start + num_elements` of the flattened tensor.

    Over all ranks the fragments of a parameter tile it exactly once, without padding.
    """

    name: str
    shape: tuple[int, ...]
    """Of the whole parameter."""
    start: int
    num_elements: int
    is_moved: bool
    """Whether extrapolation moves this parameter, so that it has an anchor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Displacement:
    """Statistics of Δ = current − anchor, and of the direction that is made of it, over the moved parameters of all ranks."""

    norm: float
    """Frobenius norm ‖Δ‖."""
    relative_norm: float
    """‖Δ‖ / ‖current‖."""
    cosine_to_previous: float | None
    """cos(Δ, direction of the previous trigger); None at the first trigger and after a roll-back."""
    slope: float
    """Directional derivative of the training loss along the direction at the current weights, nats per unit of step
    size; negative is downhill. The gradient is estimated by Adam's first moment as it stands, which after t steps is
    biased towards zero by the factor 1 - beta1^t."""
    direction_norm: float
    """Frobenius norm of the direction."""
    num_updates: int
    """Steps of training from the anchor to the current weights: a step size of 1 leads as far as they did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """How a trigger ends, in the learner."""

    step_size: float
    """Multiples of the direction added to the current weights; 0 restores their exact bits."""
    exp_avg_scale: float = 1.0
    """Factor on Adam's first moment of the moved parameters."""
    lr_factor: float = 1.0
    """Factor on the policy's learning rate from now on; `accelerate.lr_max` bounds the product."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KLSum:
    """Exact reverse KL(student || teacher) over one response, nats."""

    prompt_id: str
    sample_index: int
    reverse_kl_sum: float
    """Sum over response tokens."""
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GateScore:
    """What the gate measured of one set of weights. Higher `value` is better."""

    value: float
    """Mean accuracy, or minus the mean reverse KL per response token."""
    per_prompt: Mapping[str, float]
    """prompt_id to its own value, for paired comparisons."""
    accuracy: float | None
    reverse_kl_per_token: float | None
    """Exact under the KL gate; under the accuracy gate the sampled tokens' estimate."""
    reverse_kl_per_sequence: float | None
    mean_response_len: float
    num_generated_tokens: int
    entropy_per_token: float | None = None
    """Sampled: mean of -rollout_logprobs, nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRecord:
    """One candidate that was tried."""

    step_size: float
    """Multiples of Δ added to the current weights; 0 is the current weights."""
    score: GateScore
    is_accepted: bool
    reason: str
    """Why it was accepted or refused, in words."""


class TriggerKind(StrEnum):
    """What happened, in a row of `extrapolation.jsonl`."""

    SEARCH = "search"
    """Candidates were tried; `accepted_step_size` says with what result."""
    UNGATED = "ungated"
    """A jump that nothing judged."""
    LOOK = "look"
    """The direction was measured and nothing tried: an adaptive schedule that rests."""
    ROLL_BACK = "roll_back"
    """The jump of an earlier step was taken back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBack:
    """Why a jump was taken back."""

    jump_step: int
    reverse_kl_before: float
    """Mean per response token of training, nats, as the update just before the jump measured it."""
    reverse_kl_after: float
    """Likewise the update just after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPoint:
    """One set of weights on the audit prompts."""

    step_size: float
    accuracy: float | None
    """None where there is no verifier."""
    reverse_kl_per_token: float
    """Exact, nats."""
    accuracy_change: float | None
    """Against the current weights (step size 0), mean over prompts."""
    accuracy_change_error: float | None
    """Standard error of that mean, from the differences on each prompt."""
    reverse_kl_change: float
    """Likewise of the mean over prompts of each prompt's mean per token; negative is better."""
    reverse_kl_change_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """How good a trigger's decision was, on prompts that had no part in it."""

    points: tuple[AuditPoint, ...]
    """By step size: the grid, the current weights and those settled on."""
    settled_step_size: float
    oracle_step_size: float
    """Of the point with the lowest reverse KL per token."""
    regret: float
    """Reverse KL per token settled on, minus the oracle's; nats, not negative."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerRecord:
    """One trigger, as it is written to `extrapolation.jsonl`."""

    step: int
    kind: TriggerKind = TriggerKind.SEARCH
    displacement: Displacement | None
    """None where a jump was taken back."""
    candidates: tuple[CandidateRecord, ...]
    """In the order tried; the first is the baseline (`step_size` 0). Empty unless there was a search."""
    confirmation: tuple[CandidateRecord, ...] = ()
    """The baseline and the winner as a second measurement judged them; empty where the search alone decides."""
    accepted_step_size: float
    """0 when the jump was refused."""
    num_generated_tokens: int
    num_rescored_tokens: int = 0
    """Training tokens that the teacher has scored once more, for the search."""
    seconds: float
    """Without the audit's."""
    audit: Audit | None = None
    roll_back: RollBack | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalReport:
    """Scores on the evaluation set at one step."""

    step: int
    score: float
    """Mean verifier score over prompts and samples, in [0, 1]; with several sets, the mean over sets of that."""
    standard_error: float
    mean_response_len: float
    truncation_rate: float
    num_generated_tokens: int
    per_prompt: Mapping[str, float]
    per_set: Mapping[str, float] = field(default_factory=dict)
    """The score of every evaluation set by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Where a run stands. Seeds derive from (run seed, purpose, step), so there is no generator state to keep."""

    step: int = 0
    data_position: int = 0
    """Batches of prompts taken from the stream so far."""
    num_generated_tokens: int = 0
    """Training and gate tokens together."""
    num_gate_tokens: int = 0
    seconds: float = 0.0
    """Training time so far: everything except start-up, evaluation, audits and saving."""
    num_rejects: int = 0
    """Searches refused, and jumps taken back, since the last accepted jump."""
    rejected_steepness: float | None = None
    """How fast the loss fell along the direction when a search was last refused, nats per unit of length."""
    last_jump_step: int | None = None
    reverse_kl_before_jump: float | None = None
    """Of training, as the update just before the last jump measured it; None where the objective has none."""
    num_roll_backs: int = 0

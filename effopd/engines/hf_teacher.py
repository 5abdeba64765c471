"""A teacher on plain transformers: one forward over given tokens, the vocabulary axis in chunks."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from effopd.algorithms.logprobs import gather_logprobs
from effopd.algorithms.policy_output import PolicyOutput
from effopd.config.schema import TeacherConfig
from effopd.data.collate import collate
from effopd.engines.microbatches import plan_micro_batches
from effopd.engines.policy_module import PolicyModule, load_causal_lm, output_head
from effopd.errors import ConfigError
from effopd.types import Rollout, ScoredRollout, TeacherPayload, TeacherScores

SELF_CHECK_TOKENS = 32
SELF_CHECK_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-6}
"""Nats between the chunked and the plain path of the same model, per unit of its largest logit: a few roundings."""


class HFTeacher:
    """Scores responses with a frozen model. The [tokens, V] float32 logits never exist for more than
    `teacher.logit_chunk_tokens` tokens at once."""

    def __init__(
        self, config: TeacherConfig, model_path: str, *, attn_implementation: str, device: torch.device
    ) -> None:
        self._config = config
        self._device = device
        model = load_causal_lm(model_path, getattr(torch, config.dtype.value), attn_implementation)
        module = PolicyModule(model, chunk_tokens=config.logit_chunk_tokens)
        self._module = module.requires_grad_(False).to(device)
        self._model = model

    @torch.no_grad()
    def score(self, rollouts: Sequence[Rollout], payload: TeacherPayload) -> list[ScoredRollout]:
        """Return `rollouts` with the payload attached, in order; payload tensors lie on the CPU."""
        scored: list[ScoredRollout | None] = [None] * len(rollouts)
        lengths = [rollout.num_tokens for rollout in rollouts]
        for batch in plan_micro_batches(lengths, self._config.max_tokens_per_batch):
            chosen = [rollouts[index] for index in batch.rows]
            for index, rollout, values in zip(batch.rows, chosen, self._score_batch(chosen, payload), strict=True):
                match payload:
                    case TeacherPayload.SAMPLED:
                        teacher = TeacherScores(sampled=values)
                    case TeacherPayload.HIDDEN_STATES:
                        teacher = TeacherScores(hidden_states=values)
                scored[index] = ScoredRollout(rollout=rollout, teacher=teacher)
        return [item for item in scored if item is not None]

    def score_reference(self, rollouts: Sequence[ScoredRollout]) -> list[ScoredRollout]:
        """Return `rollouts` with this model's log-probabilities as those of the reference."""
        scored = self.score([item.rollout for item in rollouts], TeacherPayload.SAMPLED)
        sampled = [item.teacher and item.teacher.sampled for item in scored]
        return [replace(item, reference_logprobs=logprobs) for item, logprobs in zip(rollouts, sampled, strict=True)]

    def head(self) -> Tensor:
        """Return the [V, D] matrix that turns this teacher's hidden states into logits, on the CPU."""
        return output_head(self._model).weight.detach().to("cpu").clone()

    @torch.no_grad()
    def check_itself(self) -> None:
        """Raise ConfigError unless the chunked path and the model's own logits agree: KL(teacher || teacher) = 0."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(output_head(self._model).out_features, (1, SELF_CHECK_TOKENS), generator=generator)
        logits = self._model(input_ids=ids.to(self._device)).logits[0, :-1].cpu()
        expected = gather_logprobs(logits.float(), ids[0, 1:])
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[:, 0] = False
        measured = self._module(
            ids.to(self._device), torch.ones_like(ids).bool().to(self._device), mask.to(self._device), _logprobs
        )[0, 1:].cpu()
        difference = (measured - expected).abs().max().item()
        tolerance = SELF_CHECK_TOLERANCE[logits.dtype] * max(1.0, logits.abs().max().item())
        if not difference <= tolerance:
            raise ConfigError(
                f"teacher.path={self._config.path}: the teacher disagrees with itself by {difference:.2g} nats; its logits "
                "are not lm_head(last hidden state), or its forward is not deterministic; choose another teacher or attn_implementation"
            )

    def _score_batch(self, rollouts: Sequence[Rollout], payload: TeacherPayload) -> tuple[Tensor, ...]:
        batch = collate([ScoredRollout(rollout=rollout) for rollout in rollouts], pad_token_id=0)

        def compute(output: PolicyOutput) -> Tensor:
            match payload:
                case TeacherPayload.SAMPLED:
                    return output.logprobs[batch.response_mask.to(self._device)]
                case TeacherPayload.HIDDEN_STATES:
                    return output.predicting_hidden_states

        values = self._module(
            batch.token_ids.to(self._device),
            batch.attention_mask.to(self._device),
            batch.response_mask.to(self._device),
            compute,
        )
        pieces = values.cpu().split([rollout.response_len for rollout in rollouts])
        # Copies: a view would take the whole batch along when it is sent to another process.
        return tuple(piece.clone() for piece in pieces)


def _logprobs(output: PolicyOutput) -> Tensor:
    return output.logprobs

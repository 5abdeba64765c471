"""Policy and critic in plain PyTorch: one process, whole batches, no micro-batches, no engine.

What it shares with the learner are the formulas of the algorithm, which have oracles of their own, and the collation. How
an update is divided into steps, what is measured before the first of them, whitening, clipping and Adam are written anew.
"""

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from effopd.algorithms.build import TrainsCritic, build_algorithm
from effopd.algorithms.policy_output import PolicyOutput
from effopd.config.schema import AlgoConfig, LearnerConfig
from effopd.data.collate import collate
from effopd.types import ScoredBatch, ScoredRollout, StepTotals, TrainBatch


class PlainLearner:
    def __init__(self, model: str, config: LearnerConfig, algo: AlgoConfig, max_response_len: int) -> None:
        self.config, self.algo = config, algo
        self.algorithm = build_algorithm(algo, max_response_len)
        self.policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.optimizers = {"": self._adam(self.policy, config.lr)}
        if self.algorithm.needs.critic:
            self.decoder = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval().get_decoder()
            self.value_head = nn.Linear(self.policy.lm_head.in_features, 1)
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
            critic = nn.ModuleDict({"decoder": self.decoder, "value_head": self.value_head})
            self.optimizers["critic_"] = self._adam(critic, algo.critic_lr)

    def update(self, rollouts: Sequence[ScoredRollout], minibatches: Sequence[Sequence[int]]) -> list[float]:
        """Take the steps of one update; `minibatches` are their rows. Return the policy's gradient norms."""
        scored = collate(rollouts, pad_token_id=0)
        with torch.no_grad():
            if len(minibatches) * self.algo.num_epochs > 1:
                scored = replace(scored, old_logprobs=self._output(scored).logprobs)
            if self.algorithm.needs.critic:
                scored = replace(scored, values=self._values(scored))
        batch = self.algorithm.prepare(scored)
        if self.algorithm.needs.critic:
            assert batch.advantages is not None
            own = batch.advantages[batch.response_mask]
            whitened = (batch.advantages - own.mean()) / own.std(correction=0)
            batch = replace(batch, advantages=whitened.where(batch.response_mask, torch.tensor(0.0)))
        norms = []
        for _ in range(self.algo.num_epochs):
            for rows in minibatches:
                norms.append(self._step(_rows(batch, rows)))
        return norms

    def _step(self, batch: TrainBatch) -> float:
        totals = StepTotals(num_tokens=int(batch.response_mask.sum()), num_sequences=len(batch.token_ids))
        losses = {"": self.algorithm.loss(batch, self._output(batch), None, totals).loss}
        if self.algorithm.needs.critic:
            assert isinstance(self.algorithm, TrainsCritic)
            losses["critic_"] = self.algorithm.value_loss(batch, self._values(batch), totals).loss
        norms = {}
        for prefix, (parameters, optimizer) in self.optimizers.items():
            optimizer.zero_grad()
            losses[prefix].backward()
            norms[prefix] = float(nn.utils.clip_grad_norm_(parameters.values(), self.config.max_grad_norm))
            optimizer.step()
        return norms[""]

    def state(self) -> dict[str, dict[str, numpy.ndarray]]:
        """Masters and moments by kind and name, flat, the critic's under `critic_`."""
        return {
            prefix + kind: {name: tensor_of(kind, parameter, optimizer) for name, parameter in parameters.items()}
            for prefix, (parameters, optimizer) in self.optimizers.items()
            for kind in ("master", "exp_avg", "exp_avg_sq")
        }

    def _adam(self, module: nn.Module, lr: float) -> tuple[dict[str, nn.Parameter], torch.optim.AdamW]:
        parameters = dict(module.named_parameters())
        betas = (self.config.beta1, self.config.beta2)
        optimizer = torch.optim.AdamW(
            parameters.values(), lr=lr, betas=betas, eps=self.config.eps, weight_decay=self.config.weight_decay
        )
        return parameters, optimizer

    def _output(self, batch: ScoredBatch | TrainBatch) -> PolicyOutput:
        decoder = self.policy.get_decoder()
        hidden = decoder(input_ids=batch.token_ids, attention_mask=batch.attention_mask).last_hidden_state
        return PolicyOutput(hidden, self.policy.lm_head, batch.token_ids, batch.response_mask, 10_000)

    def _values(self, batch: ScoredBatch | TrainBatch) -> Tensor:
        hidden = self.decoder(input_ids=batch.token_ids, attention_mask=batch.attention_mask).last_hidden_state
        values = self.value_head(hidden)[..., 0]
        # What the token before it leads to is known before a token is written.
        return torch.cat([torch.zeros_like(values[:, :1]), values[:, :-1]], dim=1)


def tensor_of(kind: str, parameter: nn.Parameter, optimizer: torch.optim.AdamW) -> numpy.ndarray:
    tensor = parameter if kind == "master" else optimizer.state[parameter][kind]
    return tensor.detach().flatten().numpy().copy()


def _rows(batch: TrainBatch, rows: Sequence[int]) -> TrainBatch:
    present = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return replace(batch, **{name: tensor[list(rows)] for name, tensor in present.items() if tensor is not None})

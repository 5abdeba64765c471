"""From settings to an algorithm. The table is written out; there is no registry."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from effopd.algorithms.dapo import DAPO
from effopd.algorithms.grpo import GRPO
from effopd.algorithms.opd import OPD
from effopd.algorithms.opd_full import FullVocabularyOPD
from effopd.algorithms.policy_output import Head, PolicyOutput
from effopd.algorithms.ppo import PPO
from effopd.algorithms.surrogate import Clipping
from effopd.config.schema import AlgoConfig, AlgorithmName, KLPlacement
from effopd.types import AlgorithmNeeds, LossOutput, ScoredBatch, StepTotals, TrainBatch


class Algorithm(Protocol):
    """What a learner asks of an algorithm: pure functions of batches, no state and no I/O."""

    @property
    def needs(self) -> AlgorithmNeeds: ...

    def prepare(self, batch: ScoredBatch) -> TrainBatch: ...

    def loss(
        self, batch: TrainBatch, output: PolicyOutput, teacher_head: Head | None, totals: StepTotals
    ) -> LossOutput: ...


@runtime_checkable
class TrainsCritic(Protocol):
    """What an algorithm with `needs.critic` has besides."""

    def value_loss(self, batch: TrainBatch, values: Tensor, totals: StepTotals) -> LossOutput: ...


def build_algorithm(config: AlgoConfig, max_response_len: int) -> Algorithm:
    clipping = Clipping(low=config.clip_low, high=config.clip_high, dual=config.dual_clip)
    match config.name:
        case AlgorithmName.opd:
            return OPD(clipping, config.importance_cap, config.reward_coef, config.teacher_scale)
        case AlgorithmName.opd_full:
            return FullVocabularyOPD()
        case AlgorithmName.grpo:
            return GRPO(clipping, config.importance_cap, config.kl_coef)
        case AlgorithmName.dapo:
            return DAPO(clipping, config.importance_cap, max_response_len, config.overlong_buffer)
        case AlgorithmName.ppo:
            return PPO(
                clipping,
                config.importance_cap,
                config.kl_coef,
                is_kl_in_reward=config.kl_in is KLPlacement.reward,
                discount=config.discount,
                gae_lambda=config.gae_lambda,
                value_clip=config.value_clip,
            )

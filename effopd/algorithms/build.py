"""From settings to an algorithm. The table is written out; there is no registry."""

from typing import Protocol

from effopd.algorithms.opd import OPD
from effopd.algorithms.opd_full import FullVocabularyOPD
from effopd.algorithms.policy_output import Head, PolicyOutput
from effopd.config.schema import AlgoConfig, AlgorithmName
from effopd.types import LossOutput, ScoredBatch, TeacherPayload, TrainBatch


class Algorithm(Protocol):
    """What a learner asks of an algorithm: pure functions of batches, no state and no I/O."""

    @property
    def teacher_payload(self) -> TeacherPayload: ...

    def prepare(self, batch: ScoredBatch) -> TrainBatch: ...

    def loss(
        self, batch: TrainBatch, output: PolicyOutput, teacher_head: Head | None, num_tokens: int
    ) -> LossOutput: ...


def build_algorithm(config: AlgoConfig) -> Algorithm:
    match config.name:
        case AlgorithmName.opd:
            return OPD(config.clip_low, config.clip_high, config.dual_clip, config.importance_cap)
        case AlgorithmName.opd_full:
            return FullVocabularyOPD()

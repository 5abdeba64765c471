"""Who plays in a run: actor handles, which can travel to another actor, and the role groups made of them."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from ray.actor import ActorHandle

from effopd.actors.learner import RayLearner
from effopd.actors.sampler import RaySampler
from effopd.actors.supervision import Member
from effopd.actors.teacher import RayTeacher
from effopd.actors.verifier import RayVerifier
from effopd.actors.weight_routes import WeightRoutes
from effopd.production import Phase
from effopd.types import Publication


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorCast:
    """The actors of one run: members can be replaced, learner ranks cannot. Groups charge their time to the `phase` of
    whoever makes them."""

    samplers: tuple[Member, ...]
    routes: WeightRoutes
    """Of weights, to the samplers."""
    teachers: tuple[Member, ...]
    references: tuple[Member, ...]
    learners: tuple[ActorHandle, ...]
    verifier: Member | None
    num_pieces: int
    """`pipeline.num_pieces`."""

    def sampler(self, phase: Phase) -> RaySampler:
        learner = self.learner(phase)

        def staged() -> AbstractContextManager[Publication | None]:
            return nullcontext(learner.staged())

        return RaySampler(self.samplers, self.routes, len(self.learners), phase, staged, self.num_pieces)

    def teacher(self, phase: Phase) -> RayTeacher | None:
        return RayTeacher(self.teachers, phase) if self.teachers else None

    def reference(self, phase: Phase) -> RayTeacher | None:
        return RayTeacher(self.references, phase) if self.references else None

    def learner(self, phase: Phase) -> RayLearner:
        return RayLearner(self.learners, phase)

    def verifier_role(self) -> RayVerifier | None:
        return None if self.verifier is None else RayVerifier(self.verifier)

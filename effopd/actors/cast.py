"""Who plays in a run: bare actor handles, which can travel to another actor, and the role groups made of them."""

from dataclasses import dataclass

from ray.actor import ActorHandle

from effopd.actors.learner import RayLearner
from effopd.actors.sampler import RaySampler
from effopd.actors.teacher import RayTeacher
from effopd.actors.verifier import RayVerifier
from effopd.actors.weight_routes import WeightRoutes
from effopd.production import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorCast:
    """The actors of one run. Groups charge their time to the `phase` of whoever makes them."""

    samplers: tuple[ActorHandle, ...]
    routes: WeightRoutes
    """Of weights, to the samplers."""
    teachers: tuple[ActorHandle, ...]
    references: tuple[ActorHandle, ...]
    learners: tuple[ActorHandle, ...]
    verifier: ActorHandle | None

    def sampler(self, phase: Phase) -> RaySampler:
        return RaySampler(self.samplers, self.routes, len(self.learners), phase)

    def teacher(self, phase: Phase) -> RayTeacher | None:
        return RayTeacher(self.teachers, phase) if self.teachers else None

    def reference(self, phase: Phase) -> RayTeacher | None:
        return RayTeacher(self.references, phase) if self.references else None

    def learner(self, phase: Phase) -> RayLearner:
        return RayLearner(self.learners, phase)

    def verifier_role(self) -> RayVerifier | None:
        return None if self.verifier is None else RayVerifier(self.verifier)

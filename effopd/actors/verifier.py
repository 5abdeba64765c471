"""The verifier actor: keeps the user's reward code, and the workers that run it, out of every other process."""

from collections.abc import Mapping, Sequence

import ray
from ray.actor import ActorHandle

from effopd.actors.calls import wait_for
from effopd.rewards.pool import VerifierPool, items_of
from effopd.types import Prompt, Rollout, RolloutHandle

ROLE = "the verifier"


@ray.remote
class VerifierActor:
    """One process with a pool of verifier workers, which end when it does."""

    def __init__(self, name: str, num_workers: int, seconds_per_answer: float) -> None:
        self._pool = VerifierPool(name, num_workers, seconds_per_answer)

    def ready(self) -> None:
        """Start the workers."""
        self._pool.start()

    def rewards(self, prompts: Mapping[str, Prompt], *parts: Sequence[Rollout]) -> list[float]:
        """Return the scores of all parts, one part after the other."""
        return self._pool.scores(items_of([rollout for part in parts for rollout in part], prompts))


class RayVerifier:
    """The verifier actor as a role."""

    def __init__(self, actor: ActorHandle) -> None:
        self._actor = actor

    def rewards(self, rollouts: RolloutHandle, prompts: Sequence[Prompt]) -> list[float]:
        by_id = {prompt.prompt_id: prompt for prompt in prompts}
        references = [reference for part in rollouts.parts for reference in part]
        (scores,) = wait_for([self._actor.rewards.remote(by_id, *references)], ROLE)
        return scores

"""The verifier actor: keeps the user's reward code out of every other process."""

from collections.abc import Mapping, Sequence

import ray
from ray.actor import ActorHandle

from effopd.actors.calls import wait_for
from effopd.rewards.verifier import load_verifier, verify_rollouts
from effopd.types import Prompt, Rollout, RolloutHandle

ROLE = "the verifier"


@ray.remote
class VerifierActor:
    """One process with the verifier function in it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def ready(self) -> None:
        """Import the function."""
        self._function = load_verifier(self._name)

    def rewards(self, rollouts: Sequence[Rollout], prompts: Mapping[str, Prompt]) -> list[float]:
        return verify_rollouts(self._function, rollouts, prompts)


class RayVerifier:
    """The verifier actor as a role."""

    def __init__(self, actor: ActorHandle) -> None:
        self._actor = actor

    def rewards(self, rollouts: RolloutHandle, prompts: Sequence[Prompt]) -> list[float]:
        by_id = ray.put({prompt.prompt_id: prompt for prompt in prompts})
        references = [reference for part in rollouts.parts for reference in part]
        scores = wait_for([self._actor.rewards.remote(reference, by_id) for reference in references], ROLE)
        return [score for part in scores for score in part]

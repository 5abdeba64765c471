"""The verifier actor: keeps the user's reward code, and the workers that run it, out of every other process.

One that dies is replaced.
"""

from collections.abc import Callable, Mapping, Sequence

import ray

from effopd.actors.run_actor import RunActor
from effopd.actors.supervision import Member, Request, all_answers, ask, make_ready
from effopd.errors import NotReadyError
from effopd.rewards.pool import VerifierPool, items_of
from effopd.types import Prompt, Rollout, RolloutHandle


@ray.remote
class VerifierActor(RunActor):
    """One process with a pool of verifier workers, which end when it does."""

    def __init__(self, name: str, num_workers: int, seconds_per_answer: float) -> None:
        super().__init__()
        self._pool = VerifierPool(name, num_workers, seconds_per_answer)
        self._is_ready = False

    def ready(self) -> None:
        """Start the workers."""
        if not self._is_ready:
            self._pool.start()
            self._is_ready = True

    def rewards(self, prompts: Mapping[str, Prompt], *parts: Sequence[Rollout]) -> list[float]:
        """Return the scores of all parts, one part after the other."""
        if not self._is_ready:
            raise NotReadyError("ready() comes first")
        with self._lane.span("verify"):
            return self._pool.scores(items_of([rollout for part in parts for rollout in part], prompts))


class RayVerifier:
    """The verifier actor as a role."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def rewards(self, rollouts: RolloutHandle, prompts: Sequence[Prompt]) -> list[float]:
        return self.begin_rewards(rollouts, prompts)()

    def begin_rewards(self, rollouts: RolloutHandle, prompts: Sequence[Prompt]) -> Callable[[], list[float]]:
        by_id = {prompt.prompt_id: prompt for prompt in prompts}
        references = [reference for part in rollouts.parts for reference in part]

        asked = ask([Request(self._member, lambda actor: [actor.rewards.remote(by_id, *references)])])

        def scores() -> list[float]:
            (answer,), _ = all_answers(asked, "verifying", make_ready)
            return answer

        return scores

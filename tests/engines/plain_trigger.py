"""A trigger on one vector in float64: the rules of `engines.trigger` and `engines.directions`, written anew."""

from collections.abc import Sequence

import numpy

from effopd.config.schema import AccelerateConfig, AnchorRule, DirectionKind


class PlainTrigger:
    def __init__(self, config: AccelerateConfig, weights: numpy.ndarray, groups: Sequence[numpy.ndarray]) -> None:
        """`groups` are masks over the elements of the vector."""
        self.config, self.groups = config, groups
        self.anchor, self.num_updates = weights, 0
        self.previous: numpy.ndarray | None = None
        self.velocity = numpy.zeros_like(weights)
        self.path: list[numpy.ndarray] = []

    def update(self, before: numpy.ndarray) -> None:
        """An update begins from the weights `before`."""
        self.path = [*self.path, before][-self.config.history_size :]
        if self.config.anchor is AnchorRule.previous_step:
            self.anchor, self.num_updates = before, 0
        self.num_updates += 1

    def jump(self, current: numpy.ndarray, gradient: numpy.ndarray, step_size: float) -> numpy.ndarray:
        """Return the direction, and settle on `step_size`."""
        direction = self._direction(current, gradient)
        settled = current + step_size * direction
        if self.config.anchor is not AnchorRule.initial:
            self.anchor = current if self.config.anchor is AnchorRule.pre_jump else settled
            self.num_updates = 0
        if step_size != 0:
            self.path = []
        self.previous = direction
        return direction

    def _direction(self, current: numpy.ndarray, gradient: numpy.ndarray) -> numpy.ndarray:
        delta = current - self.anchor
        length = numpy.linalg.norm(delta)
        match self.config.direction:
            case DirectionKind.difference:
                return delta
            case DirectionKind.ema:
                if self.previous is None:
                    return delta
                past = self.previous / numpy.linalg.norm(self.previous)
                mean = (1 - self.config.direction_ema) * delta / length + self.config.direction_ema * past
                return length * mean / numpy.linalg.norm(mean)
            case DirectionKind.gram_pca:
                points = numpy.stack([*self.path, current])
                points = points - points.mean(axis=0)
                _, _, vectors = numpy.linalg.svd(points, full_matrices=False)
                speed, _ = numpy.polyfit(numpy.arange(len(points)), points @ vectors[0], 1)
                return self.num_updates * speed * vectors[0]
            case DirectionKind.grouped:
                direction = numpy.zeros_like(delta)
                for group in self.groups:
                    wish = max(0.0, -gradient[group] @ delta[group]) / (delta[group] @ delta[group])
                    direction[group] = wish * delta[group]
                return length * direction / numpy.linalg.norm(direction) if direction.any() else delta
            case DirectionKind.nesterov:
                self.velocity = self.config.outer_momentum * self.velocity + delta
                step = self.config.outer_momentum * self.velocity + delta
                return self.anchor + self.config.outer_lr * step - current

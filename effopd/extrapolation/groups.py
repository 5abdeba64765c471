"""The groups of parameters that may go different distances: {attention, MLP} x {bottom, middle, top} and the rest."""

import re
from collections.abc import Callable, Iterable

from effopd.extrapolation.selection import ATTENTION, MLP

GROUPS = (
    "attention.bottom", "attention.middle", "attention.top", "mlp.bottom", "mlp.middle", "mlp.top", "rest",
)  # fmt: skip

_NAMES = ((ATTENTION, 0), (MLP, 3))
_LAYER = re.compile(r"\.(\d+)\.")


def parameter_groups(names: Iterable[str]) -> Callable[[str], int]:
    """Return the function from a parameter's name to the number of its group in `GROUPS`.

    `names` are those of the whole model: its layers, numbered in the names, are cut into thirds. Embeddings, the head and
    norms outside attention and MLP are the rest.
    """
    num_layers = 1 + max((layer for name in names if (layer := _layer(name)) is not None), default=0)

    def group(name: str) -> int:
        layer = _layer(name)
        for pattern, first in _NAMES:
            if layer is not None and pattern.search(name):
                return first + 3 * layer // num_layers
        return len(GROUPS) - 1

    return group


def _layer(name: str) -> int | None:
    found = _LAYER.search(name)
    return None if found is None else int(found[1])

"""How memory is accounted for: what is there all the time, and moments of which only the largest counts."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    """One thing in memory."""

    name: str
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Things that are alive together for a while, beside all that is resident."""

    name: str
    items: tuple[Item, ...]

    @property
    def num_bytes(self) -> int:
        return sum(item.num_bytes for item in self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleMemory:
    """Memory of one GPU of a role."""

    role: str
    num_gpus: int
    """That are alike."""
    resident: tuple[Item, ...]
    moments: tuple[Moment, ...]
    budget_bytes: int
    """What the role may use of one GPU."""

    @property
    def worst(self) -> Moment:
        return max(self.moments, key=lambda moment: moment.num_bytes)

    @property
    def num_bytes(self) -> int:
        return sum(item.num_bytes for item in self.resident) + self.worst.num_bytes

    @property
    def fits(self) -> bool:
        return self.num_bytes <= self.budget_bytes

    def items(self) -> Iterator[Item]:
        """Everything at the worst moment."""
        yield from self.resident
        yield from self.worst.items

"""What a row of the table is, and all that there are, in the order in which they are defined."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .lab import Lab


class Wrong(Exception):
    """It did not go as promised; the message says what happened instead."""


@dataclass(frozen=True)
class Outcome:
    """What came of a fault, in the words that the program printed where there are any.

    Attributes:
        happened: what the run did.
        lost: of rows, steps, checkpoints.
    """

    happened: str
    lost: str


Check = Callable[["Lab"], Outcome]


@dataclass(frozen=True)
class Fault:
    """A row.

    Attributes:
        topic: what is at stake.
        name: what goes wrong.
        check: does it, and says what came of it; raises Wrong if that is not what is promised.
    """

    topic: str
    name: str
    check: Check


FAULTS: list[Fault] = []


def fault(topic: str, name: str) -> Callable[[Check], Check]:
    """A decorator that makes a row of a check.

    Raises:
        ValueError: if there is a row of that name.
    """

    def add(check: Check) -> Check:
        if any(each.name == name for each in FAULTS):
            raise ValueError(f"two rows are called {name!r}")
        FAULTS.append(Fault(topic, name, check))
        return check

    return add


def must(good: object, otherwise: str) -> None:
    """Raises Wrong with that message unless it is good."""
    if not good:
        raise Wrong(otherwise)

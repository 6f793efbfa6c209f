"""The rows of the table, in the order in which they are defined."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .lab import Lab


class BrokenPromise(Exception):
    """A fault did not end as promised; the message says what happened instead."""


@dataclass(frozen=True)
class Outcome:
    """The result of a fault."""

    happened: str  # what the run did, as it printed it
    lost: str  # rows, steps, checkpoints


Check = Callable[["Lab"], Outcome]


@dataclass(frozen=True)
class Fault:
    """A row."""

    topic: str  # the promise
    name: str  # what goes wrong
    check: Check  # causes it and returns the outcome; raises BrokenPromise


FAULTS: list[Fault] = []


def fault(topic: str, name: str) -> Callable[[Check], Check]:
    """A decorator that makes a row of a check. Raises ValueError for a name that exists."""

    def add(check: Check) -> Check:
        if any(each.name == name for each in FAULTS):
            raise ValueError(f"two rows are called {name!r}")
        FAULTS.append(Fault(topic, name, check))
        return check

    return add


def require(good: object, otherwise: str) -> None:
    """Raises BrokenPromise with a message unless `good`."""
    if not good:
        raise BrokenPromise(otherwise)

"""The order in which a benchmark's candidates are measured, and how they are held against each other."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping


def in_turns(names: Iterable[str], rounds: int) -> Iterator[str]:
    """Each name once a round, and another one first in each, so that other load and warm caches affect all alike.

    Example:
        >>> list(in_turns("ab", 2))
        ['a', 'b', 'b', 'a']
    """
    names = list(names)
    for number in range(rounds):
        for place in range(len(names)):
            yield names[(place + number) % len(names)]


def median_ratio(above: Iterable[float], below: Iterable[float]) -> float:
    """The median over rounds of one candidate's figure over another's in the same round."""
    return statistics.median(x / y for x, y in zip(above, below, strict=True))


def seconds_in_turns(
    steps: Mapping[str, Callable[[], object]], rounds: int, after_each: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """What each step, by its name, takes in each round; a step returns once the device has finished."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for name in in_turns(steps, rounds):
        began = time.perf_counter()
        steps[name]()
        seconds[name].append(time.perf_counter() - began)
        after_each()
    return seconds
